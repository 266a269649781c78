"""Tools of other MCP servers, for our agents: what was accepted of them, as operations like any other.

An agent names them `server/tool` or `server/*`; a model knows them under `mcp_definitions.model_name`. To resolve names
needs the database only; a connection is opened by the first call.
"""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from runtime.errors import ToolError, UnknownToolError
from runtime.operation import Operation
from runtime.ports import Json
from runtime.services.background import background_tasks
from runtime.services.mcp_definitions import Definition, Pin, changed_fields, model_name
from runtime.services.mcp_errors import ToolDefinitionChangedError, ToolServerUnavailableError
from runtime.services.mcp_schema import arguments_model
from runtime.services.mcp_servers import pins_of, secrets_of
from runtime.tools import ExternalContext
from storage.crypto import Keyring
from storage.models.runtime import McpServer
from storage.queries import tool_servers
from storage.tenancy import Database

if TYPE_CHECKING:  # the SDK takes a second to import, and most processes never talk to another server
    from runtime.services.mcp_connections import Connections

CALL_S = 60.0
"""How long a call may take, connecting included."""

IDLE_S = 120.0
"""A connection that nobody uses is closed after this."""

EVERY = "*"

_SHARE_OF_PREPARING = 0.6
"""Of the time of a call, to connect and to compare the definition. What ends in it was never called, and says so."""


def is_external(name: str) -> bool:
    """Tell whether an agent's name of a tool means one of another server."""
    return "/" in name


class McpToolSource:
    """The tools of other servers, in one process. Make it with `open_mcp_tools`."""

    def __init__(
        self, database: Database, keyring: Keyring, tasks: TaskGroup, *, timeout_s: float, idle_s: float
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._connections: Connections | None = None

    async def operations(self, user_id: int, names: Sequence[str]) -> dict[str, Operation]:
        """Return what these names mean to this tenant, by the name that a model uses; in a fixed order.

        Names without a slash are none of ours and are left out.

        Raises:
            UnknownToolError: the tenant has no such server, or accepted no such tool of it.
        """
        wanted = [name.split("/", 1) for name in names if is_external(name)]
        if not wanted:
            return {}
        async with self._database.begin(user_id, read_only=True) as db:
            rows = await tool_servers.tool_servers_named(db, sorted({server for server, _ in wanted}))
        found: dict[str, Operation] = {}
        for server, tool in sorted(wanted):
            row = rows.get(server)
            if row is None:
                raise UnknownToolError(f"{server}/{tool}", [f"{name}/*" for name in rows])
            pins = pins_of(row)
            if tool not in pins and tool != EVERY:
                raise UnknownToolError(f"{server}/{tool}", [f"{server}/{name}" for name in pins])
            for name in sorted(pins) if tool == EVERY else [tool]:
                made = self._operation(row, name, pins[name])
                found[made.name] = made
        return found

    def _operation(self, row: McpServer, tool: str, pin: Pin) -> Operation:
        server_id = row.id

        async def call(context: ExternalContext, root: Json) -> Json:
            return await self._call(context, server_id, tool, pin, root)

        name = model_name(row.name, tool)
        return Operation(
            name=name,
            description=pin.description or f"The tool {tool!r} of {row.name!r}; its server does not describe it.",
            effect="external",
            arguments=arguments_model(name, pin.input_schema),
            input_schema=pin.input_schema,
            function=call,
            honours_key=pin.may_repeat,
            timeout_s=self._timeout_s,
        )

    async def _call(self, context: ExternalContext, server_id: int, tool: str, pin: Pin, arguments: Json) -> Json:
        row = await self._row(context.user_id, server_id)
        accepted = None if row is None else pins_of(row).get(tool)
        if row is None or accepted is None or accepted.hash != pin.hash:
            message = "a person has removed this tool, or accepted another definition of it, since this run began"
            raise ToolError(message)
        from runtime.services import mcp_connections  # the SDK takes a second to import

        endpoint = mcp_connections.endpoint_of(row, secrets_of(self._keyring, row))
        connections = self._opened()
        with anyio.move_on_after(self._timeout_s * _SHARE_OF_PREPARING) as preparing:
            while True:
                async with connections.use(endpoint) as link:
                    is_fresh = link.uses == 1
                    try:
                        found = await mcp_connections.definitions(connections, link, until=tool)
                    except ToolServerUnavailableError:
                        if is_fresh:
                            raise
                        continue  # it had gone since the last call; nothing was called, so a second try is safe
                    _check_unchanged(row.name, tool, pin, found)
                    preparing.deadline = math.inf
                    return await mcp_connections.call(link, tool, arguments, key=context.key)
        raise ToolServerUnavailableError(row.name, "it was not ready in time")

    async def _row(self, user_id: int, server_id: int) -> McpServer | None:
        """Read the row again at each call: what was removed is not called any more."""
        async with self._database.begin(user_id, read_only=True) as db:
            return await tool_servers.tool_server(db, server_id)

    def _opened(self) -> "Connections":
        from runtime.services.mcp_connections import Connections  # as above

        if self._connections is None:
            self._connections = Connections(self._tasks, idle_s=self._idle_s)
        return self._connections

    async def close(self) -> None:
        """End every connection, and the programs behind them."""
        if self._connections is not None:
            await self._connections.close()


@asynccontextmanager
async def open_mcp_tools(
    database: Database, keyring: Keyring, *, timeout_s: float = CALL_S, idle_s: float = IDLE_S
) -> AsyncGenerator[McpToolSource]:
    """Yield the tools of other servers; at the end of the block every connection is closed, cancelled or not."""
    async with background_tasks() as tasks:
        source = McpToolSource(database, keyring, tasks, timeout_s=timeout_s, idle_s=idle_s)
        try:
            yield source
        finally:
            await source.close()


def _check_unchanged(server: str, tool: str, pin: Pin, found: Sequence[Definition]) -> None:
    """Refuse a tool that is not, or not only, what a person accepted."""
    current = [definition for definition in found if definition.name == tool]
    if len(current) != 1:
        raise ToolDefinitionChangedError(server, tool, ["its existence" if not current else "its uniqueness"])
    fields = changed_fields(pin, current[0])
    if fields:
        raise ToolDefinitionChangedError(server, tool, fields)
