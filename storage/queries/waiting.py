"""What executions wait for, who may let them go on, and how executions are related.

Whoever answers locks the row of the execution last (`let_go_on`), and the driver that is about to let go of it locks
that row first: so either the driver sees the answer, or the answerer sees that somebody waits for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from storage.errors import EntityNotFoundError
from storage.models.agents import AgentExecution, AgentStep, ToolExecution
from storage.models.crm import AgencyTask
from storage.models.identity import User
from storage.models.runtime import Approval, ApprovalStatus
from storage.queries.executions import ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """An approval that nobody has given in time."""

    user_id: int
    id: int


async def username(db: AsyncSession, user_id: int) -> str:
    """Return what the tenant behind `db` is called."""
    return (await db.scalars(select(User.username).where(User.id == user_id))).one()


# --- approvals ---


async def approvals(db: AsyncSession, *, status: ApprovalStatus | None, limit: int) -> Sequence[Approval]:
    """Return approvals with this status, or with any, the oldest first: those that are waited for longest."""
    statement = select(Approval).order_by(Approval.id).limit(limit)
    if status is not None:
        statement = statement.where(Approval.status == status)
    return (await db.scalars(statement)).all()


async def approval(db: AsyncSession, approval_id: int) -> Approval:
    """Return one approval.

    Raises:
        EntityNotFoundError: no such approval for this tenant.
    """
    statement = select(Approval).where(Approval.id == approval_id).execution_options(populate_existing=True)
    found = (await db.scalars(statement)).one_or_none()
    if found is None:
        raise EntityNotFoundError("approvals", approval_id)
    return found


async def decide_approval(
    db: AsyncSession, approval_id: int, *, status: ApprovalStatus, by: str, note: str | None
) -> bool:
    """Write a person's word; False: it was given before, or its time is over."""
    values: dict[Any, Any] = {
        Approval.status: status,
        Approval.decided_by: by,
        Approval.decided_at: func.now(),
        Approval.note: note,
    }
    fence = (Approval.id == approval_id, Approval.status == "pending", Approval.expires_at > func.now())
    statement = update(Approval).where(*fence).values(values).returning(Approval.id)
    return (await _ids(db, statement)) != []


async def overdue_approvals(dispatch: AsyncSession, limit: int = 100) -> list[Overdue]:
    """Return approvals that nobody has given in time, of every tenant."""
    statement = (
        select(Approval.user_id, Approval.id)
        .where(Approval.status == "pending", Approval.expires_at <= func.now())
        .order_by(Approval.expires_at)
        .limit(limit)
    )
    return [Overdue(user_id=row[0], id=row[1]) for row in await dispatch.execute(statement)]


async def expire_approval(db: AsyncSession, approval_id: int) -> int | None:
    """End an approval whose time is over and return its execution; None: it was given, or ended, in the meantime."""
    fence = (Approval.id == approval_id, Approval.status == "pending", Approval.expires_at <= func.now())
    values: dict[Any, Any] = {Approval.status: "expired", Approval.decided_at: func.now()}
    found = await _ids(db, update(Approval).where(*fence).values(values).returning(Approval.execution_id))
    return found[0] if found else None


# --- calls ---


async def tool_execution(db: AsyncSession, execution_id: int, tool_use_id: str) -> ToolExecution:
    """Return the row of one call, as it is now."""
    statement = select(ToolExecution).where(
        ToolExecution.execution_id == execution_id, ToolExecution.tool_use_id == tool_use_id
    )
    return (await db.scalars(statement.execution_options(populate_existing=True))).one()


async def steps_of_kinds(db: AsyncSession, execution_id: int, kinds: Sequence[str]) -> Sequence[AgentStep]:
    """Return the steps of these kinds of one execution, oldest first."""
    statement = select(AgentStep).where(AgentStep.execution_id == execution_id, AgentStep.kind.in_(kinds))
    return (await db.scalars(statement.order_by(AgentStep.seq))).all()


async def without_result(db: AsyncSession, execution_id: int, call_ids: Iterable[str]) -> set[str]:
    """Return which of these calls have neither a result nor an answer that will be one."""
    statement = select(ToolExecution.tool_use_id).where(
        ToolExecution.execution_id == execution_id,
        ToolExecution.tool_use_id.in_(list(call_ids)),
        ToolExecution.state.in_(("started", "awaiting_approval")),
        ToolExecution.result.is_(None),
    )
    return set(await db.scalars(statement))


async def answer_call(db: AsyncSession, execution_id: int, call_id: str, *, answer: str, by: str) -> bool:
    """Write the answer to a question; False: it has one, or nobody asks any more."""
    values = {"execution_id": execution_id, "call_id": call_id, "answer": answer, "by": by}
    return (await db.execute(_ANSWER, values)).one_or_none() is not None


async def question_texts(db: AsyncSession, card_ids: Iterable[int]) -> dict[int, str]:
    """Return what the cards of questions ask, by their ids; a card that is gone is left out."""
    statement = select(AgencyTask.id, func.coalesce(AgencyTask.description, AgencyTask.title))
    rows = await db.execute(statement.where(AgencyTask.id.in_(list(card_ids))))
    return {row[0]: row[1] for row in rows}


