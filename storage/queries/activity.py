"""What has happened in one account: counts by state, for a report."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, String, cast, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models.agents import AgentExecution
from storage.models.audit import AuditLog
from storage.models.crm import AgencyTask
from storage.models.messaging import InboundMessage, OutboundMessage
from storage.models.swarm import MemoryEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """How often one thing happened."""

    what: str
    state: str
    """The rows' present status; for a change, the operation."""
    count: int
    latest: datetime


_Line = Select[str, str, int, datetime]


async def activity_since(db: AsyncSession, since: datetime) -> list[Activity]:
    """Return what has happened since then, by kind and state."""
    lines = union_all(
        _counted("messages received", InboundMessage.status, InboundMessage.received_at, since),
        _counted("messages sent", OutboundMessage.status, OutboundMessage.created_at, since),
        _counted("executions", AgentExecution.status, AgentExecution.created_at, since),
        _counted("cards created", AgencyTask.status, AgencyTask.created_at, since),
        _counted("cards completed", AgencyTask.status, AgencyTask.completed_at, since),
        _counted("memories written", MemoryEntry.namespace, MemoryEntry.updated_at, since),
        _counted("changes", AuditLog.action, AuditLog.created_at, since),
    ).subquery()
    rows = await db.execute(select(lines).order_by(lines.c.what, lines.c.state))
    return [Activity(what=row[0], state=row[1], count=row[2], latest=row[3]) for row in rows]


def _counted(what: str, state: Any, at: Any, since: datetime) -> _Line:
    name: ColumnElement[str] = cast(state, String)
    return (
        select(
            literal(what).label("what"), name.label("state"), func.count().label("count"), func.max(at).label("latest")
        )
        .where(at >= since)
        .group_by(name)
    )
