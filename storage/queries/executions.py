"""Sessions and executions, as far as more than the journal needs them: queueing one, planning, looking at it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from storage.errors import EntityNotFoundError
from storage.models.agents import AgentExecution, AgentSession, AgentStep, ExecutionStatus, ToolExecution
from storage.models.runtime import AgentDefinition

ACTIVE = ("pending", "planning", "executing")
"""The statuses of an execution that is not over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an execution is queued under."""

    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """As the column has them: see `runtime.definitions`."""
    parent_id: int | None = None
    """The execution that waits for it."""
    run_after: datetime | None = None
    """Not before this."""


async def create_session(db: AsyncSession, user_id: int, *, one_task: bool = False, max_iterations: int = 100) -> int:
    """Insert an agent session and return its id; `one_task`: nothing more will come after its execution."""
    session = AgentSession(user_id=user_id, max_iterations=max_iterations, context={"oneTask": one_task})
    db.add(session)
    await db.flush()
    return session.id


async def fork_session(db: AsyncSession, user_id: int, parent: AgentSession, *, upto: int) -> int:
    """Insert a session that begins with the steps of another one up to `upto`, and return its id. Nothing is copied."""
    session = AgentSession(
        user_id=user_id,
        max_iterations=parent.max_iterations,
        limits=parent.limits,
        context={"oneTask": True},
        parent_session_id=parent.id,
        parent_seq=upto,
    )
    db.add(session)
    await db.flush()
    return session.id


async def queue_execution(
    db: AsyncSession,
    *,
    user_id: int,
    session_id: int,
    agent_name: str,
    task: str,
    terms: Terms | None = None,
) -> int:
    """Insert a pending execution and return its id; executions of one session run one after the other."""
    terms = terms or Terms()
    execution = AgentExecution(
        user_id=user_id,
        session_id=session_id,
        agent_name=agent_name,
        task_description=task,
        limits=dict(terms.limits),
        parent_execution_id=terms.parent_id,
        run_after=terms.run_after,
    )
    db.add(execution)
    await db.flush()
    return execution.id


async def session_is_busy(db: AsyncSession, session_id: int) -> bool:
    """Tell whether an execution of this session is not over."""
    statement = select(AgentExecution.id).where(
        AgentExecution.session_id == session_id, AgentExecution.status.in_(ACTIVE)
    )
    return await db.scalar(statement.limit(1)) is not None


async def next_execution(db: AsyncSession, session_id: int) -> int | None:
    """Return the oldest execution of this session that is not over."""
    statement = select(AgentExecution.id).where(
        AgentExecution.session_id == session_id, AgentExecution.status.in_(ACTIVE)
    )
    return await db.scalar(statement.order_by(AgentExecution.id).limit(1))


async def execution(db: AsyncSession, execution_id: int) -> AgentExecution:
    """Return one execution.

    Raises:
        EntityNotFoundError: no such execution for this tenant.
    """
    found = await db.get(AgentExecution, execution_id)
    if found is None:
        raise EntityNotFoundError("agentExecutions", execution_id)
    return found


async def agent_of(db: AsyncSession, execution_id: int) -> tuple[str, bool] | None:
    """Return the name of the agent that is to do it, and whether somebody wants it stopped instead.

    None: there is no such execution any more.
    """
    is_unwanted = AgentExecution.cancel_requested_at.is_not(None)
    statement = select(AgentExecution.agent_name, is_unwanted).where(AgentExecution.id == execution_id)
    row = (await db.execute(statement)).one_or_none()
    return None if row is None else (row[0], row[1])


async def hand_on(db: AsyncSession, execution_id: int) -> None:
    """Let the workers that have the agent of an execution see at once that nobody works on it."""
    fresh = AgentExecution.status.in_(ACTIVE) & AgentExecution.run_after.is_(None)
    statement = update(AgentExecution).where(AgentExecution.id == execution_id, fresh)
    await db.execute(statement.values({AgentExecution.run_after: func.now()}))


async def waiting_agents(db: AsyncSession) -> Sequence[str]:
    """Return the names of the agents that have executions which could go on and which nobody drives."""
    is_held = or_(AgentExecution.waiting_for.is_not(None), AgentExecution.paused_at.is_not(None))
    is_free = or_(AgentSession.lease_until.is_(None), AgentSession.lease_until < func.now())
    has_time = func.coalesce(AgentExecution.run_after, AgentExecution.created_at) <= func.now()
    statement = (
        select(AgentExecution.agent_name)
        .join(AgentSession, AgentSession.id == AgentExecution.session_id)
        .where(AgentExecution.status.in_(ACTIVE), ~is_held, is_free, has_time)
        .distinct()
    )
    return (await db.scalars(statement.order_by(AgentExecution.agent_name))).all()


async def steps(
    db: AsyncSession, execution_id: int, *, after_seq: int = 0, upto: int | None = None, limit: int | None = 1000
) -> Sequence[AgentStep]:
    """Return the journal of one execution after `after_seq`, and up to `upto`, oldest first."""
    statement = select(AgentStep).where(AgentStep.execution_id == execution_id, AgentStep.seq > after_seq)
    if upto is not None:
        statement = statement.where(AgentStep.seq <= upto)
    return (await db.scalars(statement.order_by(AgentStep.seq).limit(limit))).all()


async def tool_executions(db: AsyncSession, execution_id: int) -> Sequence[ToolExecution]:
    """Return the tool calls of one execution, oldest first."""
    statement = select(ToolExecution).where(ToolExecution.execution_id == execution_id).order_by(ToolExecution.id)
    return (await db.scalars(statement)).all()


async def agent_definition(db: AsyncSession, name: str) -> AgentDefinition | None:
    """Return the tenant's agent of this name that is data."""
    return (await db.scalars(select(AgentDefinition).where(AgentDefinition.name == name))).one_or_none()


