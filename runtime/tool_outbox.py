"""Tools whose effect is sent after their result was recorded: queued in T2, delivered by any worker that has the tool.

A row is delivered at least once, always under the same key (`outbox-<id>`), until the tool returns, refuses, or has
failed for the last time.
"""

import json
import logging
from collections.abc import Mapping
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncSession

from runtime.clock import SystemClock
from runtime.errors import ToolError
from runtime.events import ToolCall
from runtime.journal_port import Claim
from runtime.operation import Operation, parse_arguments
from runtime.tools import ExternalContext, Returned, outside
from storage.errors import StorageError
from storage.jobs import JobRequest, Jobs
from storage.queries import identity, tool_outbox
from storage.tenancy import Database

logger = logging.getLogger(__name__)

SEND = "send"
"""Kind of the jobs that deliver; their id is the row's."""

ATTEMPTS = 8
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 5.0, 900.0


async def queue(db: AsyncSession, jobs: Jobs, claim: Claim, call: ToolCall) -> int:
    """Add a row and its job in the caller's transaction; return the row's id."""
    row_id = await tool_outbox.queue_call(
        db,
        user_id=claim.user_id,
        execution_id=claim.execution_id,
        tool_use_id=call.id,
        tool=call.name,
        arguments=json.dumps(call.arguments),
    )
    await jobs.enqueue(db, JobRequest(kind=SEND, user_id=claim.user_id, id=row_id))
    return row_id


async def deliver(
    database: Database, user_id: int, row_id: int, tools: Mapping[str, Operation], *, default_zone: str
) -> bool:
    """Deliver one row if it is due and its tool is known here; tell whether it is settled.

    The row is taken for a minute, so that of two workers one sends; the other one looks again later.
    """
    async with database.begin(user_id) as db:
        row = await tool_outbox.take_call(db, row_id, list(tools))
        zone = ZoneInfo(await identity.timezone_of(db) or default_zone)
    if row is None:
        return False
    context = ExternalContext(
        key=f"outbox-{row_id}", user_id=user_id, execution_id=row.executionId, now=SystemClock().now(), zone=zone
    )
    returned, is_final = await _send(tools[row.toolName], context, row.arguments)
    is_last = is_final or row.attempts >= ATTEMPTS
    status = "delivered" if not returned.is_error else "failed" if is_last else "pending"
    if returned.is_error:
        logger.warning("a queued tool call was not delivered", extra={"status": status, "tool": row.toolName})
    async with database.begin(user_id) as db:
        await tool_outbox.settle_call(
            db,
            row_id,
            status=status,
            result=None if returned.is_error else json.dumps(returned.result),
            error=returned.text if returned.is_error else None,
            delay_s=min(FIRST_BACKOFF_S * 2 ** (row.attempts - 1), LONGEST_BACKOFF_S),
        )
    return status != "pending"


async def _send(tool: Operation, context: ExternalContext, arguments: dict[str, object]) -> tuple[Returned, bool]:
    """Run the tool; also tell whether trying again would be pointless."""
    try:
        parsed = parse_arguments(tool, arguments)
    except (ToolError, StorageError) as error:
        return Returned(result={}, text=str(error), is_error=True), True
    returned = await outside(tool, context, parsed)
    return returned, not returned.is_error or returned.is_refusal
