"""Allowances across workers, calls of which nobody knows what became, calls beside each other, what is too large."""

import json
from typing import Any

import anyio
import pytest
from sqlalchemy import select, text

from runtime.agents import Agent
from runtime.driver import Ended, Held
from runtime.errors import ToolArgumentsError
from runtime.events import Compacted, Usage, event_adapter
from runtime.local import Local, compose
from runtime.operation import Unknown
from runtime.operations.executions import start_execution
from runtime.testing import ScriptedModel, call_reply, text_reply
from runtime.tools import SHOWN_TO_MODEL, tool
from storage.models.agents import AgentStep
from storage.models.runtime import Blob
from storage.queries import executions
from storage.tenancy import Database
from tests.runtime.waiting_system import (
    assert_sound,
    calls_of,
    did,
    drive,
    driver_of,
    process,
    queued,
    reply,
    results_of,
    row_of,
    status,
)

LOOK: tuple[str, dict[str, Any]] = ("find_tasks", {})


class KilledError(BaseException):
    """The process is gone."""


def failure(ended: object) -> str:
    assert isinstance(ended, Ended)
    assert ended.event.status == "failed"
    return ended.event.text


async def test_tokens_are_counted_over_workers(database: Database, alice: int) -> None:
    usage = Usage(input_tokens=900, output_tokens=100)
    first = process(database, alice, call_reply(LOOK, usage=usage), ZeroDivisionError())
    execution_id = await queued(first, tokens=20_000)
    with pytest.raises(ZeroDivisionError):
        await drive(first, execution_id)
    async with database.begin(alice) as db:
        await db.execute(text('UPDATE "agentExecutions" SET "runAfter" = NULL'))
    row = await row_of(first, execution_id)
    assert row.reserved_tokens > 0

    second = process(database, alice, call_reply(LOOK, tag="2", usage=Usage(input_tokens=19_000)), text_reply("never"))
    reason = failure(await drive(second, execution_id))

    assert "20,000 tokens" in reason or "allowance is used up" in reason
    seen = await status(second, execution_id)
    assert seen["usage"]["perhapsTokens"] == row.reserved_tokens
    assert seen["usage"]["tokensIn"] <= 19_900
    await assert_sound(second)


async def test_what_a_dead_worker_had_set_aside_counts_as_spent(database: Database, alice: int) -> None:
    first = process(database, alice, ZeroDivisionError())
    execution_id = await queued(first, tokens=9_000)
    with pytest.raises(ZeroDivisionError):
        await drive(first, execution_id)
    async with database.begin(alice) as db:
        await db.execute(text('UPDATE "agentExecutions" SET "runAfter" = NULL'))

    second = process(database, alice, text_reply("never said"))
    assert "9,000 tokens" in failure(await drive(second, execution_id))
    row = await row_of(second, execution_id)
    assert (row.reserved_tokens, row.tokens_in) == (0, 0)
    assert row.unsettled_tokens > 8_000
    await assert_sound(second)


async def test_money_is_counted(database: Database, alice: int) -> None:
    dear = Agent(name="dear", instructions="x", tools=("find_tasks",), model="claude-sonnet-5-5")
    usage = Usage(input_tokens=100_000, output_tokens=1_000)
    answer = call_reply(LOOK, usage=usage).model_copy(update={"model": "claude-sonnet-5-5"})
    system = process(database, alice, answer)
    execution_id = await queued(system, agent="dear", costMicros=200_000)

    reason = failure(await driver_of(system, dear).run(alice, execution_id))

    assert "USD" in reason
    row = await row_of(system, execution_id)
    assert row.cost_micros is not None
    assert row.cost_micros > 200_000
    await assert_sound(system)


async def test_a_model_without_a_price_cannot_keep_to_a_limit_of_money(database: Database, alice: int) -> None:
    strange = Agent(name="strange", instructions="x", tools=(), model="nobody-sells-this")
    system = process(database, alice)
    execution_id = await queued(system, agent="strange", costMicros=200_000)
    reason = failure(await driver_of(system, strange).run(alice, execution_id))
    assert "price of the model is unknown" in reason


async def test_calls_are_counted(database: Database, alice: int) -> None:
    calls = [call_reply(("find_tasks", {"limit": number})) for number in range(1, 4)]
    system = process(database, alice, *calls)
    execution_id = await queued(system, toolCalls=2)
    assert "2 tool calls" in failure(await drive(system, execution_id))
    assert [call.state for call in await calls_of(system, execution_id)] == ["done", "done", "cancelled"]
    await assert_sound(system)


async def test_time_is_counted_from_the_first_claim_waiting_included(database: Database, alice: int) -> None:
    system = process(database, alice, call_reply(("ask_person", {"question": "Well?"})))
    execution_id = await queued(system, seconds=3600)
    assert await drive(system, execution_id) == Held()
    async with database.begin(alice) as db:
        await db.execute(text("""UPDATE "agentExecutions" SET "startedAt" = now() - interval '2 hours'"""))

    await reply(system, execution_id, "yes")
    assert "3600 s" in failure(await drive(system, execution_id))
    await assert_sound(system)


