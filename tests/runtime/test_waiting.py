"""Asking a person: the execution lets go of everything, and whoever answers lets it go on."""

import anyio
import pytest
from sqlalchemy import select, text

from runtime.agents import ASSISTANT, Agent
from runtime.driver import Ended, Held, NotOurs
from runtime.errors import NotAuthorisedError
from runtime.events import ExecutionEnded
from runtime.operations import executions
from runtime.operations.waiting import WITHDRAWN
from runtime.testing import call_reply, text_reply
from storage.errors import EntityConflictError, EntityNotFoundError
from storage.models.crm import AgencyTask
from storage.tenancy import Database
from tests.runtime.waiting_system import (
    QUESTION,
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
    session_of,
    status,
)


async def test_a_question_lets_go_of_everything_and_the_answer_is_the_calls_one_result(
    database: Database, alice: int
) -> None:
    asking = process(database, alice, call_reply(QUESTION))
    execution_id = await queued(asking)

    assert await drive(asking, execution_id) == Held()

    row, session = await row_of(asking, execution_id), await session_of(asking, execution_id)
    assert row.waiting_for is not None
    assert (row.status, row.waiting_for["kind"], row.attempt) == ("executing", "answer", 0)
    assert (session.status, session.lease_owner, session.lease_until) == ("paused", None, None)
    (asked,) = (await status(asking, execution_id))["waitingFor"]["asked"]
    assert asked["question"] == "May we refund 20 euros?"
    assert asked["how"] == f"agency run reply {execution_id} TEXT"
    assert await drive(asking, execution_id) == NotOurs()
    await assert_sound(asking)

    answering = process(database, alice, text_reply("refunded"))
    await reply(answering, execution_id, "Yes, do it")
    await assert_sound(answering)
    assert await drive(answering, execution_id) == Ended(event=ExecutionEnded(status="completed", text="refunded"))

    (call,) = await calls_of(asking, execution_id)
    assert (call.state, call.success, call.result) == ("done", True, {"answer": "Yes, do it", "by": "alice"})
    assert await results_of(asking, execution_id) == ["Yes, do it"]
    async with database.begin(alice) as db:
        assert (await db.scalars(select(AgencyTask.status))).all() == ["done"]
    assert (await status(asking, execution_id))["waitingFor"] is None
    await assert_sound(asking)


async def test_a_question_is_answered_once(database: Database, alice: int) -> None:
    system = process(database, alice, call_reply(QUESTION))
    execution_id = await queued(system)
    await drive(system, execution_id)
    await reply(system, execution_id, "yes")

    with pytest.raises(EntityConflictError):
        await reply(system, execution_id, "no")
    (call,) = await calls_of(system, execution_id)
    assert call.result == {"answer": "yes", "by": "alice"}


async def test_of_two_questions_an_answer_has_to_name_one(database: Database, alice: int) -> None:
    both = call_reply(QUESTION, ("ask_person", {"question": "Which account?"}))
    system = process(database, alice, both, text_reply("done"))
    execution_id = await queued(system)
    await drive(system, execution_id)
    first, second = (await status(system, execution_id))["waitingFor"]["asked"]

    with pytest.raises(EntityConflictError, match="several questions"):
        await reply(system, execution_id, "the main one")
    await did(system, executions.reply_execution, id=execution_id, text="the main one", question=second["id"])
    assert await drive(system, execution_id) == Held()
    assert [found["id"] for found in (await status(system, execution_id))["waitingFor"]["asked"]] == [first["id"]]
    await assert_sound(system)

    await reply(system, execution_id, "yes")
    assert isinstance(await drive(system, execution_id), Ended)
    assert await results_of(system, execution_id) == ["the main one", "yes"]
    await assert_sound(system)


async def test_nobody_else_can_answer(database: Database, alice: int, bob: int) -> None:
    system = process(database, alice, call_reply(QUESTION))
    execution_id = await queued(system)
    await drive(system, execution_id)

    with pytest.raises(EntityNotFoundError):
        await reply(process(database, bob), execution_id, "yes")


async def test_without_a_question_there_is_nothing_to_answer(database: Database, alice: int) -> None:
    system = process(database, alice, text_reply("done"))
    execution_id = await queued(system)

    with pytest.raises(EntityConflictError, match="no question open"):
        await reply(system, execution_id, "yes")
    await drive(system, execution_id)
    with pytest.raises(EntityConflictError, match="is over"):
        await reply(system, execution_id, "yes")


async def test_an_answer_that_comes_before_the_driver_lets_go_is_taken_at_once(database: Database, alice: int) -> None:
    system = process(database, alice, call_reply(QUESTION), text_reply("done"))
    execution_id = await queued(system)
    kept = system.journal.hold

    async def answered_first(*arguments: object) -> bool:
        await reply(system, execution_id, "yes")
        return await kept(*arguments)  # pyright: ignore[reportArgumentType] -- handed on as they came

    system.journal.hold = answered_first  # pyright: ignore[reportAttributeAccessIssue] -- the moment that the test is about

    assert isinstance(await drive(system, execution_id), Ended)
    assert await results_of(system, execution_id) == ["yes"]
    await assert_sound(system)


