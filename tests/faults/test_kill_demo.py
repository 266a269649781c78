"""`agency demo` is killed again and again, with everything it has started; the next one repairs what it finds.

The moments are chosen by what it says and by what it has written. Each killed run meets what the ones before have left.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import asyncpg
import pytest
from sqlalchemy import text

from gateway.worker import working
from runtime.local import Local, open_local
from runtime.settings import RuntimeSettings
from storage.embedded import EmbeddedServer
from storage.settings import StorageSettings
from tests.faults import ledger
from tests.user import environment_of, make_data_dir

PATIENCE_S = 60

Moment = Callable[["Demo"], None]


@pytest.fixture
def home() -> Generator[Path]:
    """A data directory that nobody has used, whose server is stopped at the end whatever happened."""
    made = make_data_dir()
    yield made
    EmbeddedServer(made).release()
    shutil.rmtree(made, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A running demo."""

    process: "subprocess.Popen[str]"
    home: Path

    def says(self, words: str) -> None:
        """Wait until it has told this."""
        assert self.process.stderr is not None
        seen: list[str] = []
        for line in self.process.stderr:
            seen.append(line)
            if words in line:
                return
        raise AssertionError(f"ended without {words!r}: {''.join(seen)}")

    def makes(self, pattern: str) -> None:
        """Wait until there is such a file."""

        async def wait() -> None:
            with anyio.fail_after(PATIENCE_S):
                while not list(self.home.glob(pattern)):  # noqa: ASYNC110 -- another process announces no event
                    await anyio.sleep(0.001)

        anyio.run(wait)

    def writes(self, query: str) -> None:
        """Wait until this query of the demo's user has a row."""
        anyio.run(self._wait_for_row, query)

    async def _wait_for_row(self, query: str) -> None:
        data_dir = EmbeddedServer(self.home).status().data_dir
        connection = await asyncpg.connect(user="agency", database="agency", host=str(data_dir), port=5432)
        try:
            await connection.execute("SET ROLE agency_runtime")
            await connection.execute("SET app.user_id = '1'")
            with anyio.fail_after(PATIENCE_S):
                while await connection.fetchrow(query) is None:  # noqa: ASYNC110 -- as above
                    await anyio.sleep(0.001)
        finally:
            await connection.close()


def starts_its_first_server(demo: Demo) -> None:
    """Its initdb is at work."""
    demo.makes(".initdb-*")


def has_a_server(demo: Demo) -> None:
    """The server listens; the schema is not there, or not complete."""
    demo.makes("postgres-*/.s.PGSQL.5432")


def is_about_to_post(demo: Demo) -> None:
    """The webhook is there; the message is on its way."""
    demo.says("a signed message goes in")


def has_accepted(demo: Demo) -> None:
    """The message and its job are committed; nobody has looked at it."""
    demo.says("a signed message goes in")
    demo.writes("""SELECT FROM "inboundMessages" WHERE status = 'received' AND "executionId" IS NULL""")


def has_claimed(demo: Demo) -> None:
    """A worker drives the execution."""
    demo.says("a signed message goes in")
    demo.writes('SELECT FROM "agentSessions" WHERE "leaseOwner" IS NOT NULL')


def has_intended(demo: Demo) -> None:
    """The model has replied; its tools are at work."""
    demo.says("a signed message goes in")
    demo.writes("""SELECT FROM "toolExecutions" WHERE state IN ('pending', 'started')""")


def lets_a_swarm_work(demo: Demo) -> None:
    """Agents are at work."""
    demo.says("a swarm of three agents")
    demo.writes("""SELECT FROM cf_task_assignments WHERE status IN ('assigned', 'active')""")


def visits_over_mcp(demo: Demo) -> None:
    """The MCP server is a child of the demo."""
    demo.says("an MCP client connects")


def start(home: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "demo", "--json"],
        env=environment_of(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def descendants(pid: int) -> list[int]:
    """Return the processes that are `pid` or come from it and are not the server's, which is to outlive them.

    Where there is no /proc that is `pid` alone; its MCP server then finds its stdin closed.
    """
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if b"gateway.cli" in (process / "cmdline").read_bytes():
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found


def kill(process: "subprocess.Popen[str]") -> None:
    """End a demo and its MCP server, which is in a group of its own, with no word of farewell."""
    for pid in descendants(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@contextmanager
def running(home: Path) -> Generator[Demo]:
    process = start(home)
    try:
        yield Demo(process=process, home=home)
    finally:
        kill(process)


@asynccontextmanager
async def opened(home: Path) -> AsyncGenerator[Local]:
    """Come as another process of the same user."""
    async with open_local(StorageSettings(data_dir=home), RuntimeSettings(model="offline")) as local:
        yield local


async def accepted(local: Local) -> set[int]:
    async with local.database.begin(local.user_id, read_only=True) as db:
        return set(await db.scalars(text('SELECT id FROM "inboundMessages"')))


async def let_jobs_lapse(local: Local) -> None:
    """Let it be a minute later for the job engine too."""
    async with local.database.begin_dispatch() as db:
        await db.execute(text("UPDATE pgqueuer SET heartbeat = now() - interval '1 minute' WHERE status = 'picked'"))


async def kill_when(home: Path, moment: Moment) -> set[int]:
    """Start a demo, kill it at a moment, let a minute go by, and return the messages that had been accepted."""

    def run() -> None:
        with running(home) as demo:
            moment(demo)

    await anyio.to_thread.run_sync(run)
    async with opened(home) as local:
        assert await ledger.lasting(local.database, local.user_id) == [], moment.__name__
        await ledger.let_leases_lapse(local.database, local.user_id)
        await let_jobs_lapse(local)
        return await accepted(local)


@pytest.mark.timeout(300)
async def test_a_demo_that_was_killed_at_many_moments_is_repaired_by_the_next(home: Path) -> None:
    moments: list[Moment] = [
        starts_its_first_server,
        has_a_server,
        is_about_to_post,
        has_accepted,
        has_claimed,
        has_intended,
        lets_a_swarm_work,
        visits_over_mcp,
    ]
    acknowledged: set[int] = set()
    for moment in moments:
        acknowledged |= await kill_when(home, moment)

    finished = start(home)
    stdout, stderr = await anyio.to_thread.run_sync(finished.communicate)
    assert finished.returncode == 0, stderr
    report = json.loads(stdout)
    acknowledged |= {message["id"] for message in report["messages"]}

    async with opened(home) as local:
        async with working(local):
            await ledger.settled(local.database, local.user_id)
        assert len(acknowledged) >= 6
        assert await ledger.check(local.database, local.user_id, acknowledged) == []
