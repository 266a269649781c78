"""One side's runs: workers that are killed or stopped at random moments, heirs that go on, and what became of it."""

import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from benchmarks.agent_step.kill_ours import System
from benchmarks.agent_step.kill_work import CALLS, DONE, Order
from storage.engine import RawConnection
from tests.faults import forks

CHECKOUT = Path(__file__).resolve().parents[2]

CALM_RUNS = 7
"""Undisturbed, to learn how long a run takes; the first two warm the server up."""

PATIENCE_S = 20
"""Longest that a worker may be silent before it counts as hanging."""

Mode = Literal["killed", "stopped"]
MODES: tuple[Mode, ...] = ("killed", "stopped")

Call = tuple[str, int]
"""A run and the number of a call of it."""

_OTHERS = """
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_ANY_LEFT = f"SELECT EXISTS (SELECT {_OTHERS})"
"""Whether the server still has somebody to serve: it may commit for a client that is dead already."""

_BUSY = f"SELECT EXISTS (SELECT {_OTHERS} AND state <> 'idle')"

_END_OPEN = f"""
    SELECT pg_terminate_backend(pid) {_OTHERS}
    AND (state LIKE 'idle in%' OR (state = 'active' AND wait_event = 'ClientRead'))
"""
"""The second is a pipeline without its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Who does the work."""

    name: str
    command: Sequence[str]
    """A program that calls `kill_work.serve`."""
    variant: str
    is_ours: bool


@dataclass(slots=True)
class Findings:
    """What became of the runs of one mode."""

    runs: int = 0
    disturbed: int = 0
    """Of them, whose worker had not ended when its moment came."""
    finished: int = 0
    not_resumed: Counter[str] = field(default_factory=Counter[str])
    """What the heirs failed with."""
    old_workers: Counter[str] = field(default_factory=Counter[str])
    """How the stopped ended when they went on."""
    lost: int = 0
    """Effects that did not happen, and nothing says so."""
    repeated: int = 0
    runs_that_repeat: int = 0
    unknown: int = 0
    """Calls whose record says that nobody knows; only we have that."""
    unknown_and_missing: int = 0
    """Of them, which did not happen; they are not counted as lost."""

    def as_json(self) -> dict[str, Any]:
        """Return the figures for a file."""
        return asdict(self) | {"not_resumed": dict(self.not_resumed), "old_workers": dict(self.old_workers)}


@asynccontextmanager
async def nursery(command: Sequence[str]) -> AsyncGenerator[forks.Nursery]:
    """Yield a nursery of a program that may have an interpreter of its own; what is left of it is killed."""
    async with await anyio.open_process(command, cwd=CHECKOUT, stderr=None, start_new_session=True) as process:
        assert process.stdin is not None  # noqa: S101 -- a pipe by default
        assert process.stdout is not None  # noqa: S101 -- as above
        try:
            yield forks.Nursery(process.stdin, BufferedByteReceiveStream(process.stdout))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """One side in one database."""

    side: Side
    dsn: str
    system: System | None
    """Ours; None: the side is a rival."""
    observer: RawConnection
    worker: forks.Nursery
    heir: forks.Nursery

    async def prepare(self) -> None:
        """Make the table of the effects and the side's own."""
        await self.observer.execute("CREATE TABLE effects (run text NOT NULL, call int NOT NULL)")
        await self.worker.order({"do": "prepare", "dsn": self.dsn})
        if failed := (await _last_words(self.worker)).get("failed"):
            raise RuntimeError(f"{self.side.name} cannot be prepared: {failed}")

    async def calm_duration_s(self) -> float:
        """Return how long an undisturbed run takes, in the median, in a new process each.

        Raises:
            RuntimeError: it does not do the work exactly once even so.
        """
        durations: list[float] = []
        for number in range(CALM_RUNS):
            run = f"calm-{number}"
            await self.order(self.worker, "begin", run)
            await _begun(self.worker)
            began = time.monotonic()
            said = await self.worker.hear()
            durations.append(time.monotonic() - began)
            await _last_words(self.worker)
            done = await self.observer.fetchval("SELECT count(*) FROM effects WHERE run = $1", run)
            if said.get("ended") != DONE or done != CALLS:
                raise RuntimeError(f"{self.side.name} left {done} effects undisturbed and ended with {said}")
        return statistics.median(durations[2:])

    async def order(self, nursery: forks.Nursery, do: Literal["begin", "resume"], run: str) -> None:
        """Send a new worker process."""
        user_id = self.system.user_id if self.system else 0
        order = Order(dsn=self.dsn, run=run, variant=self.side.variant, user_id=user_id)
        await nursery.order({"do": do, "order": asdict(order)})

    async def inherit(self, run: str, *, worker_is_dead: bool) -> forks.Line:
        """Let time pass and an heir go on; return how it ended."""
        await self._let_time_pass(worker_is_dead=worker_is_dead)
        await self.order(self.heir, "resume", run)
        return await _last_words(self.heir)

    async def _let_time_pass(self, *, worker_is_dead: bool) -> None:
        """Wait until the server does nothing for the old worker any more, and let its lease lapse if it has one.

        What a stopped worker has open is ended for every side. Our transactions are by themselves, after 12 s; for the
        rivals it is a favour, because their old worker then fails instead of going on.
        """
        with anyio.fail_after(PATIENCE_S):
            while await self.observer.fetchval(_ANY_LEFT if worker_is_dead else _BUSY):
                if not worker_is_dead:
                    await self.observer.execute(_END_OPEN)
                await anyio.sleep(0.01)
        if self.system is not None:
            await self.system.let_leases_lapse()

    async def kill(self, run: str, moment_s: float, found: Findings) -> None:
        """Kill a worker at its moment and let an heir go on."""
        await self.order(self.worker, "begin", run)
        pid = await _begun(self.worker)
        await anyio.sleep(moment_s)
        _signal(pid, signal.SIGKILL)
        is_early = "ended" not in await _last_words(self.worker)
        _note(found, is_early=is_early, heir=await self.inherit(run, worker_is_dead=True))

    async def stop(self, run: str, moment_s: float, found: Findings) -> None:
        """Stop a worker at its moment, let an heir go on to the end, and then the old one."""
        await self.order(self.worker, "begin", run)
        pid = await _begun(self.worker)
        await anyio.sleep(moment_s)
        _signal(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        await anyio.sleep(0.02)  # what it has sent is with the server
        heir = await self.inherit(run, worker_is_dead=False)
        _signal(pid, signal.SIGCONT)
        old = await _last_words(self.worker)
        is_early = old.get("at", stopped) >= stopped
        _note(found, is_early=is_early, heir=heir)
        if is_early:
            found.old_workers[_outcome(old)] += 1

    async def count(self, mode: Mode, found: Findings) -> None:
        """Compare the effects with the work."""
        rows = await self.observer.fetch("SELECT run, call, count(*) AS times FROM effects GROUP BY run, call")
        times: Mapping[Call, int] = {(row["run"], row["call"]): row["times"] for row in rows}
        unknown = await self.system.unknown() if self.system else set[Call]()
        wanted = {(f"{mode}-{number}", call) for number in range(found.runs) for call in range(1, CALLS + 1)}
        missing = wanted - times.keys()
        repeats = [call for call in wanted if times.get(call, 0) > 1]
        found.lost = len(missing - unknown)
        found.repeated = sum(times[call] - 1 for call in repeats)
        found.runs_that_repeat = len({run for run, _ in repeats})
        found.unknown = len(wanted & unknown)
        found.unknown_and_missing = len(missing & unknown)


async def fight(arena: Arena, runs: int, seed: int) -> dict[str, Any]:
    """Do so many runs of each mode and return the figures."""
    await arena.prepare()
    duration_s = await arena.calm_duration_s()
    figures: dict[str, Any] = {"ms_of_a_run": round(duration_s * 1000, 1)}
    for mode in MODES:
        pick = random.Random(f"{seed}-{mode}")  # noqa: S311 -- repeatable, not secret
        found = Findings()
        for number in range(runs):
            found.runs += 1
            disturb = arena.kill if mode == "killed" else arena.stop
            await disturb(f"{mode}-{number}", pick.uniform(0, duration_s), found)
        await arena.count(mode, found)
        figures[mode] = found.as_json()
    return figures


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, number)


async def _begun(nursery: forks.Nursery) -> int:
    """Return the process of a worker that is about to work."""
    line = await nursery.hear()
    if "begins" not in line:
        raise RuntimeError(f"a worker cannot begin: {line}")
    return line["begins"]


async def _last_words(nursery: forks.Nursery) -> forks.Line:
    """Wait for a worker's end and return all it has said; one that hangs is killed."""
    said: forks.Line = {}
    while True:
        try:
            line = await nursery.hear(PATIENCE_S)
        except TimeoutError:
            if "begins" not in said:
                raise
            said["failed"] = f"silent for {PATIENCE_S} s"
            _signal(said["begins"], signal.SIGKILL)
            continue
        if "status" in line:
            return said
        said |= line


def _note(found: Findings, *, is_early: bool, heir: forks.Line) -> None:
    found.disturbed += is_early
    if heir.get("ended") == DONE:
        found.finished += 1
    else:
        found.not_resumed[_outcome(heir)] += 1


def _outcome(said: forks.Line) -> str:
    return said.get("failed") or str(said.get("ended", "died"))
