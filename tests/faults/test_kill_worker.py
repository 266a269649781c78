"""A worker is killed at a chosen moment of an execution, another one goes on: nothing is lost, nothing done twice."""

from collections.abc import Iterator

import anyio

from runtime.driver import NotOurs
from runtime.local import Local
from runtime.testing import ScriptedModel, system_on
from storage.engine import Address
from storage.models.agents import AgentExecution
from storage.tenancy import Database
from tests.faults import ledger, turns
from tests.faults.crash import ANSWER, CARD, Kind, Moment, Order, make_driver
from tests.faults.nursery import Obey, nursery

SAMPLES = 12
"""Suspensions, and as many resumptions, spread over the whole execution."""

COMMITS: tuple[Kind, ...] = ("before_commit", "in_commit", "after_commit")


class Bench:
    """One tenant's webhook, through which each attempt gets a conversation of its own."""

    def __init__(self, address: Address, database: Database, user_id: int, obey: Obey) -> None:
        self._dsn = address.dsn
        self._database = database
        self._user_id = user_id
        self._obey = obey
        self._system: Local = system_on(database, user_id, ScriptedModel())
        self._webhook_id: int | None = None

    async def attempt(self, name: str, moment: Moment | None, *, splits: bool = False) -> int:
        """Let a worker take up a message and die at `moment`, let another one finish it; return the execution."""
        if self._webhook_id is None:
            self._webhook_id = await turns.make_webhook(self._system)
        inbound_id = await turns.accept(self._system, self._webhook_id, name, "please fix the page")
        execution_id = await turns.begin(self._system, inbound_id)
        order = Order(dsn=self._dsn, user_id=self._user_id, execution_id=execution_id, moment=moment, splits=splits)
        report = await self._obey(order)
        assert report.killed is (moment is not None), f"{moment} was not reached"
        self.passed = report.passed
        await self._finish(execution_id, splits=splits)
        return execution_id

    async def _finish(self, execution_id: int, *, splits: bool) -> None:
        driver = make_driver(self._database, self._user_id, splits=splits)
        with anyio.fail_after(10):
            # The server may commit for a client that is dead already, so that its lease appears after this looked.
            while not await self._is_over(execution_id):
                await ledger.let_leases_lapse(self._database, self._user_id)
                outcome = await driver.run(self._user_id, execution_id)
                if isinstance(outcome, NotOurs):
                    await anyio.sleep(0.01)

    async def _is_over(self, execution_id: int) -> bool:
        async with self._database.begin(self._user_id, read_only=True) as db:
            return (await db.get_one(AgentExecution, execution_id)).completed_at is not None


def moments(passed: dict[Kind, int]) -> Iterator[Moment]:
    """Return the moments around every commit, and samples of all others."""
    for kind in COMMITS:
        yield from (Moment(kind=kind, number=number) for number in range(1, passed[kind] + 1))
    for kind in ("suspend", "resume"):
        step = max(passed[kind] // SAMPLES, 1)
        yield from (Moment(kind=kind, number=number) for number in range(1, passed[kind] + 1, step))


async def test_an_execution_ends_as_if_its_worker_had_not_been_killed(
    address: Address, database: Database, alice: int
) -> None:
    async with nursery() as obey:
        bench = Bench(address, database, alice, obey)
        undisturbed = await bench.attempt("undisturbed", None)
        passed = bench.passed
        expected = await turns.story(database, alice, undisturbed)
        assert (expected["cards"], expected["replies"]) == ([(CARD, "backlog")], [(ANSWER, "pending")])
        assert passed["before_commit"] == passed["in_commit"] == passed["after_commit"] >= 8

        for moment in moments(passed):
            execution_id = await bench.attempt(f"{moment.kind}-{moment.number}", moment)
            assert await turns.story(database, alice, execution_id) == expected, moment

    assert await ledger.check(database, alice) == []


async def test_a_journal_that_records_an_effect_after_it_has_committed_is_found_out(
    address: Address, database: Database, alice: int
) -> None:
    async with nursery() as obey:
        bench = Bench(address, database, alice, obey)
        undisturbed = await bench.attempt("undisturbed", None, splits=True)
        passed = bench.passed
        expected = await turns.story(database, alice, undisturbed)
        assert await ledger.check(database, alice) == []

        found: list[Moment] = []
        for number in range(1, passed["after_commit"] + 1):
            moment = Moment(kind="after_commit", number=number)
            execution_id = await bench.attempt(f"split-{number}", moment, splits=True)
            if await turns.story(database, alice, execution_id) != expected:
                found.append(moment)

    assert len(found) == 1, "the window between the reply's effect and its record"
    assert await ledger.check(database, alice) != []
