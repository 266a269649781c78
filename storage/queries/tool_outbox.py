"""Queued tool calls: rows that a worker sends after their result was recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A row that waits for a worker with its tool."""

    user_id: int
    id: int


async def queue_call(
    db: AsyncSession, *, user_id: int, execution_id: int, tool_use_id: str, tool: str, arguments: str
) -> int:
    """Add a row and return its id; `arguments` is JSON."""
    values = {
        "user_id": user_id,
        "execution_id": execution_id,
        "call_id": tool_use_id,
        "tool": tool,
        "arguments": arguments,
    }
    return (await db.execute(_QUEUE, values)).scalar_one()


async def due_calls(dispatch: AsyncSession, tools: Sequence[str], *, limit: int = 100) -> list[Due]:
    """Return rows whose time has come and whose tool is one of these."""
    rows = await dispatch.execute(_DUE, {"tools": list(tools), "limit": limit})
    return [Due(user_id=row[0], id=row[1]) for row in rows]


async def pending_calls(db: AsyncSession, execution_id: int) -> list[int]:
    """Return the rows of an execution that are not delivered."""
    return list((await db.execute(_PENDING, {"execution_id": execution_id})).scalars())


async def take_call(db: AsyncSession, row_id: int, tools: Sequence[str]) -> Row[Any] | None:
    """Take a row for a minute: (executionId, toolName, arguments, attempts); None: it is not due, or not for these."""
    return (await db.execute(_TAKE, {"id": row_id, "tools": list(tools)})).one_or_none()


async def settle_call(
    db: AsyncSession, row_id: int, *, status: str, result: str | None, error: str | None, delay_s: float
) -> None:
    """Say what became of a row; one that stays pending is due again in `delay_s` seconds."""
    values = {"id": row_id, "status": status, "result": result, "error": error, "delay_s": delay_s}
    await db.execute(_SETTLE, values)


_QUEUE = text(
    """
    INSERT INTO "toolOutbox" ("userId", "executionId", "toolUseId", "toolName", arguments)
    VALUES (:user_id, :execution_id, :call_id, :tool, CAST(:arguments AS jsonb)) RETURNING id
    """
)

_DUE = text(
    """
    SELECT "userId", id FROM "toolOutbox"
    WHERE status = 'pending' AND "nextAttemptAt" <= now() AND "toolName" = ANY(:tools) ORDER BY id LIMIT :limit
    """
)

_PENDING = text(
    """SELECT id FROM "toolOutbox" WHERE "executionId" = :execution_id AND status = 'pending' ORDER BY id"""
)

_TAKE = text(
    """
    UPDATE "toolOutbox" SET attempts = attempts + 1, "nextAttemptAt" = now() + interval '60 seconds'
    WHERE id = :id AND status = 'pending' AND "nextAttemptAt" <= now() AND "toolName" = ANY(:tools)
    RETURNING "executionId", "toolName", arguments, attempts
    """
)

_SETTLE = text(
    """
    UPDATE "toolOutbox"
    SET status = :status, result = CAST(:result AS jsonb), error = :error,
        "nextAttemptAt" = now() + make_interval(secs => :delay_s)
    WHERE id = :id AND status = 'pending'
    """
)
