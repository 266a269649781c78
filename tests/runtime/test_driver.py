"""The loop on Postgres: what is recorded, what survives, and what happens exactly once."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import select, text, update

from runtime.agents import ASSISTANT
from runtime.driver import Ended, Later, NotOurs
from runtime.errors import LeaseLostError, ModelReplyInvalidError, ModelUnavailableError
from runtime.events import ExecutionEnded, ModelReplied, ToolCall, UserSpoke
from runtime.journal_port import Claim
from runtime.local import Local
from runtime.ports import ModelRequest, OnText
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from runtime.tools import succeeded
from storage.engine import Address, connect
from storage.models.agents import AgentExecution, AgentSession, AgentStep, ToolExecution
from storage.models.audit import AuditLog
from storage.models.crm import AgencyTask
from storage.queries import executions
from storage.tenancy import Database


async def queued(system: Local, task: str = "fix the landing page") -> int:
    """Queue an execution of the assistant in a session of its own."""
    async with system.database.begin(system.user_id) as db:
        session_id = await executions.create_session(db, system.user_id)
        return await executions.queue_execution(
            db, user_id=system.user_id, session_id=session_id, agent_name=ASSISTANT.name, task=task
        )


async def row_of(system: Local, execution_id: int) -> AgentExecution:
    async with system.database.begin(system.user_id) as db:
        return await executions.execution(db, execution_id)


async def session_of(system: Local, execution: AgentExecution) -> AgentSession:
    async with system.database.begin(system.user_id) as db:
        return (await db.scalars(select(AgentSession).where(AgentSession.id == execution.session_id))).one()


CREATE = ("create_task", {"title": "Fix the landing page", "priority": "urgent"})


async def test_a_tools_effect_its_row_and_its_step_are_recorded_together(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel(call_reply(CREATE), text_reply("done")))
    execution_id = await queued(system)

    outcome = await system.driver.run(alice, execution_id)

    assert outcome == Ended(event=ExecutionEnded(status="completed", text="done"))
    async with database.begin(alice) as db:
        card = (await db.scalars(select(AgencyTask))).one()
        call = (await db.scalars(select(ToolExecution))).one()
        kinds = list(await db.scalars(select(AgentStep.kind).order_by(AgentStep.seq)))
        audit = (await db.scalars(select(AuditLog))).one()
    assert (card.title, card.priority, card.execution_id) == ("Fix the landing page", "urgent", execution_id)
    assert call.result is not None
    assert (call.state, call.success, call.result["id"]) == ("done", True, card.id)
    assert kinds == ["user", "assistant", "plan", "tool_result", "assistant", "control"]
    assert (audit.action, audit.entity_id, audit.user_id) == ("create_task", str(card.id), alice)


async def test_the_document_s_columns_tell_the_story_when_an_execution_ends(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel(call_reply(CREATE), text_reply("done")))
    execution_id = await queued(system)
    await system.driver.run(alice, execution_id)

    execution = await row_of(system, execution_id)
    session = await session_of(system, execution)

    assert (execution.status, execution.result, execution.iterations) == ("completed", {"text": "done"}, 2)
    assert execution.plan == {"goal": "fix the landing page", "phases": ["answer"]}
    assert execution.phases == [{"name": "answer", "status": "done"}]
    assert [entry["tool"] for entry in execution.tool_executions] == ["create_task"]
    assert execution.duration_ms is not None
    assert execution.started_at is not None
    assert execution.completed_at is not None
    assert (session.status, session.lease_owner, session.iteration_count) == ("idle", None, 2)
    assert [entry["tool"] for entry in session.tool_history] == ["create_task"]


async def test_planning_moves_the_execution_through_its_phases(database: Database, alice: int) -> None:
    plan = ("plan", {"goal": "page fixed", "phases": ["look", "fix"]})
    model = ScriptedModel(call_reply(plan), call_reply(("advance_phase", {})), text_reply("fixed"))
    system = system_on(database, alice, model)
    execution_id = await queued(system)

    await system.driver.run(alice, execution_id)

    execution = await row_of(system, execution_id)
    async with database.begin(alice) as db:
        kinds = list(await db.scalars(select(AgentStep.kind).order_by(AgentStep.seq)))
    assert execution.plan == {"goal": "page fixed", "phases": ["look", "fix"]}
    assert execution.current_phase_index == 1
    assert (await session_of(system, execution)).current_phase == "fix"
    assert [kind for kind in kinds if kind in {"plan", "phase"}] == ["plan", "phase"]


async def test_a_refused_call_is_an_error_that_the_model_reads(database: Database, alice: int) -> None:
    def check(request: ModelRequest) -> None:
        result = request.messages[-1]["content"][0]
        assert result["is_error"] is True
        assert "legal: title" in result["content"]

    def second(request: ModelRequest):
        check(request)
        return text_reply("sorry")

    wrong = call_reply(("create_task", {"title": "x", "colour": "red"}))
    system = system_on(database, alice, ScriptedModel(wrong, second))
    execution_id = await queued(system)

    await system.driver.run(alice, execution_id)

    async with database.begin(alice) as db:
        call = (await db.scalars(select(ToolExecution))).one()
        assert (await db.scalars(select(AgencyTask))).all() == []
    assert (call.state, call.success) == ("error", False)
    assert call.error is not None
    assert "colour" in call.error


BAD_CALLS: list[tuple[tuple[str, dict[str, Any]], str]] = [
    (("drop_tables", {}), "no tool 'drop_tables'"),
    (("reply", {"text": "hi"}), "no tool 'reply'"),
    (("update_task", {"id": 999_999, "status": "done"}), "no agencyTasks row 999999"),
    (("create_task", {"title": "nul \x00 inside"}), "U+0000"),
    (("create_task", {"title": "lone \ud800 surrogate"}), "U+D800"),
    (("remember", {"key": "k", "value": {"deep": "\x00"}}), "U+0000"),
    (("create_task", {"title": "x", "due": "someday"}), "due"),
    (("create_task", {"title": "x", "due": "1900000000"}), "YYYY-MM-DD"),
    (("create_task", {"title": "x", "due": 1900000000}), "YYYY-MM-DD"),
]


@pytest.mark.parametrize(("call", "complaint"), BAD_CALLS)
async def test_every_bad_call_ends_in_a_recorded_error(
    database: Database, alice: int, call: tuple[str, dict[str, Any]], complaint: str
) -> None:
    system = system_on(database, alice, ScriptedModel(call_reply(call), text_reply("understood")))
    execution_id = await queued(system)

    outcome = await system.driver.run(alice, execution_id)

    assert isinstance(outcome, Ended)
    assert outcome.event.status == "completed"
    async with database.begin(alice) as db:
        recorded = (await db.scalars(select(ToolExecution))).one()
    assert recorded.state == "error"
    assert recorded.error is not None
    assert complaint in recorded.error


async def test_an_overload_frees_the_session_and_is_remembered_in_the_row(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel(ModelUnavailableError("overloaded", retry_after_s=90)))
    execution_id = await queued(system)

    assert await system.driver.run(alice, execution_id) == Later(delay_s=90)

    execution = await row_of(system, execution_id)
    assert execution.status == "planning"
    assert execution.run_after is not None
    assert (await session_of(system, execution)).lease_owner is None
    assert await system.driver.run(alice, execution_id) == NotOurs()


async def test_it_goes_on_where_it_was_once_the_time_has_come(database: Database, alice: int) -> None:
    script = ScriptedModel(call_reply(CREATE), ModelUnavailableError("overloaded"), text_reply("done"))
    system = system_on(database, alice, script)
    execution_id = await queued(system)
    assert isinstance(await system.driver.run(alice, execution_id), Later)
    async with database.begin(alice) as db:
        await db.execute(update(AgentExecution).values({AgentExecution.run_after: text("now()")}))

    outcome = await system.driver.run(alice, execution_id)

    assert isinstance(outcome, Ended)
    async with database.begin(alice) as db:
        assert len((await db.scalars(select(AgencyTask))).all()) == 1
    script.assert_done()


async def test_a_cut_reply_is_asked_for_again_and_costs_one_row(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel(ModelReplyInvalidError("cut"), text_reply("done")))
    execution_id = await queued(system)

    outcome = await system.driver.run(alice, execution_id)

    assert isinstance(outcome, Ended)
    assert (await row_of(system, execution_id)).iterations == 1


async def test_a_call_that_was_intended_before_a_crash_runs_once_afterwards(database: Database, alice: int) -> None:
    """A worker dies between T1 and T2: its lease lapses, another one runs the call."""
    dead = system_on(database, alice, ScriptedModel())
    execution_id = await queued(dead)
    claim = await dead.journal.claim(alice, execution_id)
    assert claim is not None
    await dead.journal.begin(claim, UserSpoke(text="fix it"), definition_hash="h")
    await dead.journal.record_reply(claim, call_reply(CREATE), cost=0, goal="fix it")
    async with database.begin(alice) as db:
        await db.execute(update(AgentSession).values({AgentSession.lease_until: text("now() - interval '1 second'")}))

    alive = system_on(database, alice, ScriptedModel(text_reply("done")))
    outcome = await alive.driver.run(alice, execution_id)

    assert isinstance(outcome, Ended)
    async with database.begin(alice) as db:
        assert len((await db.scalars(select(AgencyTask))).all()) == 1
        assert [row.state for row in await db.scalars(select(ToolExecution))] == ["done"]


async def test_a_worker_that_lost_its_lease_writes_nothing(database: Database, alice: int) -> None:
    slow = system_on(database, alice, ScriptedModel())
    execution_id = await queued(slow)
    claim = await slow.journal.claim(alice, execution_id)
    assert claim is not None
    async with database.begin(alice) as db:
        await db.execute(update(AgentSession).values({AgentSession.lease_epoch: AgentSession.lease_epoch + 1}))

    with pytest.raises(LeaseLostError):
        await slow.journal.record_reply(claim, call_reply(CREATE), cost=0, goal="fix it")
    call = ToolCall(id="c1", name="create_task", arguments={"title": "x"})
    with pytest.raises(LeaseLostError):
        async with slow.journal.tool_commit(claim) as commit:
            commit.settled.append(succeeded({"id": 1}).settled(call, duration_s=0))
    ended = ExecutionEnded(status="completed", text="done")
    with pytest.raises(LeaseLostError):
        async with slow.journal.ending(claim, ended, []):
            pass

    async with database.begin(alice) as db:
        assert (await db.scalars(select(AgentStep))).all() == []
        assert (await db.scalars(select(ToolExecution))).all() == []
    assert (await row_of(slow, execution_id)).status == "pending"


async def test_two_workers_do_not_drive_one_session(database: Database, alice: int) -> None:
    first, second = (system_on(database, alice, ScriptedModel()) for _ in range(2))
    execution_id = await queued(first)

    assert await first.journal.claim(alice, execution_id) is not None
    assert await second.journal.claim(alice, execution_id) is None


async def test_the_second_execution_of_a_session_waits_for_the_first(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel(text_reply("one"), text_reply("two")))
    first = await queued(system)
    session_id = (await row_of(system, first)).session_id
    async with database.begin(alice) as db:
        second = await executions.queue_execution(
            db, user_id=alice, session_id=session_id, agent_name=ASSISTANT.name, task="and then"
        )

    assert await system.driver.run(alice, second) == NotOurs()
    await system.driver.run(alice, first)
    assert isinstance(await system.driver.run(alice, second), Ended)


class CancelledMeanwhile(ScriptedModel):
    """A model during whose only call somebody cancels everything."""

    def __init__(self, database: Database, user_id: int) -> None:
        super().__init__(call_reply(CREATE))
        self._database, self._user_id = database, user_id

    async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
        async with self._database.begin(self._user_id) as db:
            for execution_id in await db.scalars(select(AgentExecution.id)):
                await executions.request_cancel(db, execution_id)
        return await super().reply(request, on_text=on_text)


async def test_what_was_cancelled_before_it_began_asks_no_model(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel())
    execution_id = await queued(system)
    async with database.begin(alice) as db:
        await executions.request_cancel(db, execution_id)

    outcome = await system.driver.run(alice, execution_id)

    assert isinstance(outcome, Ended)
    assert outcome.event.status == "cancelled"
    assert (await row_of(system, execution_id)).iterations == 0


async def test_a_cancelled_execution_stops_at_its_next_commit(database: Database, alice: int) -> None:
    system = system_on(database, alice, CancelledMeanwhile(database, alice))
    execution_id = await queued(system)

    outcome = await system.driver.run(alice, execution_id)

    assert isinstance(outcome, Ended)
    assert outcome.event.status == "cancelled"
    async with database.begin(alice) as db:
        assert [row.state for row in await db.scalars(select(ToolExecution))] == ["cancelled"]
        assert (await db.scalars(select(AgencyTask))).all() == []


async def test_an_execution_that_spoils_its_workers_is_parked(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel())
    execution_id = await queued(system)
    async with database.begin(alice) as db:
        await db.execute(update(AgentExecution).values({AgentExecution.attempt: 5}))

    outcome = await system.driver.run(alice, execution_id)

    assert isinstance(outcome, Ended)
    assert outcome.event.status == "failed"
    assert "parked" in outcome.event.text


async def test_a_crash_of_ours_frees_the_session_and_counts(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel(ZeroDivisionError()))
    execution_id = await queued(system)

    with pytest.raises(ZeroDivisionError):
        await system.driver.run(alice, execution_id)

    execution = await row_of(system, execution_id)
    assert execution.attempt == 1
    assert execution.run_after is not None
    assert (await session_of(system, execution)).lease_owner is None


async def test_take_over_finds_what_nobody_works_on_and_nothing_else(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel())
    lapsed, lost, waiting, fresh, leased = [await queued(system) for _ in range(5)]
    for execution_id in (lapsed, leased):
        assert await system.journal.claim(alice, execution_id) is not None
    async with database.begin(alice) as db:
        session_ids = {
            execution_id: (await executions.execution(db, execution_id)).session_id
            for execution_id in (lapsed, lost, waiting, fresh, leased)
        }
        behind_another = await executions.queue_execution(
            db, user_id=alice, session_id=session_ids[lost], agent_name=ASSISTANT.name, task="then this"
        )
        own_session = await executions.create_session(db, alice)
        of_a_program = await executions.queue_execution(
            db, user_id=alice, session_id=own_session, agent_name="report:writer", task="write"
        )
        await db.execute(
            update(AgentSession)
            .where(AgentSession.id == session_ids[lapsed])
            .values({AgentSession.lease_until: text("now() - interval '1 second'")})
        )
        old = update(AgentExecution).where(AgentExecution.id != fresh)
        await db.execute(old.values({AgentExecution.created_at: text("now() - interval '1 hour'")}))
        later = update(AgentExecution).where(AgentExecution.id == waiting)
        await db.execute(later.values({AgentExecution.run_after: text("now() + interval '1 hour'")}))

    async with database.begin_dispatch() as db:
        due = {found.execution_id for found in await executions.due_executions(db)}

    assert due == {lapsed, lost}
    assert not due & {behind_another, of_a_program}


async def test_characters_that_postgres_cannot_store_do_not_keep_an_execution_from_its_end(
    database: Database, alice: int
) -> None:
    odd = "a \x00 and a \ud800"
    calling = call_reply((odd, {}), text=odd)
    system = system_on(database, alice, ScriptedModel(calling, text_reply(odd)))
    execution_id = await queued(system)

    outcome = await system.driver.run(alice, execution_id)

    assert isinstance(outcome, Ended)
    execution = await row_of(system, execution_id)
    assert execution.status == "completed"
    assert execution.result is not None
    assert execution.result["text"].startswith("a \ufffd and a ")
    async with database.begin(alice) as db:
        assert (await db.scalars(select(ToolExecution.state))).one() == "error"


async def test_planning_again_starts_the_count_of_phases_again(database: Database, alice: int) -> None:
    def planned(*phases: str) -> tuple[str, dict[str, Any]]:
        return ("plan", {"goal": "g", "phases": list(phases)})

    advance: tuple[str, dict[str, Any]] = ("advance_phase", {})
    model = ScriptedModel(
        call_reply(planned("a", "b")),
        call_reply(advance, tag="1"),
        call_reply(planned("c", "d")),
        call_reply(advance, tag="2"),
        text_reply("done"),
    )
    system = system_on(database, alice, model)
    execution_id = await queued(system)
    await system.driver.run(alice, execution_id)
    async with database.begin(alice) as db:
        phases = await db.scalars(select(AgentStep.body).where(AgentStep.kind == "phase").order_by(AgentStep.seq))
        assert [(body["index"], body["name"]) for body in phases] == [(1, "b"), (1, "d")]
    assert (await row_of(system, execution_id)).current_phase_index == 1


async def test_an_execution_that_is_just_ending_is_not_claimed_again(
    address: Address, database: Database, alice: int
) -> None:
    """The second worker waits for the row that the first one holds, and must not judge by what it saw before."""
    slow, quick = (system_on(database, alice, ScriptedModel()) for _ in range(2))
    execution_id = await queued(slow)
    claim = await slow.journal.claim(alice, execution_id)
    assert claim is not None
    await slow.journal.begin(claim, UserSpoke(text="fix it"), definition_hash="h")
    async with database.begin(alice) as db:
        await db.execute(update(AgentSession).values({AgentSession.lease_until: text("now() - interval '1 second'")}))
    claims: list[Claim | None] = []

    async def claim_too() -> None:
        claims.append(await quick.journal.claim(alice, execution_id))

    ended = ExecutionEnded(status="completed", text="done")
    async with anyio.create_task_group() as tasks, slow.journal.ending(claim, ended, []):
        tasks.start_soon(claim_too)
        await somebody_waits_for_a_lock(address)
    assert claims == [None]


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def somebody_waits_for_a_lock(address: Address) -> None:
    connection = await connect(address)
    try:
        with anyio.fail_after(5):
            while not await connection.fetchval(WAITING):
                await anyio.lowlevel.checkpoint()
    finally:
        await connection.close()
