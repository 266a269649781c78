"""Serving on stdin and stdout: both eras on one connection, and no call is cut off when stdin ends.

The SDK (2.3.0) fixes the era with the first message, but Claude Code sends `server/discover` and then `initialize`,
which it refuses with -32022; and at the end of stdin it cancels the calls in flight. So each handshake opens a
connection of its own here, and a connection is closed when it owes no answer any more.
stdout carries the protocol only: the SDK points file descriptor 1 at stderr while it serves.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import anyio
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse, RequestId

from mcp_server.app import AppSource, OpeningApp

DRAIN_S = 30
"""How long calls in flight may go on after stdin has ended: the longest is a status call that waits 20 s."""

_NEVER_ANSWERED = frozenset({"subscriptions/listen"})
"""Requests that stay open as long as the connection."""

_BUFFER = 64

Incoming = SessionMessage | Exception


class _Out(Protocol):
    """Where answers go; the SDK's own protocol is private."""

    async def send(self, item: SessionMessage, /) -> None: ...


async def serve_stdio(server: MCPServer[AppSource], app: OpeningApp | None = None, *, drain_s: float = DRAIN_S) -> None:
    """Serve until stdin ends and every call has been answered.

    `app` is opened in the background once the first answer, that of the handshake, is out; and closed at the end.
    """
    # The SDK's own entry points hide the low-level server, and it is what serves a pair of streams.
    low: Server[Any] = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- as above
    async with stdio_server() as (messages, out), out, anyio.create_task_group() as tasks:
        greeted = anyio.Event()
        if app is not None:
            tasks.start_soon(_open_after, greeted, app)
        connection: _Connection | None = None
        async for message in messages:
            if connection is None or _method(message) == "initialize":
                if connection is not None:
                    tasks.start_soon(connection.finish, drain_s)
                connection = _Connection(low, out, greeted)
                tasks.start_soon(connection.run)
            await connection.take(message)
        if connection is not None:
            await connection.finish(drain_s)
        if app is not None:
            app.close()
        greeted.set()


async def _open_after(greeted: anyio.Event, app: OpeningApp) -> None:
    await greeted.wait()
    await app.run()


class _Connection:
    """One handshake's share of the stream, and the answers that it owes."""

    def __init__(self, low: Server[Any], out: _Out, greeted: anyio.Event) -> None:
        self._low = low
        self._out = out
        self._greeted = greeted
        self._to_server, self._from_client = anyio.create_memory_object_stream[Incoming](_BUFFER)
        self._to_client, self._from_server = anyio.create_memory_object_stream[SessionMessage](_BUFFER)
        self._owed: set[RequestId] = set()
        self._settled = anyio.Event()

    async def run(self) -> None:
        """Serve until `finish`."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pass_on)
            await self._low.run(self._from_client, self._to_client, self._low.create_initialization_options())

    async def take(self, message: Incoming) -> None:
        """Hand a message of the client to the server."""
        self._note(message)
        await self._to_server.send(message)

    async def finish(self, drain_s: float) -> None:
        """Let the server answer what it owes, then end it."""
        with anyio.move_on_after(drain_s):
            while self._owed:
                await self._settled.wait()
        await self._to_server.aclose()

    async def _pass_on(self) -> None:
        async with self._from_server:
            async for message in self._from_server:
                await self._out.send(message)
                if isinstance(message.message, JSONRPCResponse | JSONRPCError) and message.message.id is not None:
                    self._settle(message.message.id)
                    self._greeted.set()

    def _note(self, message: Incoming) -> None:
        match message:
            case SessionMessage(message=JSONRPCRequest(id=request_id, method=method)) if method not in _NEVER_ANSWERED:
                self._owed.add(request_id)
            case SessionMessage(message=JSONRPCNotification(method="notifications/cancelled", params=params)):
                self._settle(_cancelled_id(params))
            case _:
                pass

    def _settle(self, request_id: RequestId | None) -> None:
        """Strike a request off; one that the client has cancelled is never answered."""
        self._owed = {owed for owed in self._owed if str(owed) != str(request_id)}
        if not self._owed:
            self._settled.set()
            self._settled = anyio.Event()


def _method(message: Incoming) -> str | None:
    match message:
        case SessionMessage(message=JSONRPCRequest(method=method)):
            return method
        case _:
            return None


def _cancelled_id(params: Mapping[str, Any] | None) -> RequestId | None:
    return (params or {}).get("requestId")
