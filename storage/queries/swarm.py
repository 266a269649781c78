"""Swarms: what their scheduler writes, set by set, and what is asked about them.

Every function works in the caller's transaction. Whoever writes for a swarm calls `hold` first: it locks the swarm's
row under the scheduler's epoch, so that a scheduler that has been replaced writes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Integer,
    String,
    Values,
    case,
    column,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    text,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from storage.base import JsonList, JsonObject
from storage.errors import EntityConflictError, EntityNotFoundError
from storage.ids import new_id
from storage.models.agents import AgentExecution, AgentSession, ToolExecution
from storage.models.swarm import (
    AgentStatus,
    AgentStrategy,
    AssignmentStatus,
    MemoryEntry,
    QueenMode,
    Swarm,
    SwarmAgent,
    SwarmHistory,
    SwarmPriority,
    SwarmStatus,
    SwarmTask,
    SwarmTaskStatus,
    TaskAssignment,
    TaskDependency,
    Topology,
)
from storage.namespaces import swarm_namespace
from storage.queries.executions import ACTIVE

LEASE_S = 15
"""How long a scheduler holds a swarm without renewal."""

_LEASE_END = func.now() + text(f"interval '{LEASE_S} seconds'")
_OPEN_TASK = ("pending", "assigned", "running")
_OPEN_ATTEMPT = ("assigned", "active")
_UNSYNCED: Mapping[str, Any] = {"synchronize_session": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSwarm:
    """What a swarm is made from."""

    id: str
    user_id: int
    name: str
    topology: Topology
    queen_mode: QueenMode
    strategy: AgentStrategy
    max_agents: int
    config: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMember:
    """What an agent of a swarm is made from."""

    id: str
    agent_type: str
    name: str
    capabilities: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The right to write for a swarm, as long as its epoch is ours."""

    user_id: int
    swarm_id: str
    owner: str
    """The process (`storage.ids.process_name`)."""
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """What a task is made from; `satisfied` and `waits_for` are ids of the tasks that it comes after."""

    id: str
    description: str
    priority: SwarmPriority
    pri: int
    kind: str
    max_attempts: int
    waits_for: Sequence[str] = ()
    satisfied: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAttempt:
    """What an attempt, its session and its execution are made from."""

    id: str
    task_id: str
    agent_id: str
    attempt: int
    agent_name: str
    """Under this name the runtime knows the agent."""
    task: str
    """The input, as the agent gets it."""
    max_iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunAttempt:
    """An attempt that is under way; `is_driven`: the runtime's driver writes its execution."""

    id: str
    task_id: str
    execution_id: int
    is_driven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAttempt:
    """The outcome of an attempt. Its execution gets the outcome too, unless the runtime has ended it already."""

    id: str
    agent_id: str
    execution_id: int | None
    """None: its row is gone."""
    status: AssignmentStatus
    output: Any = None
    """JSON."""
    error: str | None = None
    duration_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTask:
    """The outcome of a task."""

    id: str
    status: SwarmTaskStatus
    result: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRow:
    """One agent of a swarm, as its row says."""

    id: str
    name: str
    agent_type: str
    status: AgentStatus
    capabilities: JsonList
    current_task_id: str | None
    message_count: int
    success_count: int
    error_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A swarm, its agents and how many tasks are where."""

    id: str
    name: str
    topology: Topology
    queen_mode: QueenMode
    strategy: AgentStrategy
    status: SwarmStatus
    queen_agent_id: str | None
    created_at: datetime
    agents: Sequence[MemberRow] = ()
    tasks: Mapping[SwarmTaskStatus, int] = field(default_factory=dict[SwarmTaskStatus, int])


async def create(db: AsyncSession, new: NewSwarm, members: Sequence[NewMember], *, owner: str) -> Fence:
    """Insert a swarm that is initializing, its spawning agents and its open history; `owner` schedules it."""
    row = Swarm(
        id=new.id,
        user_id=new.user_id,
        name=new.name,
        topology=new.topology,
        queen_mode=new.queen_mode,
        strategy=new.strategy,
        max_agents=new.max_agents,
        config=new.config,
        scheduler_owner=owner,
        scheduler_epoch=1,
    )
    db.add(row)
    await db.flush()
    await _change(db, update(Swarm).where(Swarm.id == new.id).values({Swarm.scheduler_until: _LEASE_END}), 1)
    db.add_all(
        SwarmAgent(
            id=member.id,
            user_id=new.user_id,
            swarm_id=new.id,
            type=member.agent_type,
            name=member.name,
            capabilities=list(member.capabilities),
        )
        for member in members
    )
    db.add(SwarmHistory(id=new_id("his"), user_id=new.user_id, swarm_id=new.id))
    await db.flush()
    return Fence(user_id=new.user_id, swarm_id=new.id, owner=owner, epoch=1)


async def hold(db: AsyncSession, fence: Fence) -> bool:
    """Lock the swarm for this transaction; False when another scheduler has it: then nothing may be written.

    NO KEY UPDATE is enough against a take-over, which updates the row, and lets tasks refer to the swarm meanwhile.
    """
    return await db.scalar(_fenced(fence).with_for_update(key_share=True)) is not None


async def renew(db: AsyncSession, fence: Fence) -> bool:
    """Prolong the lease; False when another scheduler has it."""
    statement = update(Swarm).where(Swarm.id.in_(_fenced(fence))).values({Swarm.scheduler_until: _LEASE_END})
    return (await db.execute(statement.returning(Swarm.id))).one_or_none() is not None


def _fenced(fence: Fence) -> Any:
    return select(Swarm.id).where(
        Swarm.id == fence.swarm_id, Swarm.scheduler_epoch == fence.epoch, Swarm.scheduler_owner == fence.owner
    )


async def activate(db: AsyncSession, swarm_id: str, queen_agent_id: str | None) -> None:
    """Show a new swarm as active under its queen, and its agents as idle."""
    spawned = update(SwarmAgent).where(SwarmAgent.swarm_id == swarm_id, SwarmAgent.status == "spawning")
    await db.execute(spawned.values({SwarmAgent.status: "idle"}).execution_options(**_UNSYNCED))
    active = update(Swarm).where(Swarm.id == swarm_id, Swarm.status == "initializing")
    await _change(db, active.values({Swarm.status: "active", Swarm.queen_agent_id: queen_agent_id}), 1)


async def add_tasks(db: AsyncSession, fence: Fence, tasks: Sequence[NewTask]) -> None:
    """Insert pending tasks, in this order, with what they come after."""
    if not tasks:
        return
    rows: list[dict[str, Any]] = [
        {
            SwarmTask.id.key: task.id,
            SwarmTask.user_id.key: fence.user_id,
            SwarmTask.swarm_id.key: fence.swarm_id,
            SwarmTask.description.key: task.description,
            SwarmTask.priority.key: task.priority,
            SwarmTask.pri.key: task.pri,
            SwarmTask.kind.key: task.kind,
            SwarmTask.max_attempts.key: task.max_attempts,
            SwarmTask.deps_left.key: len(task.waits_for),
        }
        for task in tasks
    ]
    await db.execute(insert(SwarmTask), rows)
    edges: list[dict[str, Any]] = [
        {
            TaskDependency.user_id.key: fence.user_id,
            TaskDependency.task_id.key: task.id,
            TaskDependency.depends_on.key: depends_on,
            TaskDependency.status.key: status,
        }
        for task in tasks
        for status, ids in (("satisfied", task.satisfied), ("pending", task.waits_for))
        for depends_on in ids
    ]
    if edges:
        await db.execute(insert(TaskDependency), edges)


async def claim(db: AsyncSession, fence: Fence, attempts: Sequence[NewAttempt]) -> list[int]:
    """Give ready tasks to idle agents, each with a session and an execution of its own; return the executions' ids.

    Raises:
        EntityConflictError: a task is not ready or an agent not idle; nothing of the transaction may be kept.
    """
    if not attempts:
        return []
    owner = fence.user_id
    sessions: list[dict[str, Any]] = [
        {
            AgentSession.user_id.key: owner,
            AgentSession.max_iterations.key: one.max_iterations,
            AgentSession.context.key: {"oneTask": True, "swarm": fence.swarm_id},
        }
        for one in attempts
    ]
    made = insert(AgentSession).returning(AgentSession.id, sort_by_parameter_order=True)
    session_ids = (await db.scalars(made, sessions)).all()
    runs: list[dict[str, Any]] = [
        {
            AgentExecution.user_id.key: owner,
            AgentExecution.session_id.key: session_id,
            AgentExecution.agent_name.key: one.agent_name,
            AgentExecution.task_description.key: one.task,
        }
        for one, session_id in zip(attempts, session_ids, strict=True)
    ]
    queued = insert(AgentExecution).returning(AgentExecution.id, sort_by_parameter_order=True)
    execution_ids = list((await db.scalars(queued, runs)).all())
    rows: list[dict[str, Any]] = [
        {
            TaskAssignment.id.key: one.id,
            TaskAssignment.user_id.key: owner,
            TaskAssignment.task_id.key: one.task_id,
            TaskAssignment.agent_id.key: one.agent_id,
            TaskAssignment.attempt.key: one.attempt,
            TaskAssignment.execution_id.key: execution_id,
        }
        for one, execution_id in zip(attempts, execution_ids, strict=True)
    ]
    await db.execute(insert(TaskAssignment), rows)
    await _take(db, [(one.task_id, one.agent_id, sid) for one, sid in zip(attempts, session_ids, strict=True)])
    return execution_ids


async def _take(db: AsyncSession, taken: Sequence[tuple[str, str, int]]) -> None:
    """Show tasks as assigned and agents as busy with them; `taken`: (task, agent, agent session)."""
    pairs = _rows("taken", task_id=String(), agent_id=String(), session_id=BigInteger()).data(list(taken))
    assigned = (
        update(SwarmTask)
        .where(SwarmTask.id == pairs.c.task_id, SwarmTask.status == "pending", SwarmTask.deps_left == 0)
        .values(
            {
                SwarmTask.status: "assigned",
                SwarmTask.attempts: SwarmTask.attempts + 1,
                SwarmTask.assigned_agents: SwarmTask.assigned_agents.op("||")(func.to_jsonb(pairs.c.agent_id)),
            }
        )
    )
    await _change(db, assigned, len(taken))
    busy = (
        update(SwarmAgent)
        .where(SwarmAgent.id == pairs.c.agent_id, SwarmAgent.status == "idle")
        .values(
            {
                SwarmAgent.status: "busy",
                SwarmAgent.current_task_id: pairs.c.task_id,
                SwarmAgent.agent_session_id: pairs.c.session_id,
            }
        )
    )
    await _change(db, busy, len(taken))


async def begin_attempts(db: AsyncSession, begun: Sequence[BegunAttempt]) -> None:
    """Show claimed attempts as active and their tasks as running."""
    if not begun:
        return
    active = update(TaskAssignment).where(
        TaskAssignment.id.in_([one.id for one in begun]), TaskAssignment.status == "assigned"
    )
    started = {TaskAssignment.status: "active", TaskAssignment.started_at: func.now()}
    await _change(db, active.values(started), len(begun))
    running = update(SwarmTask).where(SwarmTask.id.in_([one.task_id for one in begun]), SwarmTask.status == "assigned")
    await _change(db, running.values({SwarmTask.status: "running"}), len(begun))
    await _begin_executions(db, [one.execution_id for one in begun if not one.is_driven])


async def _begin_executions(db: AsyncSession, execution_ids: Sequence[int]) -> None:
    if not execution_ids:
        return
    executing = (
        update(AgentExecution)
        .where(AgentExecution.id.in_(execution_ids), AgentExecution.status == "pending")
        .values(
            {
                AgentExecution.status: "executing",
                AgentExecution.started_at: func.now(),
                AgentExecution.attempt: AgentExecution.attempt + 1,
            }
        )
    )
    await _change(db, executing, len(execution_ids))
    sessions = update(AgentSession).where(AgentSession.id.in_(_sessions_of(execution_ids)))
    await db.execute(sessions.values({AgentSession.status: "executing"}).execution_options(**_UNSYNCED))


def _sessions_of(execution_ids: Sequence[int]) -> Any:
    return select(AgentExecution.session_id).where(AgentExecution.id.in_(execution_ids))


async def end_attempts(db: AsyncSession, ended: Sequence[EndedAttempt]) -> None:
    """Record outcomes on attempts, on their executions and sessions, and on their agents, which are idle again."""
    if not ended:
        return
    outcomes = _rows("ended", id=String(), status=String(), error=String()).data(
        [(one.id, one.status, one.error) for one in ended]
    )
    settled = (
        update(TaskAssignment)
        .where(TaskAssignment.id == outcomes.c.id, TaskAssignment.status.in_(_OPEN_ATTEMPT))
        .values(
            {
                TaskAssignment.status: outcomes.c.status,
                TaskAssignment.error: outcomes.c.error,
                # The clock, not the transaction: what begins and ends in one group commit took time all the same.
                TaskAssignment.completed_at: func.clock_timestamp(),
            }
        )
    )
    await _change(db, settled, len(ended))
    await _end_executions(db, ended)
    await _release_agents(db, ended)


async def _end_executions(db: AsyncSession, ended: Sequence[EndedAttempt]) -> None:
    """End what the runtime has not ended itself, and raise the sessions' epoch so that no driver goes on with it."""
    outcomes = _rows(
        "outcomes", id=BigInteger(), status=String(), result=JSONB(), error=String(), duration_ms=Integer()
    ).data([(one.execution_id, one.status, one.output, one.error, one.duration_ms) for one in ended])
    is_completed = outcomes.c.status == "completed"
    statement = (
        update(AgentExecution)
        .where(AgentExecution.id == outcomes.c.id, AgentExecution.status.in_(ACTIVE))
        .values(
            {
                AgentExecution.status: outcomes.c.status,
                AgentExecution.result: case((is_completed, outcomes.c.result), else_=null()),
                AgentExecution.error: outcomes.c.error,
                AgentExecution.duration_ms: outcomes.c.duration_ms,
                AgentExecution.completed_at: func.clock_timestamp(),
            }
        )
        .returning(AgentExecution.id)
        .execution_options(**_UNSYNCED)
    )
    await _close_sessions(db, (await db.scalars(statement)).all())


