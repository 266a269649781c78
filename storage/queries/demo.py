"""What the demo asks Postgres in order to believe itself."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from storage.base import Base, JsonObject
from storage.models.agents import AgentExecution, ToolExecution
from storage.models.crm import AgencyTask, ClientProfile
from storage.models.messaging import InboundMessage, OutboundMessage
from storage.models.swarm import SwarmAgent, SwarmTask, TaskAssignment
from storage.security import owner_columns


async def ensure_clients(db: AsyncSession, user_id: int, names: Sequence[str]) -> None:
    """Insert the clients that are missing."""
    known = set(await db.scalars(select(ClientProfile.name)))
    db.add_all(ClientProfile(user_id=user_id, name=name) for name in names if name not in known)
    await db.flush()


async def unsettled(db: AsyncSession, inbound_ids: Sequence[int]) -> list[int]:
    """Return which of these messages are not at their end, or have an answer that is still on its way."""
    waiting = select(OutboundMessage.id).where(
        OutboundMessage.execution_id == InboundMessage.execution_id, OutboundMessage.status.in_(("pending", "sending"))
    )
    statement = select(InboundMessage.id).where(
        InboundMessage.id.in_(inbound_ids), (InboundMessage.status == "received") | waiting.exists()
    )
    return list(await db.scalars(statement))


async def story_of(db: AsyncSession, inbound_id: int) -> JsonObject:
    """Return a message with its execution, tool calls, cards and replies."""
    message = (await db.scalars(select(InboundMessage).where(InboundMessage.id == inbound_id))).one()
    execution_id = message.execution_id
    execution = await db.get(AgentExecution, execution_id) if execution_id else None
    tools = await db.scalars(
        select(ToolExecution).where(ToolExecution.execution_id == execution_id).order_by(ToolExecution.id)
    )
    cards = await db.execute(
        select(AgencyTask, ClientProfile.name)
        .outerjoin(ClientProfile, ClientProfile.id == AgencyTask.client_id)
        .where(AgencyTask.conversation_id == message.conversation_id)
        .order_by(AgencyTask.id)
    )
    replies = await db.scalars(
        select(OutboundMessage).where(OutboundMessage.execution_id == execution_id).order_by(OutboundMessage.id)
    )
    return {
        "id": message.id,
        "from": message.from_,
        "body": message.body or "",
        "status": message.status,
        "error": message.error,
        "conversationId": message.conversation_id,
        "execution": _execution(execution),
        "tools": [{"id": row.id, "toolName": row.tool_name, "state": row.state} for row in tools],
        "cards": [_card(row[0], row[1]) for row in cards],
        "replies": [
            {"id": row.id, "status": row.status, "body": row.body, "externalId": row.external_id, "error": row.error}
            for row in replies
        ],
    }


def _execution(row: AgentExecution | None) -> JsonObject | None:
    if row is None:
        return None
    return {"id": row.id, "status": row.status, "iterations": row.iterations, "durationMs": row.duration_ms}


def _card(row: AgencyTask, client_name: str | None) -> JsonObject:
    return {
        "id": row.id,
        "title": row.title,
        "status": row.status,
        "priority": row.priority,
        "dueDate": None if row.due_date is None else row.due_date.isoformat(),
        "client": client_name,
        "taskType": row.task_type,
        "executionId": row.execution_id,
    }


async def row_counts(db: AsyncSession) -> JsonObject:
    """Return how many rows the tenant has in each table, for tables that have any."""
    counts: JsonObject = {}
    for name in owner_columns():
        table: Any = Base.metadata.tables[name]
        found = await db.scalar(select(func.count()).select_from(table))
        if found:
            counts[name] = found
    return counts


async def swarm_tale(db: AsyncSession, swarm_id: str) -> JsonObject:
    """Return how many agents a swarm has, and its tasks and attempts by status."""
    tasks = await db.execute(
        select(SwarmTask.status, func.count()).where(SwarmTask.swarm_id == swarm_id).group_by(SwarmTask.status)
    )
    attempts = await db.execute(
        select(TaskAssignment.status, func.count())
        .join(SwarmTask, SwarmTask.id == TaskAssignment.task_id)
        .where(SwarmTask.swarm_id == swarm_id)
        .group_by(TaskAssignment.status)
    )
    agents = await db.scalar(select(func.count()).select_from(SwarmAgent).where(SwarmAgent.swarm_id == swarm_id))
    return {
        "agents": agents,
        "tasks": {row[0]: row[1] for row in tasks},
        "assignments": {row[0]: row[1] for row in attempts},
    }
