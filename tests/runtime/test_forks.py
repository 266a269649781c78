"""Another way from a step on, what an execution looked like then, and holding one while it works."""

from collections.abc import Callable

import anyio
import pytest

from runtime.driver import Ended, Held, NotOurs
from runtime.events import ExecutionEnded, ModelReplied
from runtime.local import Local
from runtime.operations.executions import (
    cancel_execution,
    fork_execution,
    pause_execution,
    resume_execution,
    start_execution,
)
from runtime.ports import ModelRequest, OnText
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from storage.errors import EntityConflictError, EntityNotFoundError
from storage.tenancy import Database
from tests.runtime.waiting_system import (
    QUESTION,
    assert_sound,
    did,
    drive,
    process,
    queued,
    reply,
    row_of,
    session_of,
    status,
)

PLAN = ("plan", {"goal": "page fixed", "phases": ["look", "fix"]})


def said(request: ModelRequest) -> str:
    return str(request.messages)


async def test_a_fork_remembers_what_was_said_up_to_its_step_and_nothing_later(database: Database, alice: int) -> None:
    model = ScriptedModel(text_reply("blue"), text_reply("red"), text_reply("green"))
    system = system_on(database, alice, model)
    execution_id = await queued(system, "a colour")
    await drive(system, execution_id)
    session_id = (await row_of(system, execution_id)).session_id
    later = await did(system, start_execution, task="and another one", session_id=session_id)
    await drive(system, later["id"])

    forked = await did(system, fork_execution, id=execution_id, at_step=2, task="a warmer one")
    assert await drive(system, forked["id"]) == Ended(event=ExecutionEnded(status="completed", text="green"))

    request = said(model.requests[2])
    assert "blue" in request
    assert "a warmer one" in request
    assert "another one" not in request
    seen = await status(system, forked["id"])
    assert seen["forkedFrom"] == {"sessionId": session_id, "step": 2}
    assert (await session_of(system, execution_id)).next_seq > 4
    await assert_sound(system)


async def test_a_fork_from_a_step_with_open_calls_does_not_run_them(database: Database, alice: int) -> None:
    model = ScriptedModel(call_reply(QUESTION), text_reply("I ask nobody"))
    system = system_on(database, alice, model)
    execution_id = await queued(system)
    assert await drive(system, execution_id) == Held()

    forked = await did(system, fork_execution, id=execution_id, at_step=2, task="without asking")
    assert isinstance(await drive(system, forked["id"]), Ended)

    results = [
        block for message in model.requests[1].messages for block in message["content"] if "tool_use_id" in block
    ]
    assert [block["content"] for block in results] == ["not run: the execution ended before this call"]
    assert (await row_of(system, execution_id)).waiting_for is not None
    await assert_sound(system)


async def test_a_fork_can_be_forked(database: Database, alice: int) -> None:
    model = ScriptedModel(text_reply("one"), text_reply("two"), text_reply("three"))
    system = system_on(database, alice, model)
    first = await queued(system, "count")
    await drive(system, first)
    second = await did(system, fork_execution, id=first, at_step=2, task="go on")
    await drive(system, second["id"])
    third = await did(system, fork_execution, id=second["id"], at_step=2, task="and on")
    await drive(system, third["id"])

    request = said(model.requests[2])
    assert request.index("one") < request.index("go on") < request.index("two") < request.index("and on")
    await assert_sound(system)


@pytest.mark.parametrize("step", [99, 6])
async def test_a_step_that_is_not_there_cannot_be_forked_from(database: Database, alice: int, step: int) -> None:
    system = process(database, alice, text_reply("x"))
    execution_id = await queued(system)
    await drive(system, execution_id)
    with pytest.raises(EntityNotFoundError):
        await did(system, fork_execution, id=execution_id, at_step=step, task="x")


async def test_nobody_else_can_fork(database: Database, alice: int, bob: int) -> None:
    system = process(database, alice, text_reply("x"))
    execution_id = await queued(system)
    await drive(system, execution_id)
    with pytest.raises(EntityNotFoundError):
        await did(process(database, bob), fork_execution, id=execution_id, at_step=1, task="x")


