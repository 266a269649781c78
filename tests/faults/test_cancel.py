"""A driver is cancelled at each of its suspensions, another one goes on: nothing is lost, nothing done twice.

Cancellation is what a worker's orderly end, a lost client and a time limit come to. A transaction that is cancelled
while it commits may have committed, so the driver must not believe that it has not.
"""

import types
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from sqlalchemy import select

from storage.engine import Address
from storage.models.agents import AgentExecution, AgentSession
from storage.tenancy import Database
from tests.faults import ledger, three_turns
from tests.faults.receiver import Receiver, receiving
from tests.faults.three_turns import Story, Worker

TASKS = ("fax reply",)
"""An effect that nobody can repeat and one that commits with its record."""


class Canceller:
    """Drives a coroutine by hand and cancels it at its `at`-th suspension, whatever it is waiting for there."""

    def __init__(self, at: int) -> None:
        self.passed = 0
        self._at = at
        self._scope = anyio.CancelScope()

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> bool:
        """Return whether it was cancelled before its end."""
        with self._scope:
            await self._drive(coroutine)
        return self.passed >= self._at

    @types.coroutine
    def _drive(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                awaited = coroutine.send(value) if error is None else coroutine.throw(error)
            except StopIteration as end:
                return end.value
            self.passed += 1
            if self.passed == self._at:
                self._scope.cancel()
            value, error = None, None
            try:
                value = yield awaited
            except BaseException as thrown:  # noqa: BLE001 -- goes into the coroutine, cancellation above all
                error = thrown


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A worker that is cancelled, and one that goes on, on connections of its own."""

    cancelled: Worker
    worker: Worker
    webhook_id: int
    receiver: Receiver

    async def attempt(self, at: int) -> tuple[Story, bool, bool]:
        """Cancel a run at a suspension; return its story, whether it came so far, and whether it kept its lease."""
        local = self.worker.local
        (execution_id,) = await three_turns.begin(
            local.database, local.user_id, self.webhook_id, f"participant-{at}", TASKS
        )
        canceller = Canceller(at)
        was_cancelled = await canceller.run(self.cancelled.local.driver.run(local.user_id, execution_id))
        await self._no_connection_is_held()
        keeps_lease = await self._is_leased(execution_id)
        await three_turns.finish(self.worker, [execution_id])
        told = await three_turns.story(local.database, local.user_id, [execution_id])
        return told, was_cancelled, keeps_lease

    async def _no_connection_is_held(self) -> None:
        """SQLAlchemy ends a cancelled transaction in a task of its own, which is waited for here."""
        pool: Any = self.cancelled.local.database.engine.pool
        with anyio.fail_after(5):
            while pool.checkedout():  # noqa: ASYNC110 -- the pool announces no event
                await anyio.sleep(0.001)

    async def _is_leased(self, execution_id: int) -> bool:
        statement = select(AgentSession.lease_owner).join(AgentExecution, AgentExecution.session_id == AgentSession.id)
        async with self.worker.local.database.begin(self.worker.local.user_id, read_only=True) as db:
            return await db.scalar(statement.where(AgentExecution.id == execution_id)) is not None

    async def broken(self) -> list[str]:
        """Return every promise that is broken, inside or outside."""
        local = self.worker.local
        return [
            *await ledger.check(local.database, local.user_id),
            *await three_turns.broken_outside(local.database, local.user_id, self.receiver),
        ]


@asynccontextmanager
async def bench(address: Address, database: Database, user_id: int, *, journal: str) -> AsyncGenerator[Bench]:
    """Yield a bench; `journal` is what both workers have."""
    cancelled = Database(address, pool_size=1)
    async with (
        receiving() as receiver,
        three_turns.working_on(cancelled, user_id, receiver.url, journal=journal) as victim,
        three_turns.working_on(database, user_id, receiver.url, journal=journal) as worker,
    ):
        webhook_id = await three_turns.make_webhook(database, user_id, receiver.url)
        yield Bench(cancelled=victim, worker=worker, webhook_id=webhook_id, receiver=receiver)
    await cancelled.close()


async def test_a_run_ends_as_if_it_had_not_been_cancelled_at_any_of_its_suspensions(
    address: Address, database: Database, alice: int
) -> None:
    async with bench(address, database, alice, journal="sound") as on:
        expected, was_cancelled, _ = await on.attempt(10_000)
        assert not was_cancelled
        kept: list[int] = []
        unknown = at = 0
        while was_cancelled or at == 0:
            at += 1
            told, was_cancelled, keeps_lease = await on.attempt(at)
            assert three_turns.as_if_known(told) == expected, f"suspension {at}"
            unknown += three_turns.unknown_in(told)
            kept += [at] if keeps_lease else []
        assert await on.broken() == []
    assert at > 50, "that many suspensions"
    assert unknown >= 2, "the fax was on its way"
    # Cancelled while its claim committed a driver does not know of its lease, which then lapses; no other one is kept.
    assert len(kept) <= 3, kept
    assert max(kept, default=0) < at // 4, kept


async def test_a_journal_that_commits_an_effect_before_its_record_is_found_out_by_cancelling(
    address: Address, database: Database, alice: int
) -> None:
    async with bench(address, database, alice, journal="split") as on:
        replies, at = 1, 0
        while replies == 1:
            at += 1
            (told,), was_cancelled, _ = await on.attempt(at)
            assert was_cancelled, "no suspension gave it away"
            replies = len(told["replies"])
        assert any("answered more than once" in line for line in await on.broken())
