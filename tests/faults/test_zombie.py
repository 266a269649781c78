"""A worker is stopped (SIGSTOP) past its lease and goes on when another one has taken over: it writes nothing more."""

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from sqlalchemy import text

from storage.engine import Address
from storage.tenancy import Database
from tests.faults import forks, ledger, three_turns
from tests.faults.receiver import Post, Receiver, receiving
from tests.faults.three_turns import Story, Worker
from tests.faults.three_turns_worker import PROGRAM, Order

TASKS = ("charge fax\nreply",)

STOPS = (("think", 1, 0), ("think", 2, 0), ("think", 3, 0), ("charge", 1, 0), ("fax", 1, 1))
"""Where a worker is stopped: what it waits for, for the how-manieth time, and how many faxes that leaves unknown."""

TABLES = (
    "agentSessions",
    "agentExecutions",
    "agentSteps",
    "toolExecutions",
    "inboundMessages",
    "outboundMessages",
    "auditLogs",
)
"""Where a worker leaves traces."""


class Gate:
    """Holds the `number`-th request to `path` until it may go on; all others pass."""

    def __init__(self, receiver: Receiver, path: str, number: int) -> None:
        self._receiver = receiver
        self._wanted = (path, len(receiver.to(path)) + number)
        self.reached = anyio.Event()
        self.opened = anyio.Event()

    async def hold(self, post: Post) -> None:
        """Be the receiver's `hold`."""
        if (post.path, len(self._receiver.to(post.path))) == self._wanted:
            self.reached.set()
            await self.opened.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlived:
    """What became of an execution whose first worker was stopped."""

    story: Story
    outcome: str
    """The first worker's."""
    before: dict[str, Any]
    """All rows and requests when it was let go on."""
    after: dict[str, Any]
    """The same when it had ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A worker process that is stopped, and a worker here that takes over."""

    dsn: str
    nursery: forks.Nursery
    receiver: Receiver
    worker: Worker
    webhook_id: int
    journal: str

    async def begin(self, name: str) -> list[int]:
        """Let a participant speak."""
        local = self.worker.local
        return await three_turns.begin(local.database, local.user_id, self.webhook_id, name, TASKS)

    async def story(self, execution_ids: list[int]) -> Story:
        """Return what these executions have left."""
        return await three_turns.story(self.worker.local.database, self.worker.local.user_id, execution_ids)

    async def undisturbed(self) -> Story:
        """Return the story that every other one must equal."""
        execution_ids = await self.begin("undisturbed")
        await self.worker.work(execution_ids)
        return await self.story(execution_ids)

    async def outlived(self, path: str, number: int) -> Outlived:
        """Stop a worker while its `number`-th request to `path` is under way, and let it go on after another's end."""
        execution_ids = await self.begin(f"{path}-{number}")
        gate = Gate(self.receiver, path, number)
        self.receiver.hold = gate.hold
        pid = await self.start(execution_ids)
        try:
            with anyio.fail_after(20):
                await gate.reached.wait()
            os.kill(pid, signal.SIGSTOP)
            await three_turns.finish(self.worker, execution_ids)
            before = await self.traces()
        finally:
            os.kill(pid, signal.SIGCONT)
            gate.opened.set()
        outcome = await self.outcome()
        return Outlived(
            story=await self.story(execution_ids), outcome=outcome, before=before, after=await self.traces()
        )

    async def start(self, execution_ids: list[int]) -> int:
        """Let the worker process begin, and return its id."""
        order = Order(
            dsn=self.dsn,
            user_id=self.worker.local.user_id,
            url=self.receiver.url,
            execution_ids=execution_ids,
            journal=self.journal,
            asks=True,
        )
        await self.nursery.order(order.as_line())
        return (await self.nursery.hear())["pid"]

    async def outcome(self) -> str:
        """Wait for the worker process's end and return what it says became of its run."""
        said = (await self.nursery.ended()).said
        return said[0]["outcomes"][0]

    async def traces(self) -> dict[str, Any]:
        """Return every row that a worker may have written, and the requests that have arrived."""
        found: dict[str, Any] = {"requests": len(self.receiver.posts)}
        async with self.worker.local.database.begin(self.worker.local.user_id, read_only=True) as db:
            for table in TABLES:
                rows = await db.scalars(text(f'SELECT to_jsonb(t) FROM "{table}" t ORDER BY to_jsonb(t)::text'))  # noqa: S608 -- constants
                found[table] = rows.all()
        return found

    async def broken(self) -> list[str]:
        """Return every promise that is broken, inside or outside."""
        local = self.worker.local
        return [
            *await ledger.check(local.database, local.user_id),
            *await three_turns.broken_outside(local.database, local.user_id, self.receiver),
        ]


@asynccontextmanager
async def bench(address: Address, database: Database, user_id: int, *, journal: str = "sound") -> AsyncGenerator[Bench]:
    """Yield a bench; `journal` is what both workers have."""
    async with (
        forks.nursery(PROGRAM) as nursery,
        receiving() as receiver,
        three_turns.working_on(database, user_id, receiver.url, journal=journal) as worker,
    ):
        yield Bench(
            dsn=address.dsn,
            nursery=nursery,
            receiver=receiver,
            worker=worker,
            webhook_id=await three_turns.make_webhook(database, user_id, receiver.url),
            journal=journal,
        )


async def test_a_worker_that_was_stopped_past_its_lease_writes_nothing_more(
    address: Address, database: Database, alice: int
) -> None:
    async with bench(address, database, alice) as on:
        expected = await on.undisturbed()
        for path, number, unknown in STOPS:
            outlived = await on.outlived(path, number)
            assert outlived.outcome == "NotOurs", (path, number)
            assert outlived.before == outlived.after, (path, number)
            assert three_turns.as_if_known(outlived.story) == expected, (path, number)
            assert three_turns.unknown_in(outlived.story) == unknown, (path, number)
        assert await on.broken() == []


async def test_a_worker_that_was_stopped_writes_nothing_while_another_one_is_at_work(
    address: Address, database: Database, alice: int
) -> None:
    async with bench(address, database, alice) as on:
        expected = await on.undisturbed()
        execution_ids = await on.begin("anna")
        thinking, charging = Gate(on.receiver, "think", 1), Gate(on.receiver, "charge", 1)

        async def hold(post: Post) -> None:
            await thinking.hold(post)
            await charging.hold(post)

        on.receiver.hold = hold
        pid = await on.start(execution_ids)
        with anyio.fail_after(20):
            await thinking.reached.wait()
        os.kill(pid, signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(three_turns.finish, on.worker, execution_ids)
            with anyio.fail_after(20):
                await charging.reached.wait()
            before = await on.traces()
            os.kill(pid, signal.SIGCONT)
            thinking.opened.set()
            assert await on.outcome() == "NotOurs"
            assert await on.traces() == before
            charging.opened.set()
        assert await on.story(execution_ids) == expected
        assert await on.broken() == []


async def test_a_journal_without_its_fence_is_found_out(address: Address, database: Database, alice: int) -> None:
    async with bench(address, database, alice, journal="unfenced") as on:
        outlived = await on.outlived("think", 3)
        assert outlived.before != outlived.after
        assert await on.broken() != []
