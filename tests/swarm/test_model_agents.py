"""Agents that a model answers for: real executions of the runtime, with the swarm's rows around them."""

import anyio
import pytest
from pydantic import BaseModel
from sqlalchemy import select

from runtime.driver import NotOurs
from runtime.errors import ModelRequestError, ModelUnavailableError
from runtime.events import ModelReplied
from runtime.models.words import tell
from runtime.ports import ModelRequest, OnText
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from storage.models.agents import AgentExecution, AgentSession, AgentStep
from storage.models.crm import AgencyTask
from storage.models.swarm import TaskAssignment
from storage.tenancy import Database
from swarm import Agent, Limits, TaskFailed, agent, swarm


class Verdict(BaseModel):
    """What a reviewer says."""

    is_sound: bool


@agent(capabilities={"research"})
async def researcher(topic: str, depth: int = 1) -> str:
    """Find primary sources. Stop at five."""
    ...


@agent(capabilities={"count"})
async def counter(text: str) -> dict[str, int]:
    return {"letters": len(text)}


reviewer = Agent("reviewer", "Reject claims without a source.", output=Verdict, capabilities={"review"})


def spoken(request: ModelRequest) -> str:
    """Return what the model was asked last, as one text."""
    return str(request.messages[-1]["content"])


async def executions(database: Database, user_id: int) -> list[AgentExecution]:
    async with database.begin(user_id) as db:
        return list(await db.scalars(select(AgentExecution).order_by(AgentExecution.id)))


async def test_a_model_agent_is_one_execution_with_its_journal(database: Database, alice: int) -> None:
    async with (
        ScriptedModel(text_reply("five sources")) as model,
        swarm(researcher, local=system_on(database, alice, model)) as s,
    ):
        assert await s.submit(researcher, "prices", depth=2) == "five sources"
    request = model.requests[0]
    assert request.system == "Find primary sources. Stop at five."
    assert '{"topic": "prices", "depth": 2}' in spoken(request).replace('\\"', '"')
    async with database.begin(alice) as db:
        session = (await db.scalars(select(AgentSession))).one()
        execution = (await db.scalars(select(AgentExecution))).one()
        kinds = list(await db.scalars(select(AgentStep.kind).order_by(AgentStep.seq)))
        attempt = (await db.scalars(select(TaskAssignment))).one()
    assert (session.status, session.lease_owner) == ("complete", None)
    assert (execution.status, execution.result, execution.iterations) == ("completed", {"text": "five sources"}, 1)
    assert execution.agent_name.endswith("test_model_agents:researcher")
    assert kinds == ["user", "assistant", "plan", "control"]
    assert (attempt.execution_id, attempt.status) == (execution.id, "completed")


async def test_results_reach_a_model_under_the_task_that_they_answer(database: Database, alice: int) -> None:
    async with (
        ScriptedModel(text_reply('{"is_sound": true}')) as model,
        swarm(counter, reviewer, local=system_on(database, alice, model)) as s,
    ):
        counted = s.submit("how long", needs={"count"})
        assert await s.submit("Is it sound?", needs={"review"}, after=[counted]) == Verdict(is_sound=True)
    task = (await executions(database, alice))[1].task_description
    assert task == "Is it sound?\n\nResult of 'how long':\n{\n \"letters\": 8\n}"
    assert "JSON Schema" in model.requests[0].system


async def test_an_answer_that_does_not_fit_is_asked_for_again_in_a_new_session(database: Database, alice: int) -> None:
    replies = text_reply("It is fine."), text_reply('```json\n{"is_sound": false}\n```')
    async with ScriptedModel(*replies) as model, swarm(reviewer, local=system_on(database, alice, model)) as s:
        assert await s.submit(reviewer, "this") == Verdict(is_sound=False)
    runs = await executions(database, alice)
    assert [(run.status, run.session_id == runs[0].session_id) for run in runs] == [
        ("completed", True),
        ("completed", False),
    ]
    async with database.begin(alice) as db:
        attempts = (await db.scalars(select(TaskAssignment).order_by(TaskAssignment.attempt))).all()
    assert [one.status for one in attempts] == ["failed", "completed"]
    assert "invalid output" in str(attempts[0].error)
    assert len(model.requests[1].messages) == 1


