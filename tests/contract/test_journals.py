"""What every `Journal` answers: the one in memory and the one on Postgres, command by command and row by row."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import journal
from runtime.approvals import Permit
from runtime.errors import ApprovalGoneError, LeaseLostError
from runtime.events import ExecutionEnded, ToolCall, UserSpoke
from runtime.journal_port import Answered, Claim, Granted
from runtime.testing import call_reply
from storage.engine import Address
from tests.contract.fences import (
    fenced_statements,
    modules_that_write_leases,
    sql_of,
    statements_with_an_epoch,
    without_fence,
)
from tests.contract.programs import (
    COMMANDS,
    STORIES,
    Step,
    Told,
    owner_of,
    read_step,
    set_up,
    settled,
    told_in_full,
)
from tests.contract.worlds import (
    USER,
    MemoryWorld,
    PostgresWorld,
    World,
    end,
    later,
    outcome_of,
    postgres_world,
    settle,
)

EXAMPLES = 40

NUMBERS = st.integers(0, 7)
CHAPTERS = st.tuples(st.sampled_from(STORIES), NUMBERS, NUMBERS, NUMBERS)
PROGRAMS = st.lists(CHAPTERS, min_size=8, max_size=20).map(told_in_full)


async def run_on_both(program: Sequence[Step], memory: MemoryWorld, postgres: PostgresWorld) -> list[tuple[str, str]]:
    """Run a program in both worlds, and return which command came to what."""
    told = Told(executions=[1, 2, 3])
    for world in (memory, postgres):
        await world.wipe()
        assert await set_up(world) == told.executions
    heard: list[tuple[str, str]] = []
    for at, step in enumerate(program):
        op = read_step(step, told)
        if op is None:
            continue
        expected = await outcome_of(op, memory)
        assert await outcome_of(op, postgres) == expected, f"the answer to step {at}, {step}"
        assert await postgres.rows() == await memory.rows(), f"the rows after step {at}, {step}"
        told.hear(step, expected, owner_of(step))
        heard.append((step[0], expected.__name__ if isinstance(expected, type) else type(expected).__name__))
    return heard


@pytest.mark.usefixtures("anyio_backend", "alice")
def test_the_same_random_commands_get_the_same_answers_and_leave_the_same_rows(address: Address) -> None:
    """Several owners, lapsing leases, and all that a person may do in between; time is moved, never waited for."""
    memory, tally = MemoryWorld(), Counter[tuple[str, str]]()
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(postgres_world(address)) as postgres:

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(PROGRAMS)
        def check(program: list[Step]) -> None:
            tally.update(portal.call(run_on_both, program, memory, postgres))

        check()
    assert {name for name, _ in tally} == COMMANDS
    refused = {name for name, answer in tally if answer == "LeaseLostError"}
    assert {"reply", "t2", "ask"} <= refused, "the programs got nowhere near a fence"


# --- the fences ---

SUPPLANTED: tuple[Step, ...] = (
    ("claim", 0, 0, 0),
    ("begin", 0, 0, 0),
    ("reply", 0, 2, 0),
    ("pass_time", 0, 0, 0),
    ("claim", 1, 0, 0),
)
"""Somebody drives an execution for a while, stands still for longer than the lease, and is taken for dead."""

OLD = 5
"""The number that chooses the claim before the newest."""

BY_A_ZOMBIE: dict[str, tuple[Step, ...]] = {
    "begin": (("begin", OLD, 1, 0),),
    "note": (("note", OLD, 1, 1),),
    "reserve": (("reserve", OLD, 1, 1),),
    "start_call": (("start_call", OLD, 0, 0),),
    "record_reply": (("reply", OLD, 1, 1),),
    "record_summary": (("summary", OLD, 1, 1),),
    "tool_commit": (("t2", OLD, 0, 0),),
    "ask_approval": (("ask", OLD, 0, 0),),
    "hold": (("t2_waits", 0, 0, 0), ("hold", OLD, 0, 0)),
    "hold_paused": (("pause", 0, 0, 0), ("hold_paused", OLD, 0, 0)),
    "ending": (("end", OLD, 0, 0),),
}
"""What it tries when it comes round."""

UNHEARD: tuple[Step, ...] = (
    ("claim", 0, 0, 0),
    ("pass_time", 0, 0, 0),
    ("claim_unheard", 0, 0, 0),
    ("pass_time", 7, 0, 0),
    ("renew", 0, 0, 0),
)
"""A process claims again, never hears that it has, and renews what it knows of: the first claim, which has lapsed."""

RELEASED: tuple[Step, ...] = (*SUPPLANTED, ("release", OLD, 0, 0))
FENCE_STORIES = [*((*SUPPLANTED, *steps) for steps in BY_A_ZOMBIE.values()), UNHEARD, RELEASED]

PROVEN = {"_APPEND", "_T1", "_T2", "_RELEASE", "_RENEW"}
"""The statements whose fence one of the stories needs; a new one comes here with a story of its own."""

NOT_COMPARING = {"_CLAIM", "_START_CALL"}
"""Those that only write the epoch: the one that raises it, and one that runs behind `_APPEND` in its transaction."""


@pytest.fixture
async def postgres(address: Address, alice: int) -> AsyncGenerator[PostgresWorld]:
    assert alice == USER
    async with postgres_world(address) as world:
        yield world


@pytest.mark.parametrize("command", BY_A_ZOMBIE)
async def test_a_worker_that_was_taken_for_dead_writes_nothing(postgres: PostgresWorld, command: str) -> None:
    heard = await run_on_both((*SUPPLANTED, *BY_A_ZOMBIE[command]), MemoryWorld(), postgres)
    assert heard[-1][1] == "LeaseLostError"


@pytest.mark.parametrize("story", [UNHEARD, RELEASED], ids=["renew", "release"])
async def test_what_it_gives_back_or_prolongs_is_not_its_successor_s(
    postgres: PostgresWorld, story: tuple[Step, ...]
) -> None:
    await run_on_both(story, MemoryWorld(), postgres)
    (lease,) = [row["lease_until"] for row in (await postgres.rows())["sessions"] if row["id"] == 1]
    assert lease == later(16 + journal.LEASE_S)


@pytest.mark.parametrize("name", sorted(fenced_statements()))
async def test_a_statement_without_its_fence_is_found_out(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    broken = without_fence(fenced_statements()[name])
    assert sql_of(broken) != sql_of(fenced_statements()[name])
    monkeypatch.setattr(journal, name, broken)
    assert [story for story in FENCE_STORIES if await _differs(story, postgres)], "no story needs this fence"


async def _differs(story: tuple[Step, ...], postgres: PostgresWorld) -> bool:
    try:
        await run_on_both(story, MemoryWorld(), postgres)
    except AssertionError:
        return True
    return False


def test_every_statement_that_knows_the_epoch_is_accounted_for() -> None:
    assert fenced_statements().keys() == PROVEN
    assert statements_with_an_epoch().keys() - PROVEN == NOT_COMPARING
    assert modules_that_write_leases() == {"runtime/journal.py"}


# --- what a reader should know without reading programs ---


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest, address: Address, alice: int) -> AsyncGenerator[World]:
    assert alice == USER
    if request.param == "memory":
        yield MemoryWorld()
        return
    async with postgres_world(address) as opened:
        yield opened


async def claimed(world: World, owner: str = "red") -> Claim:
    """Return the claim of a new execution in a session of its own."""
    execution_id = await world.queue(await world.add_session())
    claim = await world.journal(owner).claim(USER, execution_id)
    assert claim is not None
    await world.journal(owner).begin(claim, UserSpoke(text="hello"), definition_hash="h")
    return claim


async def calling(world: World, claim: Claim, *tools: str) -> tuple[ToolCall, ...]:
    """Record a reply that calls these tools, and return the calls."""
    wanted: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in tools]
    reply = call_reply(*wanted)
    await world.journal("red").record_reply(claim, reply, cost=1, goal="goal")
    return reply.calls


async def test_an_execution_is_driven_by_one_and_taken_over_when_the_lease_is_over(world: World) -> None:
    claim = await claimed(world)
    assert await world.journal("green").claim(USER, claim.execution_id) is None
    await world.at(later(16))
    taken = await world.journal("green").claim(USER, claim.execution_id)
    assert taken is not None
    assert (taken.epoch, taken.attempt, taken.is_new) == (2, 2, False)


async def test_executions_of_a_session_run_one_after_the_other(world: World) -> None:
    claim = await claimed(world)
    second = await world.queue(claim.session_id)
    await world.journal("red").release(claim)
    assert await world.journal("red").claim(USER, second) is None


async def test_nobody_claims_the_execution_of_another_tenant(world: World) -> None:
    execution_id = await world.queue(await world.add_session())
    assert await world.journal("red").claim(USER + 1, execution_id) is None


async def test_an_effect_is_kept_with_its_result_and_gone_with_the_lease(world: World) -> None:
    claim = await claimed(world)
    first, second = await calling(world, claim, "put", "put")
    await settle(world, "red", claim, [settled(first)], keeps={"first": "yes"})
    await world.at(later(16))
    assert await world.journal("green").claim(USER, claim.execution_id) is not None
    with pytest.raises(LeaseLostError):
        await settle(world, "red", claim, [settled(second)], keeps={"second": "yes"})
    assert (await world.rows())["kept"] == [{"key": "first", "value": "yes"}]


async def test_a_call_has_one_result_even_from_whoever_holds_the_lease(world: World) -> None:
    claim = await claimed(world)
    (call,) = await calling(world, claim, "put")
    await settle(world, "red", claim, [settled(call)], keeps={"once": "yes"})
    with pytest.raises(LeaseLostError):
        await settle(world, "red", claim, [settled(call)], keeps={"twice": "yes"})
    assert [row["key"] for row in (await world.rows())["kept"]] == ["once"]


async def test_a_call_outside_begins_once_and_its_successor_is_told(world: World) -> None:
    claim = await claimed(world)
    (call,) = await calling(world, claim, "send")
    assert await world.journal("red").start_call(claim, call, "key")
    await world.at(later(16))
    taken = await world.journal("green").claim(USER, claim.execution_id)
    assert taken is not None
    assert not await world.journal("green").start_call(taken, call, "key")


async def test_an_answer_that_comes_while_somebody_lets_go_is_not_lost(world: World) -> None:
    claim = await claimed(world)
    (call,) = await calling(world, claim, "send")
    waits = await world.journal("red").ask_approval(claim, call, reason="it is far")
    assert await world.decide(waits.waits_for.id, grants=True)
    assert not await world.journal("red").hold(claim, [waits], ())
    arrived = await world.journal("red").arrivals(claim, [waits])
    assert arrived == {call.id: Granted(approval_id=waits.waits_for.id, by="ann")}


async def test_who_waits_is_let_alone_until_the_answer_or_until_it_is_to_be_cancelled(world: World) -> None:
    claim = await claimed(world)
    (call,) = await calling(world, claim, "send")
    waits = await world.journal("red").ask_approval(claim, call, reason="it is far")
    assert await world.journal("red").hold(claim, [waits], ())
    assert await world.journal("green").claim(USER, claim.execution_id) is None
    await world.cancel(claim.execution_id)
    taken = await world.journal("green").claim(USER, claim.execution_id)
    assert taken is not None
    assert taken.cancel_requested


async def test_a_refusal_says_what_the_person_said(world: World) -> None:
    claim = await claimed(world)
    (call,) = await calling(world, claim, "send")
    waits = await world.journal("red").ask_approval(claim, call, reason="it is far")
    await world.decide(waits.waits_for.id, grants=False, note="too far")
    answer = (await world.journal("red").arrivals(claim, [waits]))[call.id]
    assert isinstance(answer, Answered)
    assert (answer.is_error, answer.state, answer.text) == (
        True,
        "cancelled",
        "not run: a person refused this call: too far",
    )


async def test_an_end_settles_what_never_ran(world: World) -> None:
    claim = await claimed(world)
    await calling(world, claim, "put", "send")
    await end(world, "red", claim, ExecutionEnded(status="failed", text="gave up"), keeps={"closed": "yes"})
    rows = await world.rows()
    assert [row["state"] for row in rows["calls"]] == ["cancelled", "cancelled"]
    assert (rows["executions"][0]["status"], rows["executions"][0]["error"]) == ("failed", "gave up")
    assert (rows["sessions"][0]["status"], rows["sessions"][0]["lease_owner"]) == ("error", None)
    assert rows["kept"] == [{"key": "closed", "value": "yes"}]


async def test_a_failure_counts_against_the_execution_and_an_orderly_release_does_not(world: World) -> None:
    claim = await claimed(world)
    await world.journal("red").release(claim, delay_s=5)
    assert await world.journal("red").claim(USER, claim.execution_id) is None
    await world.at(later(5))
    second = await world.journal("red").claim(USER, claim.execution_id)
    assert second is not None
    assert second.attempt == 1
    await world.journal("red").release(second, blames=True)
    third = await world.journal("red").claim(USER, claim.execution_id)
    assert third is not None
    assert third.attempt == 2


async def test_what_was_reserved_for_a_call_that_nobody_heard_of_stays_reserved(world: World) -> None:
    claim = await claimed(world)
    await world.journal("red").reserve(claim, tokens=100, cost_micros=7)
    await world.at(later(16))
    taken = await world.journal("green").claim(USER, claim.execution_id)
    assert taken is not None
    assert (taken.unsettled_tokens, taken.unsettled_cost_micros) == (100, 7)


async def test_an_approval_is_used_once(world: World) -> None:
    claim = await claimed(world)
    (call,) = await calling(world, claim, "put")
    waits = await world.journal("red").ask_approval(claim, call, reason="it matters")
    await world.decide(waits.waits_for.id, grants=True)
    permit = Permit(approval_id=waits.waits_for.id, call=call)
    await settle(world, "red", claim, permit=permit, keeps={"once": "yes"})
    with pytest.raises(ApprovalGoneError):
        await settle(world, "red", claim, permit=permit, keeps={"twice": "yes"})
    assert [row["key"] for row in (await world.rows())["kept"]] == ["once"]