async def test_waiting_ends_when_the_time_is_over_although_nobody_answers(database: Database, alice: int) -> None:
    system = process(database, alice, call_reply(("ask_person", {"question": "Well?"})))
    execution_id = await queued(system, seconds=3600)
    assert await drive(system, execution_id) == Held()
    assert await due(system) == []
    async with database.begin(alice) as db:
        past = """UPDATE "agentExecutions" SET "startedAt" = now() - interval '2 hours', deadline = now(),
                  "runAfter" = NULL, "createdAt" = now() - interval '2 hours'"""
        await db.execute(text(past))

    assert await due(system) == [execution_id]
    assert "3600 s" in failure(await drive(system, execution_id))
    await assert_sound(system)


async def due(system: Local) -> list[int]:
    """Return what a worker's sweep would take up."""
    async with system.database.begin_dispatch() as db:
        return [found.execution_id for found in await executions.due_executions(db)]


async def test_limits_are_set_when_an_execution_is_started(database: Database, alice: int) -> None:
    system = process(database, alice, call_reply(LOOK))
    started = await did(system, start_execution, task="look", limits={"toolCalls": 0, "iterations": 5})
    seen = await status(system, started["id"])
    assert seen["limits"] == {"toolCalls": 0, "iterations": 5}
    assert "0 tool calls" in failure(await drive(system, started["id"]))


@pytest.mark.parametrize("limits", [{"dollars": 5}, {"tokens": 0}, {"seconds": -1}])
async def test_limits_that_mean_nothing_are_refused(database: Database, alice: int, limits: dict[str, int]) -> None:
    with pytest.raises(ToolArgumentsError):
        await did(process(database, alice), start_execution, task="look", limits=limits)


# --- nobody knows ---


class Parcel:
    """An outside service whose caller dies in the first call; `took_effect` is what looking afterwards finds."""

    def __init__(self, *, on_unknown: Unknown = "ask_model", found: Any = None, looks: bool = False) -> None:
        self.calls = 0
        self.looked = 0
        parcel = self

        async def look(to: str) -> Any:
            parcel.looked += 1
            if isinstance(found, Exception):
                raise found
            return found

        @tool(effect="external", on_unknown=on_unknown, reconcile=look if looks else None)
        async def send_parcel(to: str) -> str:
            """Send a parcel."""
            parcel.calls += 1
            if parcel.calls == 1:
                raise KilledError
            return f"sent to {to}"

        self.tool = send_parcel


async def after_a_death(database: Database, user_id: int, parcel: Parcel, *replies: Any) -> tuple[Local, Any, int]:
    """Return a system, its driver and an execution, whose worker has died in the middle of a call."""
    agent = Agent(name="clerk", instructions="x", tools=("send_parcel",))
    system = process(database, user_id, call_reply(("send_parcel", {"to": "Anna"})), *replies)
    execution_id = await queued(system, agent="clerk")
    driver = driver_of(system, agent, tools=(parcel.tool,))
    with pytest.raises(KilledError):
        await driver.run(user_id, execution_id)
    return system, driver, execution_id


async def test_the_model_is_told_that_nobody_knows(database: Database, alice: int) -> None:
    parcel = Parcel()
    system, driver, execution_id = await after_a_death(database, alice, parcel, text_reply("hm"))
    assert isinstance(await driver.run(alice, execution_id), Ended)
    (told,) = await results_of(system, execution_id)
    assert told.startswith("unknown: a worker died")
    assert parcel.calls == 1
    await assert_sound(system)


async def test_a_tool_that_may_run_twice_runs_again(database: Database, alice: int) -> None:
    parcel = Parcel(on_unknown="retry")
    system, driver, execution_id = await after_a_death(database, alice, parcel, text_reply("sent"))
    assert isinstance(await driver.run(alice, execution_id), Ended)
    assert parcel.calls == 2
    assert [call.state for call in await calls_of(system, execution_id)] == ["done"]
    await assert_sound(system)


async def test_a_person_is_asked_what_became_of_it(database: Database, alice: int) -> None:
    parcel = Parcel(on_unknown="ask_person")
    system, driver, execution_id = await after_a_death(database, alice, parcel, text_reply("good"))
    assert await driver.run(alice, execution_id) == Held()
    (asked,) = (await status(system, execution_id))["waitingFor"]["asked"]
    assert asked["question"].startswith("Did send_parcel take effect?")
    await assert_sound(system)

    await reply(system, execution_id, "it arrived")
    assert isinstance(await driver.run(alice, execution_id), Ended)
    assert await results_of(system, execution_id) == ["it arrived"]
    assert parcel.calls == 1
    await assert_sound(system)


