"""Operations on approvals: what a person lets an agent do. For people only; agents and MCP clients have none of them.

A person decides about what they see, so granting compares it with what will run: the call in the journal, its row and
the hash that the approval carries must agree.
"""

from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from runtime.approvals import request_hash
from runtime.conversations import wake
from runtime.errors import NotAuthorisedError
from runtime.events import ModelReplied, ToolCall, event_adapter
from runtime.operation import Context, operation
from runtime.ports import Json
from storage.errors import EntityConflictError
from storage.jobs import Jobs
from storage.models.runtime import Approval
from storage.queries import executions, messaging, waiting

DOORS = frozenset({"cli", "python", "dashboard"})
"""Where a person stands on the other side."""

ApprovalId = Annotated[int, Field(ge=1, description="Id of the approval.")]


@operation(effect="none")
async def list_approvals(
    ctx: Context,
    status: Annotated[
        Literal["pending", "granted", "denied", "expired", "used"] | None, Field(description="None: any.")
    ] = "pending",
    limit: Annotated[int, Field(ge=1, le=1000, description="At most this many.")] = 100,
) -> Json:
    """List approvals, those that have waited longest first."""
    _require_person(ctx)
    return {"items": [_head(row) for row in await waiting.approvals(ctx.db, status=status, limit=limit)]}


@operation(effect="none")
async def show_approval(
    ctx: Context,
    id: ApprovalId,  # noqa: A002 -- the wire name of the key
) -> Json:
    """Show one approval with all that will happen: the tool, its arguments as they will be used, whom it reaches."""
    _require_person(ctx)
    row = await waiting.approval(ctx.db, id)
    execution = await executions.execution(ctx.db, row.execution_id)
    conversation = await messaging.conversation_of_session(ctx.db, execution.session_id)
    return _head(row) | {
        "agent": execution.agent_name,
        "task": execution.task_description,
        "recipient": conversation.participant_id if conversation else None,
        "payload": row.payload,
        "decidedAt": row.decided_at.isoformat(timespec="seconds") if row.decided_at else None,
        "decidedBy": row.decided_by,
        "note": row.note,
        "isIntact": await _is_intact(ctx, row),
    }


@operation(effect="db")
async def grant_approval(
    ctx: Context,
    id: ApprovalId,  # noqa: A002 -- the wire name of the key
    note: Annotated[str | None, Field(max_length=2000, description="For the records.")] = None,
) -> Json:
    """Let one call run, once."""
    _require_person(ctx)
    row = await waiting.approval(ctx.db, id)
    if row.status == "pending" and not await _is_intact(ctx, row):
        raise EntityConflictError(
            "approvals", f"approval {id} is not for the call that would run; deny it, and the agent asks again"
        )
    return await _decide(ctx, row, "granted", note)


@operation(effect="db")
async def deny_approval(
    ctx: Context,
    id: ApprovalId,  # noqa: A002 -- the wire name of the key
    note: Annotated[str | None, Field(max_length=2000, description="Why; the agent reads it.")] = None,
) -> Json:
    """Refuse one call; the agent is told so and goes on without it."""
    _require_person(ctx)
    return await _decide(ctx, await waiting.approval(ctx.db, id), "denied", note)


async def expire_approval(db: AsyncSession, jobs: Jobs, user_id: int, approval_id: int) -> None:
    """End an approval that nobody has given in time, and let its execution go on without the call."""
    execution_id = await waiting.expire_approval(db, approval_id)
    if execution_id is not None:
        await wake(db, jobs, user_id, execution_id)


async def _decide(ctx: Context, row: Approval, status: Literal["granted", "denied"], note: str | None) -> Json:
    by = await waiting.username(ctx.db, ctx.user_id)
    if not await waiting.decide_approval(ctx.db, row.id, status=status, by=by, note=note):
        decided = await waiting.approval(ctx.db, row.id)
        became = "has expired" if decided.status == "pending" else f"is {decided.status} already"
        raise EntityConflictError("approvals", f"approval {row.id} {became}")
    await wake(ctx.db, ctx.jobs, ctx.user_id, row.execution_id)
    return {"id": row.id, "executionId": row.execution_id, "status": status, "decidedBy": by}


async def _is_intact(ctx: Context, row: Approval) -> bool:
    """Tell whether what the person sees is what the call's row says, and what the journal says will run."""
    shown = await waiting.tool_execution(ctx.db, row.execution_id, row.tool_use_id)
    call = await _recorded_call(ctx, row)
    return (
        (shown.tool_name, shown.parameters) == (row.tool_name, row.payload)
        and call is not None
        and request_hash(ctx.user_id, row.execution_id, call) == row.request_hash
    )


async def _recorded_call(ctx: Context, row: Approval) -> ToolCall | None:
    """Return the call as the model wrote it: its row cannot hold every character and number of it."""
    for step in reversed(await waiting.steps_of_kinds(ctx.db, row.execution_id, ["assistant"])):
        event = event_adapter.validate_python(step.body)
        calls = event.calls if isinstance(event, ModelReplied) else ()
        for call in calls:
            if call.id == row.tool_use_id:
                return call
    return None


def _require_person(ctx: Context) -> None:
    if ctx.door not in DOORS or ctx.execution_id is not None:
        message = "approvals are given by people: with 'agency approval', in the dashboard, or from Python"
        raise NotAuthorisedError(message)


def _head(row: Approval) -> Json:
    return {
        "id": row.id,
        "executionId": row.execution_id,
        "tool": row.tool_name,
        "reason": row.reason,
        "status": row.status,
        "requestedAt": row.requested_at.isoformat(timespec="seconds"),
        "expiresAt": row.expires_at.isoformat(timespec="seconds"),
    }