async def close_question(db: AsyncSession, card_id: int) -> None:
    """Move the card of a question that is answered to done; a person may have moved or removed it before."""
    values: dict[Any, Any] = {AgencyTask.status: "done", AgencyTask.completed_at: func.now()}
    statement = update(AgencyTask).where(AgencyTask.id == card_id, AgencyTask.status != "done").values(values)
    await db.execute(statement.execution_options(synchronize_session=False))


# --- executions ---


async def let_go_on(db: AsyncSession, execution_id: int) -> Row[Any] | None:
    """Take away what an execution waits for, and lock its row: (agentName,); None: it is over."""
    return (await db.execute(_LET_GO_ON, {"execution_id": execution_id})).one_or_none()


async def waiting_in(db: AsyncSession, session_id: int) -> list[int]:
    """Return the executions of a session that are not over and may be waiting."""
    statement = select(AgentExecution.id).where(
        AgentExecution.session_id == session_id, AgentExecution.status.in_(("planning", "executing"))
    )
    return list(await db.scalars(statement.order_by(AgentExecution.id)))


async def pause(db: AsyncSession, execution_id: int) -> bool:
    """Keep an execution from being driven; False: it is over."""
    return (await db.execute(_PAUSE, {"execution_id": execution_id})).one_or_none() is not None


async def unpause(db: AsyncSession, execution_id: int) -> bool:
    """Let a paused execution be driven again; False: nobody had paused it."""
    return (await db.execute(_UNPAUSE, {"execution_id": execution_id})).one_or_none() is not None


async def depth(db: AsyncSession, execution_id: int) -> int:
    """Return how many delegations lead to an execution: 0 for one that nobody delegated."""
    line = (
        select(AgentExecution.parent_execution_id.label("parent"), literal(0).label("depth"))
        .where(AgentExecution.id == execution_id)
        .cte("line", recursive=True)
    )
    above = aliased(AgentExecution)
    line = line.union_all(
        select(above.parent_execution_id, line.c.depth + 1).join(line, above.id == line.c.parent)  # pyright: ignore[reportArgumentType] -- a cte's columns have no types
    )
    return (await db.scalar(select(func.max(line.c.depth)))) or 0


async def children(db: AsyncSession, execution_id: int) -> Sequence[AgentExecution]:
    """Return the executions that this one has delegated, oldest first."""
    statement = select(AgentExecution).where(AgentExecution.parent_execution_id == execution_id)
    return (await db.scalars(statement.order_by(AgentExecution.id))).all()


async def cancel_children(db: AsyncSession, execution_id: int) -> list[int]:
    """Ask whatever an execution has delegated, and is not over, to stop; return their ids."""
    values: dict[Any, Any] = {
        AgentExecution.cancel_requested_at: func.coalesce(AgentExecution.cancel_requested_at, func.now())
    }
    statement = (
        update(AgentExecution)
        .where(AgentExecution.parent_execution_id == execution_id, AgentExecution.status.in_(ACTIVE))
        .values(values)
        .returning(AgentExecution.id)
    )
    return await _ids(db, statement)


async def charge_parent(db: AsyncSession, execution_id: int) -> None:
    """Count what a delegated execution has used against the limits of the one that waits for it."""
    await db.execute(_CHARGE_PARENT, {"execution_id": execution_id})


async def _ids(db: AsyncSession, statement: Any) -> list[int]:
    return list((await db.execute(statement.execution_options(synchronize_session=False))).scalars())


_ANSWER = text(
    """
    UPDATE "toolExecutions"
    SET result = jsonb_build_object('answer', CAST(:answer AS text), 'by', CAST(:by AS text))
    WHERE "executionId" = :execution_id AND "toolUseId" = :call_id AND state = 'started' AND result IS NULL
    RETURNING id
    """
)

# As text, because SQLAlchemy writes a None of a jsonb column as JSON's null, which is something to wait for.
_LET_GO_ON = text(
    """
    UPDATE "agentExecutions" SET "waitingFor" = NULL
    WHERE id = :execution_id AND status IN ('pending', 'planning', 'executing')
    RETURNING "agentName"
    """
)

_PAUSE = text(
    """
    UPDATE "agentExecutions" SET "pausedAt" = coalesce("pausedAt", now())
    WHERE id = :execution_id AND status IN ('pending', 'planning', 'executing')
    RETURNING id
    """
)

_UNPAUSE = text(
    """
    UPDATE "agentExecutions" SET "pausedAt" = NULL
    WHERE id = :execution_id AND "pausedAt" IS NOT NULL AND status IN ('pending', 'planning', 'executing')
    RETURNING id
    """
)

_CHARGE_PARENT = text(
    """
    UPDATE "agentExecutions" parent
    SET "unsettledTokens" = parent."unsettledTokens" + child."tokensIn" + child."tokensOut" + child."unsettledTokens",
        "unsettledCostMicros" = parent."unsettledCostMicros" + child."unsettledCostMicros"
            + coalesce(child."costMicros", 0)
    FROM "agentExecutions" child
    WHERE child.id = :execution_id AND parent.id = child."parentExecutionId"
    """
)