async def test_an_execution_is_shown_as_it_was_after_each_step(database: Database, alice: int) -> None:
    replies = (call_reply(PLAN), call_reply(("advance_phase", {})), call_reply(QUESTION), text_reply("fixed"))
    system = process(database, alice, *replies)
    execution_id = await queued(system)
    await drive(system, execution_id)
    await reply(system, execution_id, "yes")
    await drive(system, execution_id)

    steps = (await status(system, execution_id))["steps"]
    seen = [await status(system, execution_id, at_step=step["step"]) for step in steps]
    kinds = [step["kind"] for step in steps]
    assert kinds == [
        *("user", "assistant", "tool_result", "plan", "assistant", "tool_result", "phase"),
        *("assistant", "system", "tool_result", "assistant", "control"),
    ]
    assert [one["status"] for one in seen] == ["planning"] * 3 + ["executing"] * 8 + ["completed"]
    assert [one["phase"] for one in seen] == [None] * 3 + ["look"] * 3 + ["fix"] * 6
    assert [one["waitingFor"] is not None for one in seen].index(True) == 8
    assert sum(one["waitingFor"] is not None for one in seen) == 1
    assert [len(one["steps"]) for one in seen] == list(range(1, 13))
    assert [one["result"] for one in seen] == [None] * 11 + ["fixed"]
    with pytest.raises(EntityNotFoundError):
        await status(system, execution_id, at_step=99)


class Slow:
    """A model that is told when to answer."""

    name = "scripted-model"

    def __init__(self, *replies: ModelReplied) -> None:
        self._replies = list(replies)
        self.asked, self.answer = anyio.Event(), anyio.Event()

    async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
        del request, on_text
        self.asked.set()
        await self.answer.wait()
        return self._replies.pop(0)


async def while_asked(system: Local, model: Slow, execution_id: int, act: Callable[[], object]) -> object:
    """Drive an execution, do something while the model is thinking, and return what became of it."""
    outcome: object = None

    async def drive_it() -> None:
        nonlocal outcome
        outcome = await drive(system, execution_id)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drive_it)
            await model.asked.wait()
            await act()  # pyright: ignore[reportGeneralTypeIssues] -- an async function
    return outcome


async def test_a_pause_lets_the_reply_under_way_be_recorded_and_nothing_more(database: Database, alice: int) -> None:
    model = Slow(call_reply(("create_task", {"title": "x"})), text_reply("done"))
    system = system_on(database, alice, model)
    execution_id = await queued(system)

    async def pause() -> None:
        await did(system, pause_execution, id=execution_id)
        model.answer.set()

    assert await while_asked(system, model, execution_id, pause) == Held()

    row, session = await row_of(system, execution_id), await session_of(system, execution_id)
    assert (row.iterations, row.waiting_for, row.paused_at is not None) == (1, None, True)
    assert (session.status, session.lease_owner) == ("paused", None)
    assert (await status(system, execution_id))["pausedAt"] is not None
    assert await drive(system, execution_id) == NotOurs()
    await assert_sound(system)
    await did(system, resume_execution, id=execution_id)
    assert isinstance(await drive(system, execution_id), Ended)
    assert (await row_of(system, execution_id)).tool_calls == 1
    await assert_sound(system)


async def test_an_answer_to_what_is_paused_waits_for_the_resumption(database: Database, alice: int) -> None:
    system = process(database, alice, call_reply(QUESTION), text_reply("done"))
    execution_id = await queued(system)
    await drive(system, execution_id)
    await did(system, pause_execution, id=execution_id)
    await reply(system, execution_id, "yes")
    assert await drive(system, execution_id) == NotOurs()
    await assert_sound(system)

    await did(system, resume_execution, id=execution_id)
    assert isinstance(await drive(system, execution_id), Ended)
    with pytest.raises(EntityConflictError):
        await did(system, resume_execution, id=execution_id)


async def test_what_is_paused_can_be_cancelled(database: Database, alice: int) -> None:
    system = process(database, alice)
    execution_id = await queued(system)
    await did(system, pause_execution, id=execution_id)
    with pytest.raises(EntityConflictError, match="no question"):
        await reply(system, execution_id, "yes")

    await did(system, cancel_execution, id=execution_id)
    ended = await drive(system, execution_id)
    assert isinstance(ended, Ended)
    assert ended.event.status == "cancelled"
    await assert_sound(system)


async def test_a_cancellation_breaks_the_reply_off_that_is_being_said(database: Database, alice: int) -> None:
    model = Slow()
    system = system_on(database, alice, model)
    execution_id = await queued(system)

    async def cancel() -> None:
        await did(system, cancel_execution, id=execution_id)
        await system.renew_leases()

    ended = await while_asked(system, model, execution_id, cancel)
    assert ended == Ended(event=ExecutionEnded(status="cancelled", text="cancelled on request"))
    await assert_sound(system)


async def test_what_is_not_paused_is_not_resumed(database: Database, alice: int) -> None:
    system = process(database, alice)
    execution_id = await queued(system)
    with pytest.raises(EntityConflictError, match="not paused"):
        await did(system, resume_execution, id=execution_id)