async def request_cancel(db: AsyncSession, execution_id: int) -> None:
    """Ask the worker of an execution to stop at its next commit.

    Raises:
        EntityNotFoundError: no such execution for this tenant.
    """
    statement = (
        update(AgentExecution)
        .where(AgentExecution.id == execution_id)
        .values({AgentExecution.cancel_requested_at: func.coalesce(AgentExecution.cancel_requested_at, func.now())})
        .returning(AgentExecution.id)
    )
    if (await db.execute(statement)).one_or_none() is None:
        raise EntityNotFoundError("agentExecutions", execution_id)


async def write_plan(db: AsyncSession, execution_id: int, *, goal: str, phases: Sequence[str]) -> None:
    """Give an execution its plan and move it, and its session, to executing."""
    plan = {"goal": goal, "phases": list(phases)}
    rows = [{"name": name, "status": "active" if index == 0 else "pending"} for index, name in enumerate(phases)]
    statement = update(AgentExecution).where(AgentExecution.id == execution_id)
    planned: dict[Any, Any] = {
        AgentExecution.plan: plan,
        AgentExecution.phases: rows,
        AgentExecution.current_phase_index: 0,
        AgentExecution.status: "executing",
    }
    session_id = (await db.execute(statement.values(planned).returning(AgentExecution.session_id))).scalar_one()
    shown: dict[Any, Any] = {
        AgentSession.plan: plan,
        AgentSession.current_phase: phases[0][:100],
        AgentSession.status: "executing",
    }
    await db.execute(update(AgentSession).where(AgentSession.id == session_id).values(shown))


async def advance_phase(db: AsyncSession, execution_id: int) -> str | None:
    """Move an execution to its next phase and return that phase's name; None when it is in the last one."""
    row = await execution(db, execution_id)
    index = row.current_phase_index + 1
    if index >= len(row.phases):
        return None
    row.phases = [
        phase | {"status": "done" if at < index else "active" if at == index else "pending"}
        for at, phase in enumerate(row.phases)
    ]
    row.current_phase_index = index
    name: str = row.phases[index]["name"]
    await db.execute(
        update(AgentSession).where(AgentSession.id == row.session_id).values({AgentSession.current_phase: name[:100]})
    )
    await db.flush()
    return name


_LOST_AFTER = text("interval '5 seconds'")
"""A wake-up that has not been heard for so long is taken for lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueExecution:
    """An execution that nobody works on although it could go on."""

    user_id: int
    execution_id: int
    lapsed_epoch: int | None
    """Of the lease that its dead worker holds; None: nobody holds one."""


async def due_executions(
    dispatch: AsyncSession, limit: int = 100, *, agents: Collection[str] = (), leave: Collection[int] = ()
) -> list[DueExecution]:
    """Return executions that could go on and that nobody works on: what take-over picks up.

    Their worker is gone (lapsed lease), their `runAfter` has come, or their wake-up was lost: the job engine skips a
    request whose key belongs to a job that is just ending. One that waits for another of its session is not meant.

    Args:
        dispatch: A session of the dispatch role.
        limit: At most so many.
        agents: Names `module:qualname` of the agents that are code of the asking program; those of others are left out.
        leave: Executions that are none of its business for another reason.
    """
    earlier = aliased(AgentExecution)
    waits = (
        select(earlier.id)
        .where(
            earlier.session_id == AgentExecution.session_id,
            earlier.status.in_(ACTIVE),
            earlier.id < AgentExecution.id,
        )
        .exists()
    )
    # An agent named `module:qualname` is defined by a program, and only that program can run it.
    is_known = or_(AgentExecution.agent_name.not_like("%:%"), AgentExecution.agent_name.in_(agents))
    is_held = or_(AgentExecution.waiting_for.is_not(None), AgentExecution.paused_at.is_not(None))
    is_late = AgentExecution.deadline <= func.now()
    can_go_on = or_(~is_held, AgentExecution.cancel_requested_at.is_not(None), is_late)
    # Of sessions, this role sees only the leased ones.
    same = (AgentSession.id == AgentExecution.session_id) & (AgentSession.user_id == AgentExecution.user_id)
    is_free = or_(AgentSession.id.is_(None), AgentSession.lease_until < func.now())
    since = func.coalesce(AgentExecution.run_after, AgentExecution.created_at + _LOST_AFTER)
    statement = (
        select(AgentExecution.user_id, AgentExecution.id, AgentSession.lease_epoch)
        .outerjoin(AgentSession, same)
        .where(AgentExecution.status.in_(ACTIVE), is_known, can_go_on, is_free, since <= func.now(), ~waits)
        .where(AgentExecution.id.not_in(leave))
        .order_by(AgentExecution.id)
        .limit(limit)
    )
    rows = await dispatch.execute(statement)
    return [DueExecution(user_id=row[0], execution_id=row[1], lapsed_epoch=row[2]) for row in rows]


async def newest(db: AsyncSession, *, status: ExecutionStatus | None = None, limit: int) -> Sequence[AgentExecution]:
    """Return executions with this status, or with any, the newest first."""
    statement = select(AgentExecution).order_by(AgentExecution.id.desc()).limit(limit)
    if status is not None:
        statement = statement.where(AgentExecution.status == status)
    return (await db.scalars(statement)).all()
