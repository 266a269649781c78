"""Agents that are rows of a tenant."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, null, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from storage.errors import EntityNotFoundError
from storage.models.runtime import AgentDefinition


async def definitions(db: AsyncSession) -> Sequence[AgentDefinition]:
    """Return the tenant's agents by name."""
    return (await db.scalars(select(AgentDefinition).order_by(AgentDefinition.name))).all()


async def save(
    db: AsyncSession,
    *,
    user_id: int,
    name: str,
    instructions: str,
    model: str | None,
    tools: Sequence[str],
    output_schema: dict[str, Any] | None,
    limits: dict[str, Any],
) -> AgentDefinition:
    """Insert an agent, or put this definition in the place of its former one, and return the row."""
    said: dict[Any, Any] = {
        AgentDefinition.instructions: instructions,
        AgentDefinition.model: model,
        AgentDefinition.tools: list(tools),
        AgentDefinition.output_schema: null() if output_schema is None else output_schema,
        AgentDefinition.limits: limits,
        AgentDefinition.updated_at: func.now(),
    }
    statement = insert(AgentDefinition).values({AgentDefinition.user_id: user_id, AgentDefinition.name: name} | said)
    saved = statement.on_conflict_do_update(
        index_elements=[AgentDefinition.user_id, AgentDefinition.name], set_=said
    ).returning(AgentDefinition)
    return (await db.scalars(saved, execution_options={"populate_existing": True})).one()


async def remove(db: AsyncSession, name: str) -> int:
    """Delete an agent and return what its id was.

    Raises:
        EntityNotFoundError: the tenant has none of this name.
    """
    statement = delete(AgentDefinition).where(AgentDefinition.name == name).returning(AgentDefinition.id)
    row_id = (await db.execute(statement)).scalar_one_or_none()
    if row_id is None:
        raise EntityNotFoundError("agentDefinitions", name)
    return row_id