@pytest.mark.parametrize(
    ("found", "calls", "state"),
    [({"parcel": 7}, 1, "done"), (None, 2, "done"), (ConnectionError("down"), 1, "unknown")],
    ids=["it took effect", "it did not", "nobody can tell"],
)
async def test_a_tool_that_can_look_is_run_again_only_when_nothing_happened(
    database: Database, alice: int, found: Any, calls: int, state: str
) -> None:
    parcel = Parcel(found=found, looks=True)
    system, driver, execution_id = await after_a_death(database, alice, parcel, text_reply("ok"))
    assert isinstance(await driver.run(alice, execution_id), Ended)
    assert (parcel.looked, parcel.calls) == (1, calls)
    assert [call.state for call in await calls_of(system, execution_id)] == [state]
    await assert_sound(system)


# --- beside each other ---


async def test_calls_that_only_look_run_beside_each_other_and_keep_their_order(database: Database, alice: int) -> None:
    """The first call ends only when the second one has: one after the other, they would never end."""
    second_is_done = anyio.Event()

    @tool(effect="none")
    async def first() -> str:
        """Look here."""
        await second_is_done.wait()
        return "here"

    @tool(effect="none")
    async def second() -> str:
        """Look there."""
        second_is_done.set()
        return "there"

    agent = Agent(name="looker", instructions="x", tools=("first", "second"))
    system = process(database, alice, call_reply(("first", {}), ("second", {})), text_reply("ok"))
    execution_id = await queued(system, agent="looker")
    with anyio.fail_after(20):
        assert isinstance(await driver_of(system, agent, tools=(first, second)).run(alice, execution_id), Ended)

    assert await results_of(system, execution_id) == ['{"result": "here"}', '{"result": "there"}']
    await assert_sound(system)


async def test_a_call_with_an_effect_waits_for_those_before_it(database: Database, alice: int) -> None:
    order: list[str] = []

    @tool(effect="none")
    async def look() -> str:
        """Look."""
        order.append("look")
        return "seen"

    @tool(effect="db")
    async def act() -> str:
        """Act."""
        order.append("act")
        return "done"

    agent = Agent(name="mixed", instructions="x", tools=("look", "act"))
    calls: list[tuple[str, dict[str, Any]]] = [("look", {}), ("look", {}), ("act", {}), ("look", {})]
    system = process(database, alice, call_reply(*calls), text_reply("ok"))
    execution_id = await queued(system, agent="mixed")
    assert isinstance(await driver_of(system, agent, tools=(look, act)).run(alice, execution_id), Ended)
    assert order == ["look", "look", "act", "look"]
    await assert_sound(system)


# --- too large ---


async def test_a_large_result_is_kept_whole_beside_its_row(database: Database, alice: int) -> None:
    @tool(effect="none")
    async def dump() -> str:
        """Return a lot."""
        return "ä" * 300_000

    agent = Agent(name="big", instructions="x", tools=("dump",))
    system = process(database, alice, call_reply(("dump", {})), text_reply("ok"))
    execution_id = await queued(system, agent="big")
    assert isinstance(await driver_of(system, agent, tools=(dump,)).run(alice, execution_id), Ended)

    (call,) = await calls_of(system, execution_id)
    async with database.begin(alice) as db:
        content = (await db.scalars(select(Blob.content).where(Blob.id == call.result_blob_id))).one()
    assert json.loads(content) == {"result": "ä" * 300_000}
    assert call.result is not None
    assert call.result["truncated"] is True
    (told,) = await results_of(system, execution_id)
    assert len(told) < SHOWN_TO_MODEL + 200
    await assert_sound(system)


async def test_a_session_that_outgrows_the_window_is_summed_up(database: Database, alice: int) -> None:
    full = Usage(input_tokens=9_000, output_tokens=10)
    model = ScriptedModel(
        call_reply(("remember", {"key": "a", "value": "x" * 3000})),
        call_reply(("remember", {"key": "b", "value": "y" * 3000}), usage=full),
        text_reply("Anna wants a refund; a is remembered.", usage=Usage(input_tokens=500, output_tokens=20)),
        text_reply("done"),
    )
    system = process(database, alice)
    small = compose(
        database=database,
        user_id=alice,
        model=model,
        keyring=system.keyring,
        settings=system.settings.model_copy(update={"context_tokens": 5_000}),
    )
    execution_id = await queued(small)

    ended = await drive(small, execution_id)

    assert isinstance(ended, Ended)
    assert ended.event.status == "completed", ended.event.text
    last = str(model.requests[3].messages)
    assert "Anna wants a refund" in last
    assert "x" * 3000 not in last
    async with database.begin(alice) as db:
        found = [event_adapter.validate_python(body) for body in await db.scalars(select(AgentStep.body))]
    assert sum(isinstance(event, Compacted) for event in found) == 1
    assert (await row_of(small, execution_id)).tokens_in == 9_500
    await assert_sound(small)
