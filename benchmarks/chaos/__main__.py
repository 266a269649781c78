"""Kill workers at random over many conversations and count what was lost or done twice: `make chaos KILLS=1000`.

Two workers at once, each the product's own in a process of its own, die at a random suspension of their event loops, by
seed. Every fifth is first stopped there (SIGSTOP), goes on when others have taken over, and dies later. `--dsn` names a
login that may create databases and roles, and may end other connections.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import anyio
from sqlalchemy import func, select

from benchmarks.chaos.participants import Crowd
from benchmarks.chaos.time_lapse import Lapses
from benchmarks.chaos.worker import PROGRAM
from benchmarks.harness import Target, record, server_dsn
from runtime.driver import MAX_DEATHS
from storage.models.agents import AgentExecution, ToolExecution
from storage.models.messaging import InboundMessage, OutboundMessage
from storage.tenancy import Database
from storage.testing import add_user, ensure_template, fresh_address
from tests.faults import forks, ledger, three_turns
from tests.faults.receiver import Receiver, receiving

WORKERS = 2

SHORTEST_LIFE, LONGEST_LIFE = 50, 1600
"""Suspensions of the event loop that a worker lives for; a turn takes some 150."""

STOPPED_SHARE = 0.2
"""Of the workers are stopped before they die."""

STOPPED_S = 1.5
"""How long a stopped worker sleeps while the other one takes over and goes on."""

TICK_S = 0.02

LONGEST_TAKE_OVER_S = 2.0
"""In the median; where a take-over's own worker dies before it claims, the job engine notices after 30 s."""


@dataclass(slots=True)
class Tally:
    """What was done to the workers."""

    wanted: int
    kills: int = 0
    stops: int = 0
    ordered: int = 0

    @property
    def is_over(self) -> bool:
        """Whether enough have died."""
        return self.kills >= self.wanted