async def _close_sessions(db: AsyncSession, execution_ids: Sequence[int]) -> None:
    if not execution_ids:
        return
    resting = case((AgentExecution.status == "failed", "error"), else_="complete")
    sessions = (
        update(AgentSession)
        .where(AgentSession.id == AgentExecution.session_id, AgentExecution.id.in_(execution_ids))
        .values(
            {
                AgentSession.status: resting,
                AgentSession.lease_owner: None,
                AgentSession.lease_until: None,
                AgentSession.lease_epoch: AgentSession.lease_epoch + 1,
            }
        )
    )
    await _change(db, sessions, len(execution_ids))
    never_ran = update(ToolExecution).where(
        ToolExecution.execution_id.in_(execution_ids), ToolExecution.state.in_(("pending", "started"))
    )
    await db.execute(never_ran.values({ToolExecution.state: "cancelled"}).execution_options(**_UNSYNCED))


async def _release_agents(db: AsyncSession, ended: Sequence[EndedAttempt]) -> None:
    agents = _rows("released", id=String(), good=Integer(), bad=Integer()).data(
        [(one.agent_id, int(one.status == "completed"), int(one.status == "failed")) for one in ended]
    )
    idle = (
        update(SwarmAgent)
        .where(SwarmAgent.id == agents.c.id, SwarmAgent.status == "busy")
        .values(
            {
                SwarmAgent.status: "idle",
                SwarmAgent.current_task_id: None,
                SwarmAgent.success_count: SwarmAgent.success_count + agents.c.good,
                SwarmAgent.error_count: SwarmAgent.error_count + agents.c.bad,
                SwarmAgent.message_count: SwarmAgent.message_count + agents.c.good + agents.c.bad,
            }
        )
    )
    await _change(db, idle, len(ended))


