"""Executions that wait, as the tests of waiting see them: through operations and a driver, as in two processes."""

from typing import Any

from sqlalchemy import select

from runtime.agents import ASSISTANT, Agent
from runtime.driver import Driver, Outcome
from runtime.invariants import check_invariants
from runtime.local import Local
from runtime.operation import Operation, perform
from runtime.operations import approvals, executions
from runtime.ports import Json
from runtime.testing import ScriptedModel, system_on
from runtime.testing.scripted import Scripted
from runtime.toolbox import OPERATIONS
from storage.models.agents import AgentExecution, AgentSession, AgentStep, ToolExecution
from storage.queries import executions as rows
from storage.tenancy import Database

QUESTION = ("ask_person", {"question": "May we refund 20 euros?"})


def process(database: Database, user_id: int, *replies: Scripted) -> Local:
    """Return a system as another process has it: with a journal, and so a name for leases, of its own."""
    return system_on(database, user_id, ScriptedModel(*replies))


def driver_of(system: Local, *agents: Agent, tools: tuple[Operation, ...] = ()) -> Driver:
    """Return a driver that knows these agents, and these tools beside the built-in ones."""
    named = {agent.name: agent for agent in (ASSISTANT, *agents)}
    known = {**OPERATIONS, **{tool.name: tool for tool in tools}}
    return system.driver.varied(agents=named.__getitem__, tools=known.__getitem__)


async def queued(
    system: Local, task: str = "look after the refund", agent: str = ASSISTANT.name, **limits: float
) -> int:
    async with system.database.begin(system.user_id) as db:
        session_id = await rows.create_session(db, system.user_id)
        return await rows.queue_execution(
            db,
            user_id=system.user_id,
            session_id=session_id,
            agent_name=agent,
            task=task,
            terms=rows.Terms(limits=limits),
        )


async def did(system: Local, operation: Operation, door: str = "python", **arguments: Any) -> Json:
    """Perform an operation as a person does."""
    async with system.database.begin(system.user_id) as db:
        return await perform(operation, await system.context(db, door=door), arguments)


async def reply(system: Local, execution_id: int, text: str) -> Json:
    return await did(system, executions.reply_execution, id=execution_id, text=text)


async def status(system: Local, execution_id: int, **more: Any) -> Json:
    return await did(system, executions.execution_status, id=execution_id, **more)


async def pending(system: Local) -> list[Json]:
    return (await did(system, approvals.list_approvals))["items"]


async def row_of(system: Local, execution_id: int) -> AgentExecution:
    async with system.database.begin(system.user_id) as db:
        return await rows.execution(db, execution_id)


async def session_of(system: Local, execution_id: int) -> AgentSession:
    async with system.database.begin(system.user_id) as db:
        row = await rows.execution(db, execution_id)
        return await db.get_one(AgentSession, row.session_id)


async def calls_of(system: Local, execution_id: int) -> list[ToolExecution]:
    async with system.database.begin(system.user_id) as db:
        return list(await rows.tool_executions(db, execution_id))


async def results_of(system: Local, execution_id: int) -> list[str]:
    """Return what the model has read as results, oldest first."""
    async with system.database.begin(system.user_id) as db:
        found = select(AgentStep.body).where(AgentStep.execution_id == execution_id, AgentStep.kind == "tool_result")
        return [body["content"] for body in await db.scalars(found.order_by(AgentStep.seq))]


async def drive(system: Local, execution_id: int) -> Outcome:
    return await system.driver.run(system.user_id, execution_id)


async def assert_sound(system: Local) -> None:
    async with system.database.begin(system.user_id, read_only=True) as db:
        assert await check_invariants(db) == []