async def test_a_model_agent_uses_the_tools_it_was_given(database: Database, alice: int) -> None:
    clerk = Agent("clerk", "Put work on the board.", tools=["create_task"], limits=Limits(turns=5))
    replies = call_reply(("create_task", {"title": "Fix it", "priority": "high"})), text_reply("done")
    async with ScriptedModel(*replies) as model, swarm(clerk, local=system_on(database, alice, model)) as s:
        assert await s.submit(clerk, "fix it") == "done"
    assert [tool.name for tool in model.requests[0].tools] == ["create_task"]
    async with database.begin(alice) as db:
        card = (await db.scalars(select(AgencyTask))).one()
        limit = await db.scalar(select(AgentSession.max_iterations))
    assert (card.title, limit) == ("Fix it", 5)
    assert card.execution_id == (await executions(database, alice))[0].id


async def test_what_the_provider_refuses_fails_the_attempt_with_its_reason(database: Database, alice: int) -> None:
    async def block() -> None:
        async with (
            ScriptedModel(ModelRequestError("too long", status=400)) as model,
            swarm(reviewer, local=system_on(database, alice, model)) as s,
        ):
            await s.submit("this", max_attempts=1)

    with pytest.raises(TaskFailed) as caught:
        await block()
    assert "too long" in caught.value.attempts[0].error
    assert [run.status for run in await executions(database, alice)] == ["failed"]


async def test_an_overloaded_model_is_waited_for_within_the_same_attempt(database: Database, alice: int) -> None:
    replies = ModelUnavailableError("busy", retry_after_s=0.01), text_reply("five sources")
    async with ScriptedModel(*replies) as model, swarm(researcher, local=system_on(database, alice, model)) as s:
        assert await s.submit("prices") == "five sources"
    assert [run.status for run in await executions(database, alice)] == ["completed"]


class Thinking:
    """A model that thinks until it is told to answer."""

    name = "thinking"

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.may_answer = anyio.Event()

    async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
        """Wait for the permission, then answer."""
        assert request.messages
        self.asked.set()
        await self.may_answer.wait()
        reply = text_reply("at last")
        tell(reply, on_text)
        return reply


async def test_a_swarm_that_fails_leaves_no_execution_open_and_no_lease(database: Database, alice: int) -> None:
    model = Thinking()

    async def block() -> None:
        async with swarm(researcher, local=system_on(database, alice, model)) as s:
            s.submit("prices")
            await model.asked.wait()
            raise LookupError

    with pytest.raises(LookupError):
        await block()
    async with database.begin(alice) as db:
        session = (await db.scalars(select(AgentSession))).one()
        attempt = (await db.scalars(select(TaskAssignment))).one()
    assert [run.status for run in await executions(database, alice)] == ["cancelled"]
    assert (session.status, session.lease_owner, attempt.status) == ("complete", None, "cancelled")
    assert session.lease_epoch == 2, "one for the claim, one that fences off whoever might go on with it"


async def test_an_execution_that_the_swarm_drives_is_not_driven_by_a_worker_too(database: Database, alice: int) -> None:
    model = Thinking()
    local = system_on(database, alice, model)
    async with swarm(researcher, local=local) as s:
        task = s.submit("prices")
        await model.asked.wait()
        running = (await executions(database, alice))[0]
        assert await local.driver.run(alice, running.id) == NotOurs()
        model.may_answer.set()
        assert await task == "at last"


async def test_a_crash_of_the_driver_is_the_outcome_of_the_attempt_and_not_of_the_swarm(
    database: Database, alice: int
) -> None:
    def crash(request: ModelRequest) -> ModelReplied:
        raise ZeroDivisionError("a bug")

    async with (
        ScriptedModel(crash, text_reply("five sources")) as model,
        swarm(researcher, local=system_on(database, alice, model)) as s,
    ):
        assert await s.submit("prices") == "five sources"
    runs = await executions(database, alice)
    assert [(run.status, run.error) for run in runs] == [("failed", "ZeroDivisionError: a bug"), ("completed", None)]


async def test_an_execution_of_an_unknown_programs_agent_rests_instead_of_failing(
    database: Database, alice: int
) -> None:
    local = system_on(database, alice)
    async with database.begin(alice) as db:
        session = AgentSession(user_id=alice)
        db.add(session)
        await db.flush()
        queued = AgentExecution(
            user_id=alice, session_id=session.id, agent_name="__main__:researcher", task_description="x"
        )
        db.add(queued)
    assert await local.driver.run(alice, queued.id) == NotOurs()
    run = (await executions(database, alice))[0]
    assert (run.status, run.error, run.attempt) == ("pending", None, 0)
    assert run.run_after is not None
