"""A worker is killed anywhere in three rich turns, another one goes on: every promise about every kind of effect holds.

Inside our database each effect takes place exactly once; a charge, under one key; a fax, at most once, or it is said
that nobody knows; a reply arrives and is confirmed once. `make chaos` dies at every moment, a test run at samples.
"""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from storage.engine import Address
from storage.tenancy import Database
from tests.faults import forks, ledger, three_turns
from tests.faults.crash import Kind, Moment
from tests.faults.receiver import Receiver, receiving
from tests.faults.three_turns import Story, Worker
from tests.faults.three_turns_worker import PROGRAM, Order

EVERYTHING = three_turns.TASKS[-1:]
"""The one turn in which each kind of tool is called."""

COMMITS: tuple[Kind, ...] = ("before_commit", "in_commit", "after_commit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A worker process that dies to order, one in this process that goes on, and the world outside."""

    dsn: str
    webhook_id: int
    tasks: Sequence[str]
    nursery: forks.Nursery
    receiver: Receiver
    worker: Worker
    journal: str

    async def begin(self, name: str) -> list[int]:
        """Let a participant speak."""
        local = self.worker.local
        return await three_turns.begin(local.database, local.user_id, self.webhook_id, name, self.tasks)

    async def order(self, execution_ids: list[int], moment: Moment | None) -> forks.Ended:
        """Let the worker process drive these executions and die at a moment, or survive."""
        order = Order(
            dsn=self.dsn,
            user_id=self.worker.local.user_id,
            url=self.receiver.url,
            execution_ids=execution_ids,
            moment=moment,
            journal=self.journal,
        )
        return await self.nursery.obeyed(order.as_line())

    async def undisturbed(self) -> tuple[Story, dict[Kind, int]]:
        """Return the story that every other one must equal, and what was passed on the way."""
        execution_ids = await self.begin("undisturbed")
        ended = await self.order(execution_ids, None)
        told = await self.story(execution_ids)
        assert [turn["execution"][0] for turn in told] == ["completed"] * len(self.tasks)
        assert [turn["replies"][0][1] for turn in told] == ["sent"] * len(self.tasks)
        assert three_turns.unknown_in(told) == 0
        return told, ended.said[0]["passed"]

    async def killed_at(self, *moments: Moment) -> Story:
        """Return the story of a run whose workers died one after the other, each at the next moment it reached."""
        execution_ids = await self.begin("-".join(f"{moment.kind}-{moment.number}" for moment in moments))
        for moment in moments:
            await three_turns.let_time_pass(self.worker.local.database, self.worker.local.user_id)
            ended = await self.order(execution_ids, moment)
            assert ended.killed or moment != moments[0], f"{moment} was not reached"
        await three_turns.finish(self.worker, execution_ids)
        return await self.story(execution_ids)

    async def story(self, execution_ids: Sequence[int]) -> Story:
        """Return what these executions have left."""
        return await three_turns.story(self.worker.local.database, self.worker.local.user_id, execution_ids)

    async def broken(self) -> list[str]:
        """Return every promise that is broken, inside or outside."""
        local = self.worker.local
        return [
            *await ledger.check(local.database, local.user_id),
            *await three_turns.broken_outside(local.database, local.user_id, self.receiver),
        ]


@asynccontextmanager
async def bench(
    address: Address,
    database: Database,
    user_id: int,
    *,
    tasks: Sequence[str] = three_turns.TASKS,
    journal: str = "sound",
) -> AsyncGenerator[Bench]:
    """Yield a bench whose participants say `tasks`; `journal` is what all its workers have."""
    async with (
        forks.nursery(PROGRAM) as nursery,
        receiving() as receiver,
        three_turns.working_on(database, user_id, receiver.url, journal=journal) as worker,
    ):
        yield Bench(
            dsn=address.dsn,
            webhook_id=await three_turns.make_webhook(database, user_id, receiver.url),
            tasks=tasks,
            nursery=nursery,
            receiver=receiver,
            worker=worker,
            journal=journal,
        )


def numbered(kind: Kind, passed: dict[Kind, int], step: int = 1) -> list[Moment]:
    """Return every `step`-th moment of this kind."""
    return [Moment(kind=kind, number=number) for number in range(1, passed[kind] + 1, step)]


async def compare(on: Bench, moments: Sequence[Moment], expected: Story) -> int:
    """Die at each of these moments and demand the same story each time; return how many faxes were left unknown."""
    unknown = 0
    for moment in moments:
        told = await on.killed_at(moment)
        unknown += three_turns.unknown_in(told)
        assert three_turns.as_if_known(told) == expected, moment
    assert await on.broken() == []
    return unknown


@pytest.mark.parametrize("kind", COMMITS)
async def test_a_turn_with_every_kind_of_effect_survives_a_death_around_each_of_its_commits(
    address: Address, database: Database, alice: int, kind: Kind
) -> None:
    async with bench(address, database, alice, tasks=EVERYTHING) as on:
        expected, passed = await on.undisturbed()
        unknown = await compare(on, numbered(kind, passed), expected)
    assert passed["before_commit"] == passed["in_commit"] == passed["after_commit"] >= 10
    # From the moment that the record of its beginning may be committed until its result surely is.
    assert 1 <= unknown <= 2


@pytest.mark.parametrize(("kind", "step"), [("suspend", 53), ("resume", 59)])
async def test_three_turns_survive_a_death_at_any_suspension(
    address: Address,
    database: Database,
    alice: int,
    kind: Kind,
    step: int,
    every_moment: bool,  # noqa: FBT001 -- a fixture
) -> None:
    async with bench(address, database, alice) as on:
        expected, passed = await on.undisturbed()
        # The last ones may not come: how often a loop suspends depends on how much one read of a socket returns.
        moments = numbered(kind, passed, 1 if every_moment else step)
        reached = [moment for moment in moments if moment.number <= passed[kind] - 10]
        commits = [moment for one in COMMITS for moment in numbered(one, passed)] if every_moment else []
        await compare(on, [*reached, *commits], expected)
    assert len(reached) >= 6


async def test_three_turns_survive_that_those_who_repair_them_die_too(
    address: Address,
    database: Database,
    alice: int,
    every_moment: bool,  # noqa: FBT001 -- a fixture
) -> None:
    seeds = range(300 if every_moment else 8)
    async with bench(address, database, alice) as on:
        expected, passed = await on.undisturbed()
        for seed in seeds:
            pick = random.Random(seed)  # noqa: S311 -- repeatable, not secret
            deaths = pick.choice((2, 2, 3))
            kinds: list[Kind] = pick.choices(("suspend", "resume"), k=deaths)
            moments = [Moment(kind=kind, number=pick.randint(1, passed[kind] // deaths)) for kind in kinds]
            assert three_turns.as_if_known(await on.killed_at(*moments)) == expected, (seed, moments)
        assert await on.broken() == []


async def test_a_journal_that_commits_an_effect_before_its_record_is_found_out(
    address: Address, database: Database, alice: int
) -> None:
    async with bench(address, database, alice, tasks=["reply"], journal="split") as on:
        expected, passed = await on.undisturbed()
        assert await on.broken() == []
        told = [await on.killed_at(moment) for moment in numbered("after_commit", passed)]
        assert sum(story != expected for story in told) == 1, "the window between the reply's effect and its record"
        assert await on.broken() != []


async def test_a_journal_that_does_not_record_that_an_external_tool_begins_is_found_out(
    address: Address, database: Database, alice: int
) -> None:
    async with bench(address, database, alice, tasks=["fax"], journal="forgetful") as on:
        _, passed = await on.undisturbed()
        assert await on.broken() == []
        for moment in numbered("before_commit", passed):
            await on.killed_at(moment)
        assert any("was sent 2 times" in line for line in await on.broken())