async def requeue_tasks(db: AsyncSession, task_ids: Sequence[str]) -> None:
    """Make tasks whose attempt failed ready for the next one."""
    if task_ids:
        statement = update(SwarmTask).where(SwarmTask.id.in_(task_ids), SwarmTask.status.in_(("assigned", "running")))
        await _change(db, statement.values({SwarmTask.status: "pending"}), len(task_ids))


async def end_tasks(db: AsyncSession, ended: Sequence[EndedTask]) -> None:
    """Record the outcomes of tasks, and count the dependencies of those that wait for them down, or break them."""
    if not ended:
        return
    outcomes = _rows("ended", id=String(), status=String(), result=JSONB()).data(
        [(one.id, one.status, one.result) for one in ended]
    )
    is_completed = outcomes.c.status == "completed"
    statement = (
        update(SwarmTask)
        .where(SwarmTask.id == outcomes.c.id, SwarmTask.status.in_(_OPEN_TASK))
        .values(
            {
                SwarmTask.status: outcomes.c.status,
                SwarmTask.result: outcomes.c.result,
                SwarmTask.progress: case((is_completed, 100), else_=SwarmTask.progress),
            }
        )
    )
    await _change(db, statement, len(ended))
    await _satisfy(db, [one.id for one in ended if one.status == "completed"])
    await break_dependencies(db, [one.id for one in ended if one.status != "completed"])