async def test_an_answer_that_is_being_written_while_the_driver_lets_go_wakes_it_up(
    database: Database, alice: int
) -> None:
    """The answerer has written and not committed: the driver sees nothing, lets go, and is woken by that commit."""
    system = process(database, alice, call_reply(QUESTION), text_reply("done"))
    execution_id = await queued(system)
    written, held = anyio.Event(), anyio.Event()
    kept = system.journal.hold

    async def answer() -> None:
        async with database.begin(alice) as db:
            await db.execute(text("""UPDATE "toolExecutions" SET result = '{"answer": "yes"}'"""))
            written.set()
            await held.wait()
            await db.execute(
                text('UPDATE "agentExecutions" SET "waitingFor" = NULL WHERE id = :id'), {"id": execution_id}
            )

    async def hold_while_answered(*arguments: object) -> bool:
        tasks.start_soon(answer)
        await written.wait()
        try:
            return await kept(*arguments)  # pyright: ignore[reportArgumentType] -- handed on as they came
        finally:
            held.set()

    system.journal.hold = hold_while_answered  # pyright: ignore[reportAttributeAccessIssue] -- the moment that the test is about
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            assert await drive(system, execution_id) == Held()

    assert (await row_of(system, execution_id)).waiting_for is None
    assert isinstance(await drive(system, execution_id), Ended)
    assert await results_of(system, execution_id) == ["yes"]
    await assert_sound(system)


async def test_a_driver_that_lets_go_waits_for_an_answer_that_has_its_row_and_then_takes_it(
    database: Database, alice: int
) -> None:
    """The answerer holds the row of the execution: the driver waits there, and then finds something to go on with."""
    system = process(database, alice, call_reply(QUESTION), text_reply("done"))
    execution_id = await queued(system)
    locked = anyio.Event()
    kept = system.journal.hold

    async def answer() -> None:
        async with database.begin(alice) as db:
            await db.execute(text("""UPDATE "toolExecutions" SET result = '{"answer": "yes"}'"""))
            await db.execute(
                text('UPDATE "agentExecutions" SET "waitingFor" = NULL WHERE id = :id'), {"id": execution_id}
            )
            locked.set()
            await blocked_on(database, alice)

    async def hold_while_locked(*arguments: object) -> bool:
        tasks.start_soon(answer)
        await locked.wait()
        return await kept(*arguments)  # pyright: ignore[reportArgumentType] -- handed on as they came

    system.journal.hold = hold_while_locked  # pyright: ignore[reportAttributeAccessIssue] -- the moment that the test is about
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            assert isinstance(await drive(system, execution_id), Ended)

    assert await results_of(system, execution_id) == ["yes"]
    await assert_sound(system)


async def blocked_on(database: Database, user_id: int) -> None:
    """Return when somebody waits for a lock in this database."""
    while True:
        async with database.begin(user_id) as db:
            waiting = await db.scalar(
                text(
                    "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
                    " WHERE NOT granted AND datname = current_database()"
                )
            )
            # A waiter for a row waits for the transaction that holds it, which is of no database.
            waiting = (waiting or 0) + (
                await db.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"))
                or 0
            )
        if waiting:
            return
        await anyio.lowlevel.checkpoint()


async def test_a_new_message_withdraws_the_question(database: Database, alice: int) -> None:
    system = process(database, alice, call_reply(QUESTION), text_reply("never mind"), text_reply("hello"))
    execution_id = await queued(system)
    await drive(system, execution_id)
    session_id = (await row_of(system, execution_id)).session_id

    started = await did(system, executions.start_execution, task="something else", session_id=session_id)

    assert isinstance(await drive(system, execution_id), Ended)
    assert await results_of(system, execution_id) == [WITHDRAWN]
    assert await drive(system, started["id"]) == Ended(event=ExecutionEnded(status="completed", text="hello"))
    await assert_sound(system)


async def test_a_waiting_execution_that_is_cancelled_ends(database: Database, alice: int) -> None:
    system = process(database, alice, call_reply(QUESTION))
    execution_id = await queued(system)
    await drive(system, execution_id)

    await did(system, executions.cancel_execution, id=execution_id)

    assert await drive(system, execution_id) == Ended(
        event=ExecutionEnded(status="cancelled", text="cancelled on request")
    )
    row = await row_of(system, execution_id)
    assert (row.status, row.waiting_for) == ("cancelled", None)
    assert [call.state for call in await calls_of(system, execution_id)] == ["cancelled"]
    await assert_sound(system)


async def test_a_question_is_not_the_way_to_allow_a_call(database: Database, alice: int) -> None:
    careful = Agent(name="careful", instructions="x", tools=ASSISTANT.tools, approvals=("create_task",))
    system = process(database, alice, call_reply(("create_task", {"title": "Refund"})))
    execution_id = await queued(system, agent="careful")
    assert await driver_of(system, careful).run(alice, execution_id) == Held()

    with pytest.raises(NotAuthorisedError, match="agency approval grant"):
        await reply(system, execution_id, "yes, go on")