@dataclass(slots=True, kw_only=True)
class Arena:
    """Everything that the deaths happen in."""

    dsn: str
    user_id: int
    url: str
    seed: int
    lapses: Lapses
    tally: Tally
    calm: anyio.Event = field(default_factory=anyio.Event)
    """Set when nobody dies any more and all is at rest."""

    async def keep_a_worker(self, slot: int) -> None:
        """Let one worker after the other live and die; when enough have died, let one work until all is at rest."""
        pick = random.Random(f"{self.seed}-{slot}")  # noqa: S311 -- repeatable, not secret
        async with forks.nursery(PROGRAM) as nursery:
            while not self.tally.is_over:
                await self._live_and_die(nursery, pick)
            await nursery.order(self._order(dies_at=None))
            await self.calm.wait()

    def _order(self, *, dies_at: int | None, kind: str = "suspend", stops_at: int | None = None) -> forks.Line:
        return {
            "dsn": self.dsn,
            "user_id": self.user_id,
            "url": self.url,
            "dies_at": dies_at,
            "kind": kind,
            "stops_at": stops_at,
        }

    async def _live_and_die(self, nursery: forks.Nursery, pick: random.Random) -> None:
        dies_at = pick.randint(SHORTEST_LIFE, LONGEST_LIFE)
        stops_at = pick.randint(SHORTEST_LIFE // 2, dies_at - 1) if pick.random() < STOPPED_SHARE else None
        kind = pick.choice(("suspend", "resume"))
        await nursery.order(self._order(dies_at=dies_at, kind=kind, stops_at=stops_at))
        born = await nursery.hear()
        while "status" not in (line := await nursery.hear(timeout_s=300)):
            await self._stop_for_a_while(born, line["stops"])
        if line["status"] != -signal.SIGKILL:
            sys.exit(f"chaos: a worker ended with {line['status']} by itself; its traceback is above")
        self.tally.kills += 1
        self.lapses.gone.add(born["owner"])

    async def _stop_for_a_while(self, born: forks.Line, backends: list[int]) -> None:
        self.tally.stops += 1
        try:
            await self.lapses.release_locks(backends)
            self.lapses.gone.add(born["owner"])
            await anyio.sleep(STOPPED_S)
        finally:
            self.lapses.gone.discard(born["owner"])
            os.kill(born["pid"], signal.SIGCONT)

    async def watch(self) -> None:
        """Let leases lapse until all is at rest."""
        while not self.calm.is_set():
            await self.lapses.tick()
            await anyio.sleep(TICK_S)


async def run(server: str, kills: int, seed: int) -> dict[str, Any]:
    """Return the figures of so many deaths."""
    template = await ensure_template(server)
    async with fresh_address(server, template) as address, receiving() as receiver:
        database = Database(address, pool_size=10)
        user_id = await add_user(database, "chaos")
        webhook_id = await three_turns.make_webhook(database, user_id, receiver.url)
        crowd = Crowd(database, user_id, webhook_id)
        lapses = Lapses(database, user_id)
        tally = Tally(wanted=kills)
        arena = Arena(dsn=address.dsn, user_id=user_id, url=receiver.url, seed=seed, lapses=lapses, tally=tally)
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(arena.watch)
            for slot in range(WORKERS):
                tasks.start_soon(arena.keep_a_worker, slot)
            tasks.start_soon(_leave_when_over, crowd, tally)
            await crowd.talk()
            await _delivered(database, user_id)
            arena.calm.set()
        figures = {
            "seed": seed,
            "kills": tally.kills,
            "stopped_and_continued": tally.stops,
            "seconds": round(time.monotonic() - began),
            "take_over_s": _spread(lapses.latencies_s),
            "leases": "made to lapse by SQL at the death; in reality a take-over takes up to 15 s longer",
            **await _counted(database, user_id, receiver, crowd),
        }
        await database.close()
    return figures


async def _leave_when_over(crowd: Crowd, tally: Tally) -> None:
    while not tally.is_over:  # noqa: ASYNC110 -- looked at rarely, counted in several places
        await anyio.sleep(0.1)
    crowd.is_leaving = True


async def _delivered(database: Database, user_id: int) -> None:
    """Wait until the outbox is empty."""
    waiting = select(func.count()).where(OutboundMessage.status.in_(("pending", "sending")))
    with anyio.fail_after(120):
        while True:
            async with database.begin(user_id, read_only=True) as db:
                if await db.scalar(waiting) == 0:
                    return
            await anyio.sleep(0.1)


def _spread(latencies_s: list[float]) -> dict[str, float]:
    if len(latencies_s) < 2:
        return {"count": len(latencies_s), "p50": 0.0, "p95": 0.0, "max": max(latencies_s, default=0.0)}
    cuts = statistics.quantiles(latencies_s, n=20)
    values = {"p50": statistics.median(latencies_s), "p95": cuts[18], "max": max(latencies_s)}
    return {"count": len(latencies_s)} | {name: round(value, 3) for name, value in values.items()}


async def _counted(database: Database, user_id: int, receiver: Receiver, crowd: Crowd) -> dict[str, Any]:
    broken = await ledger.check(database, user_id, crowd.acknowledged)
    outside = await three_turns.broken_outside(database, user_id, receiver)
    async with database.begin(user_id, read_only=True) as db:
        ended = (await db.execute(select(AgentExecution.status, func.count()).group_by(AgentExecution.status))).all()
        calls = (await db.execute(select(ToolExecution.state, func.count()).group_by(ToolExecution.state))).all()
        sent = select(OutboundMessage.inbound_message_id).where(OutboundMessage.status == "sent")
        answered = set(await db.scalars(sent))
        given_up = set(await db.scalars(select(InboundMessage.id).where(InboundMessage.status == "error")))
    return {
        "messages": len(crowd.acknowledged),
        "given_up_and_shown": len(given_up),
        "lost": len(set(crowd.acknowledged) - answered - given_up),
        "executions": {row[0]: row[1] for row in ended},
        "calls": {row[0]: row[1] for row in calls},
        "requests_repeated_under_their_key": {path: repeated(receiver, path) for path in ("charge", "replies")},
        "broken_promises": [*broken, *outside],
    }


def repeated(receiver: Receiver, path: str) -> int:
    """Return how many requests the receiver knew by their keys to be repetitions."""
    return len(receiver.to(path)) - len(receiver.keys(path))


def main() -> None:
    """Record the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", help="a login that may create databases and roles; default: an embedded server")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with server_dsn(options.dsn) as dsn:
        found = anyio.run(run, dsn, options.kills, options.seed)
    broken, unknown = found["broken_promises"], found["calls"].get("unknown", 0)
    latency = found["take_over_s"]
    for promise in broken[:20]:
        print(promise, file=sys.stderr)
    record(
        "chaos",
        found,
        headline=f"{found['kills']} kills and {found['stopped_and_continued']} stops over {found['messages']} messages"
        f": {len(broken)} promises broken, {found['lost']} messages lost, {found['given_up_and_shown']} given up after "
        f"{MAX_DEATHS} deaths and shown as errors, {unknown} effects outside told to be unknown; "
        f"taken over {latency['p50']:g} s (p95 {latency['p95']:g} s) after the lease, "
        "which was made to lapse at the death instead of up to 15 s later",
        targets=(
            Target(name="kills", value=found["kills"], at_least=options.kills),
            Target(name="promises broken", value=len(broken), at_most=0),
            Target(name="messages lost", value=found["lost"], at_most=0),
            Target(name="median take-over after the lease, s", value=latency["p50"], at_most=LONGEST_TAKE_OVER_S),
        ),
    )


if __name__ == "__main__":
    main()