async def _satisfy(db: AsyncSession, completed: Sequence[str]) -> None:
    if not completed:
        return
    satisfied = (
        update(TaskDependency)
        .where(TaskDependency.depends_on.in_(completed), TaskDependency.status == "pending")
        .values({TaskDependency.status: "satisfied"})
        .returning(TaskDependency.task_id)
        .execution_options(**_UNSYNCED)
        .cte("satisfied")
    )
    counted = select(satisfied.c.task_id, func.count().label("met")).group_by(satisfied.c.task_id).subquery()
    nearer = update(SwarmTask).where(SwarmTask.id == counted.c.task_id)
    await db.execute(
        nearer.values({SwarmTask.deps_left: SwarmTask.deps_left - counted.c.met}).execution_options(**_UNSYNCED)
    )


async def break_dependencies(db: AsyncSession, failed: Sequence[str]) -> None:
    """Show as failed what is waited for in vain."""
    if failed:
        broken = update(TaskDependency).where(TaskDependency.depends_on.in_(failed), TaskDependency.status == "pending")
        await db.execute(broken.values({TaskDependency.status: "failed"}).execution_options(**_UNSYNCED))


async def destroy(db: AsyncSession, fence: Fence) -> None:
    """End a swarm: cancel what is open, terminate its agents, close its history, forget its blackboard."""
    await _cancel_open(db, fence.swarm_id)
    gone = update(SwarmAgent).where(SwarmAgent.swarm_id == fence.swarm_id, SwarmAgent.status != "terminated")
    ended = {SwarmAgent.status: "terminated", SwarmAgent.current_task_id: None}
    await db.execute(gone.values(ended).execution_options(**_UNSYNCED))
    await _close_history(db, fence.swarm_id)
    board = swarm_namespace(fence.swarm_id)
    inside = or_(MemoryEntry.namespace == board, MemoryEntry.namespace.startswith(f"{board}/", autoescape=True))
    await db.execute(delete(MemoryEntry).where(inside).execution_options(**_UNSYNCED))
    destroyed: dict[Any, Any] = {
        Swarm.status: "destroyed",
        Swarm.scheduler_owner: None,
        Swarm.scheduler_until: None,
    }
    await _change(db, update(Swarm).where(Swarm.id == fence.swarm_id).values(destroyed), 1)


