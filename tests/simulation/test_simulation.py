"""Thousands of seeded lives of the product's driver: crashes, zombies, lost answers, people, and nothing broken after.

A seed that fails prints its number; `simulate(number)` plays the same again.
"""

import logging
from collections.abc import Generator

import pytest
from anyio.to_thread import run_sync

from runtime.testing import MemoryJournal
from runtime.testing.memory_journal import Fenced
from storage.engine import Address
from tests.contract.worlds import USER, outcome_of, postgres_world, rows_of
from tests.simulation.broken import without_fence
from tests.simulation.ledger import broken_promises
from tests.simulation.town import MakeJournal, Town, simulate

SEEDS, SHARE = 2_000, 250
REPLAYED = 50


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    """Let the driver's warnings alone, of which thousands of accidents make too many."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def problems_of(seed: int, make: MakeJournal = MemoryJournal) -> list[str]:
    """Return what went wrong in a town, the end of the program included."""
    try:
        return broken_promises(simulate(seed, make))
    except Exception as error:  # noqa: BLE001 -- whatever it is, the seed has to be told
        return [repr(error)]


@pytest.mark.parametrize("first", range(0, SEEDS, SHARE))
def test_nothing_is_broken_whatever_happens_to_the_workers(first: int) -> None:
    failed = {seed: problems for seed in range(first, first + SHARE) if (problems := problems_of(seed))}
    assert not failed, f"play it again with simulate({min(failed)})"


def trace_of(town: Town) -> list[tuple[object, ...]]:
    return [(record.at, record.who, record.name, record.answer) for record in town.records]


@pytest.mark.parametrize("seed", range(0, SEEDS, 100))
def test_a_seed_is_the_same_life_every_time(seed: int) -> None:
    first, second = simulate(seed), simulate(seed)
    assert trace_of(first) == trace_of(second)
    # But for how long a tool has taken in real time.
    for town in (first, second):
        for call in town.store.calls.values():
            call.duration_ms = None
    assert rows_of(first.store) == rows_of(second.store)


def test_another_seed_is_another_life() -> None:
    assert trace_of(simulate(1)) != trace_of(simulate(2))


def test_the_accidents_do_happen() -> None:
    """A simulation in which nothing goes wrong would prove nothing."""
    towns = [simulate(seed) for seed in range(100)]
    refused = {record.name for town in towns for record in town.records if isinstance(record.answer, type)}
    states = {call.state for town in towns for call in town.store.calls.values()}
    dead = [worker for town in towns for worker in town.workers if worker.is_dead]
    frozen = [worker for town in towns for worker in town.workers if worker.frozen_until]
    assert {"record_reply", "tool_commit", "begin", "ending"} <= refused
    assert {"done", "unknown", "cancelled"} <= states
    assert len(dead) > 20
    assert len(frozen) > 20


@pytest.mark.parametrize("statement", ["append", "t1", "t2"])
def test_a_journal_that_does_not_compare_the_epoch_is_found_out(statement: Fenced) -> None:
    """`release` and `renew` do no lasting harm without their fence; tests/contract has the proof for those."""
    assert any(problems_of(seed, without_fence(statement)) for seed in range(SEEDS))


async def test_lives_played_again_on_postgres_get_the_same_answers_and_leave_the_same_rows(
    address: Address, alice: int
) -> None:
    assert alice == USER
    async with postgres_world(address) as postgres:
        for seed in range(REPLAYED):
            town = await run_sync(simulate, seed)
            await postgres.wipe()
            for number, record in enumerate(town.records):
                await postgres.at(record.at)
                answer = await outcome_of(record.op, postgres)
                assert answer == record.answer, f"seed {seed}, command {number}: {record.name} of {record.who}"
            assert await postgres.rows() == rows_of(town.store), f"the rows of seed {seed}"
