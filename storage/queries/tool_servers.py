"""MCP servers whose tools a tenant's agents may use."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from storage.errors import EntityConflictError, EntityNotFoundError
from storage.models.runtime import McpServer, Transport


async def tool_servers(db: AsyncSession) -> Sequence[McpServer]:
    """Return the tenant's servers by name."""
    return (await db.scalars(select(McpServer).order_by(McpServer.name))).all()


async def tool_server(db: AsyncSession, server_id: int) -> McpServer | None:
    """Return one server that is in use; None when it was removed or switched off."""
    return await db.scalar(select(McpServer).where(McpServer.id == server_id, McpServer.is_active))


async def tool_servers_named(db: AsyncSession, names: Sequence[str]) -> Mapping[str, McpServer]:
    """Return those of these servers that are in use, by name."""
    found = await db.scalars(select(McpServer).where(McpServer.name.in_(names), McpServer.is_active))
    return {row.name: row for row in found}


async def tool_server_named(db: AsyncSession, name: str) -> McpServer:
    """Return one server, in use or not.

    Raises:
        EntityNotFoundError: the tenant has none of this name.
    """
    row = await db.scalar(select(McpServer).where(McpServer.name == name))
    if row is None:
        raise EntityNotFoundError("mcpServers", name)
    return row


async def add_tool_server(
    db: AsyncSession, *, user_id: int, name: str, transport: Transport, command: Sequence[str], url: str | None
) -> int:
    """Insert a server without secret and pins, and return its id.

    Raises:
        EntityConflictError: the tenant has one of this name.
    """
    values = {
        McpServer.user_id: user_id,
        McpServer.name: name,
        McpServer.transport: transport,
        McpServer.command: list(command),
        McpServer.url: url,
    }
    statement = insert(McpServer).values(values).on_conflict_do_nothing().returning(McpServer.id)
    server_id = (await db.execute(statement)).scalar_one_or_none()
    if server_id is None:
        raise EntityConflictError("mcpServers", f"there is a server {name!r}; remove it first, or choose another name")
    return server_id


async def set_secret(db: AsyncSession, server_id: int, sealed: str) -> None:
    """Store the sealed secret of a server."""
    await db.execute(update(McpServer).where(McpServer.id == server_id).values({McpServer.secret_sealed: sealed}))


async def set_pins(db: AsyncSession, server_id: int, pins: Mapping[str, Any]) -> None:
    """Store what was accepted, in place of what was accepted before.

    Raises:
        EntityNotFoundError: the server was removed in the meantime.
    """
    values = {McpServer.pins: dict(pins), McpServer.updated_at: func.now()}
    statement = update(McpServer).where(McpServer.id == server_id).values(values).returning(McpServer.id)
    if (await db.execute(statement)).one_or_none() is None:
        raise EntityNotFoundError("mcpServers", server_id)


async def remove_tool_server(db: AsyncSession, name: str) -> int:
    """Delete a server with its secret and pins, and return what its id was.

    Raises:
        EntityNotFoundError: the tenant has none of this name.
    """
    statement = delete(McpServer).where(McpServer.name == name).returning(McpServer.id)
    server_id = (await db.execute(statement)).scalar_one_or_none()
    if server_id is None:
        raise EntityNotFoundError("mcpServers", name)
    return server_id