async def _cancel_open(db: AsyncSession, swarm_id: str) -> None:
    statement = (
        select(TaskAssignment.id, TaskAssignment.agent_id, TaskAssignment.execution_id)
        .join(SwarmTask, SwarmTask.id == TaskAssignment.task_id)
        .where(SwarmTask.swarm_id == swarm_id, TaskAssignment.status.in_(_OPEN_ATTEMPT))
    )
    rows = (await db.execute(statement)).all()
    await end_attempts(
        db, [EndedAttempt(id=row[0], agent_id=row[1], execution_id=row[2], status="cancelled") for row in rows]
    )
    open_tasks = select(SwarmTask.id).where(SwarmTask.swarm_id == swarm_id, SwarmTask.status.in_(_OPEN_TASK))
    reason = {"reason": "cancelled"}
    ids = (await db.scalars(open_tasks)).all()
    await end_tasks(db, [EndedTask(id=task_id, status="cancelled", result=reason) for task_id in ids])


async def _close_history(db: AsyncSession, swarm_id: str) -> None:
    """Compute the counts from the rows that they count, so that they cannot disagree."""
    tasks = select(func.count()).select_from(SwarmTask).where(SwarmTask.swarm_id == swarm_id)
    handled = TaskAssignment.status.in_(("completed", "failed"))
    took = func.extract("epoch", TaskAssignment.completed_at - TaskAssignment.started_at)
    tokens_in, tokens_out, cost = (
        func.coalesce(func.sum(spent), 0)
        for spent in (AgentExecution.tokens_in, AgentExecution.tokens_out, AgentExecution.cost_micros)
    )
    # One unknown price makes the sum unknown.
    known_cost = case((func.count(AgentExecution.id) == func.count(AgentExecution.cost_micros), cost))
    # One pass of joins: subqueries per figure get nested loops, cubic in the number of attempts, because Postgres
    # expects few rows behind a row-level security policy.
    attempts = (
        select(
            func.count().filter(handled).label("handled"),
            func.round(func.avg(took).filter(TaskAssignment.status == "completed"), 2).label("duration"),
            func.jsonb_build_object("tokensIn", tokens_in, "tokensOut", tokens_out, "costMicros", known_cost).label(
                "spent"
            ),
        )
        .select_from(SwarmTask)
        .join(TaskAssignment, TaskAssignment.task_id == SwarmTask.id)
        .outerjoin(AgentExecution, AgentExecution.id == TaskAssignment.execution_id)
        .where(SwarmTask.swarm_id == swarm_id)
    )
    figures = (await db.execute(attempts)).one()
    closed: dict[Any, Any] = {
        SwarmHistory.ended_at: func.clock_timestamp(),
        SwarmHistory.tasks_completed: tasks.where(SwarmTask.status == "completed").scalar_subquery(),
        SwarmHistory.tasks_failed: tasks.where(SwarmTask.status == "failed").scalar_subquery(),
        SwarmHistory.total_messages: figures.handled,
        SwarmHistory.avg_task_duration: figures.duration,
        SwarmHistory.session_data: figures.spent,
    }
    statement = update(SwarmHistory).where(SwarmHistory.swarm_id == swarm_id, SwarmHistory.ended_at.is_(None))
    await _change(db, statement.values(closed), 1)


