"""A program's agents that wait: what `run` returns, and how the program answers."""

import pytest

from runtime import Agent, Limits, Runtime, StillRunningError, Waiting
from runtime.errors import ModelUnavailableError
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from runtime.testing.scripted import Scripted
from storage.errors import EntityConflictError, EntityNotFoundError
from storage.tenancy import Database
from tests.runtime.waiting_system import QUESTION, assert_sound, row_of

CLERK = Agent(
    name="clerk", instructions="x", tools=("ask_person", "create_task", "delegate"), approvals=("create_task",)
)
CARD = ("create_task", {"title": "Refund Anna"})


def runtime_on(database: Database, user_id: int, *replies: Scripted, agent: Agent = CLERK) -> Runtime:
    return Runtime(agent, local=system_on(database, user_id, ScriptedModel(*replies)))


async def test_a_question_is_answered_and_the_run_goes_on(database: Database, alice: int) -> None:
    async with runtime_on(database, alice, call_reply(QUESTION), text_reply("refunded")) as runtime:
        run = await runtime.run(CLERK, "refund Anna")

        assert (run.status, run.text) == ("waiting", "May we refund 20 euros?")
        (waiting,) = run.waiting_for
        assert waiting == Waiting(kind="answer", id=waiting.id, about="May we refund 20 euros?")
        await runtime.reply(run.execution_id, "yes")
        with pytest.raises(EntityConflictError):
            await runtime.reply(run.execution_id, "no")
        run = await runtime.resume(run.execution_id)
    assert (run.status, run.text, run.waiting_for) == ("completed", "refunded", ())


async def test_a_call_is_allowed_or_refused(database: Database, alice: int) -> None:
    replies = (call_reply(CARD), text_reply("made"), call_reply(CARD), text_reply("not made"))
    async with runtime_on(database, alice, *replies) as runtime:
        for decide, text in ((runtime.approve, "made"), (runtime.deny, "not made")):
            run = await runtime.run(CLERK, "refund Anna")
            (waiting,) = run.waiting_for
            assert waiting.kind == "approval"
            assert 'create_task({"title": "Refund Anna"})' in waiting.about
            await decide(waiting.id, note="because")
            assert (await runtime.resume(run.execution_id)).text == text


async def test_a_run_that_waits_ends_its_stream(database: Database, alice: int) -> None:
    async with runtime_on(database, alice, call_reply(QUESTION)) as runtime:
        kinds = [item.kind async for item in runtime.stream(CLERK, "refund Anna")]
    assert kinds[-1] == "waiting"
    assert kinds.count("committed") == 4


async def test_a_program_pauses_resumes_and_cancels(database: Database, alice: int) -> None:
    async with runtime_on(database, alice, call_reply(QUESTION), text_reply("done")) as runtime:
        run = await runtime.run(CLERK, "refund Anna")
        await runtime.pause(run.execution_id)
        await runtime.reply(run.execution_id, "yes")
        assert (await row_of(system_on(database, alice), run.execution_id)).paused_at is not None
        assert (await runtime.resume(run.execution_id)).status == "completed"
        with pytest.raises(EntityConflictError):
            await runtime.pause(run.execution_id)


async def test_what_waits_is_cancelled_at_once(database: Database, alice: int) -> None:
    async with runtime_on(database, alice, call_reply(QUESTION)) as runtime:
        run = await runtime.run(CLERK, "refund Anna")
        await runtime.cancel(run.execution_id)
        assert (await runtime.resume(run.execution_id)).status == "cancelled"
    await assert_sound(system_on(database, alice))


async def test_what_was_delegated_is_driven_along(database: Database, alice: int) -> None:
    hand_on = call_reply(("delegate", {"agent": "assistant", "task": "look"}))
    async with runtime_on(database, alice, hand_on, text_reply("nothing"), text_reply("there is nothing")) as runtime:
        run = await runtime.run(CLERK, "have somebody look")
    assert (run.status, run.text) == ("completed", "there is nothing")


async def test_a_run_can_be_tried_another_way(database: Database, alice: int) -> None:
    model = ScriptedModel(text_reply("blue"), text_reply("green"))
    async with Runtime(CLERK, local=system_on(database, alice, model)) as runtime:
        run = await runtime.run(CLERK, "a colour")
        forked = await runtime.fork(run.execution_id, "another one", at_step=2)
        with pytest.raises(EntityNotFoundError):
            await runtime.fork(run.execution_id, "another one", at_step=99)
    assert (forked.text, forked.session_id != run.session_id) == ("green", True)
    assert "blue" in str(model.requests[1].messages)


async def test_an_error_of_the_driver_is_raised_as_it_is(database: Database, alice: int) -> None:
    async with runtime_on(database, alice, ModelUnavailableError("overloaded"), ZeroDivisionError("x")) as runtime:
        with pytest.raises(ModelUnavailableError):
            await runtime.run(CLERK, "x")
        with pytest.raises(ZeroDivisionError):
            await runtime.run(CLERK, "x")


async def test_an_agent_s_own_limits_hold(database: Database, alice: int) -> None:
    agent = Agent(name="short", instructions="x", tools=("find_tasks",), limits=Limits(tool_calls=0))
    async with runtime_on(database, alice, call_reply(("find_tasks", {})), agent=agent) as runtime:
        run = await runtime.run(agent, "look")
    assert (run.status, run.text) == ("failed", "reached the limit of 0 tool calls")


async def test_a_plan_can_be_demanded(database: Database, alice: int) -> None:
    agent = Agent(name="planner", instructions="x", tools=("plan", "create_task", "find_tasks"), plan="required")
    model = ScriptedModel(call_reply(("plan", {"goal": "g", "phases": ["a"]})), text_reply("done"))
    async with Runtime(agent, local=system_on(database, alice, model)) as runtime:
        await runtime.run(agent, "look")
    first, second = ({spec.name for spec in request.tools} for request in model.requests)
    assert (first, second - first) == ({"plan", "find_tasks"}, {"create_task"})


async def test_an_execution_that_another_one_of_its_session_precedes_is_not_waiting(
    database: Database, alice: int
) -> None:
    replies = (call_reply(("create_task", {"title": "x"})), text_reply("x"))
    async with runtime_on(database, alice, *replies) as runtime:
        run = await runtime.run(CLERK, "x")
        with pytest.raises(StillRunningError):
            await runtime.run(CLERK, "y", session_id=run.session_id)