async def overview(db: AsyncSession, swarm_id: str) -> Overview:
    """Return a swarm with its agents and the number of its tasks by status.

    Raises:
        EntityNotFoundError: no such swarm for this tenant.
    """
    row = await db.get(Swarm, swarm_id)
    if row is None:
        raise EntityNotFoundError("cf_swarms", swarm_id)
    agents = await db.scalars(select(SwarmAgent).where(SwarmAgent.swarm_id == swarm_id).order_by(SwarmAgent.id))
    counts = select(SwarmTask.status, func.count()).where(SwarmTask.swarm_id == swarm_id).group_by(SwarmTask.status)
    return Overview(
        id=row.id,
        name=row.name,
        topology=row.topology,
        queen_mode=row.queen_mode,
        strategy=row.strategy,
        status=row.status,
        queen_agent_id=row.queen_agent_id,
        created_at=row.created_at,
        agents=[_member(agent) for agent in agents],
        tasks=dict((await db.execute(counts)).all()),
    )


def _member(row: SwarmAgent) -> MemberRow:
    return MemberRow(
        id=row.id,
        name=row.name,
        agent_type=row.type,
        status=row.status,
        capabilities=row.capabilities,
        current_task_id=row.current_task_id,
        message_count=row.message_count,
        success_count=row.success_count,
        error_count=row.error_count,
    )


def _rows(name: str, **columns: Any) -> Values:
    """Return an empty VALUES list with these columns, for set-based updates."""
    return values(*(column(key, kind) for key, kind in columns.items()), name=name)


async def _change(db: AsyncSession, statement: Any, expected: int) -> None:
    """Run an UPDATE that must change exactly `expected` rows.

    Raises:
        EntityConflictError: some rows were not in the state that the change starts from.
    """
    table = statement.table.name
    result: Any = await db.execute(statement.execution_options(**_UNSYNCED))
    if result.rowcount != expected:
        raise EntityConflictError(
            table, f"{result.rowcount} of {expected} rows could change their status; somebody else has changed the rest"
        )
