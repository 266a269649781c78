"""A proxy in front of Postgres that reads the protocol and loses what a test tells it to.

It numbers the messages of the frontend and can cut the connection before or after one of them, swallow the server's
answer (the server has executed, the client never hears), or fall silent:
https://www.postgresql.org/docs/current/protocol-message-formats.html.
"""

import struct
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.servers.pooler import Server, server_of

Fault = Literal["cut_before", "swallow", "cut_after", "hang"]
"""cut_before: the server never gets the message. swallow: it executes it, and its answer and the connection are lost.
cut_after: the answer arrives, and then the connection is lost. hang: as swallow, and the connection stays."""

_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
"""Requests that come instead of a start-up message."""

_LOST = (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of a frontend."""

    number: int
    """From 1, over all connections since the proxy was armed."""
    kind: str
    """Its type byte: Q for Query, P for Parse, B for Bind, E for Execute, S for Sync, H for Flush ..."""
    sql: str
    """What it executes: of a Query its text, of a Sync the text that was parsed or bound last, if it is known."""

    @property
    def is_answered(self) -> bool:
        """Whether the server executes what it has so far, and says that it is ready for more."""
        return self.kind in "QS"

    @property
    def is_commit(self) -> bool:
        """Whether it ends a transaction that shall stay."""
        return self.kind == "Q" and self.sql.upper().startswith("COMMIT")


class _CutError(Exception):
    """The connection ends here."""


class Proxy:
    """Passes everything on, until an armed fault fires; it fires once."""

    def __init__(self, upstream: Server) -> None:
        self._upstream = upstream
        self.port = 0
        self.messages: list[Message] = []
        self._fault: Fault | None = None
        self._at = 0
        self._stays_down = False
        self._is_down = False

    def arm(self, fault: Fault | None = None, at: int = 0, *, stays_down: bool = False) -> None:
        """Count anew, and let `fault` fire at message `at`; `stays_down`: no connection is taken afterwards."""
        self.messages = []
        self._fault, self._at, self._stays_down, self._is_down = fault, at, stays_down, False

    @property
    def has_fired(self) -> bool:
        """Whether the message that the fault waits for has come."""
        return self._fault is not None and len(self.messages) >= self._at

    def dsn(self, dsn: str) -> str:
        """Return the DSN of the same database through this proxy."""
        return f"postgresql://{self._upstream.user}@127.0.0.1:{self.port}{urlsplit(dsn).path}"

    async def serve(self, client: ByteStream) -> None:
        """Serve one connection."""
        async with AsyncExitStack() as stack:
            # Without a farewell: a cut connection does not say that it will be cut.
            stack.push_async_callback(anyio.aclose_forcefully, client)
            if self._is_down:
                return
            server = await self._connect()
            stack.push_async_callback(anyio.aclose_forcefully, server)
            with suppress(_CutError, *_LOST):
                await _Connection(self, client, server).run()

    async def _connect(self) -> ByteStream:
        if self._upstream.host.startswith("/"):
            return await anyio.connect_unix(Path(self._upstream.host, f".s.PGSQL.{self._upstream.port}"))
        return await anyio.connect_tcp(self._upstream.host, self._upstream.port)

    def count(self, kind: str, sql: str) -> Fault | None:
        """Count a message and return what shall become of it."""
        message = Message(number=len(self.messages) + 1, kind=kind, sql=sql)
        self.messages.append(message)
        if self._fault is None or message.number != self._at:
            return None
        self._is_down = self._stays_down
        return self._fault


class _Connection:
    """One client, and the server's process for it."""

    def __init__(self, proxy: Proxy, client: ByteStream, server: ByteStream) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._from_client, self._from_server = BufferedByteReceiveStream(client), BufferedByteReceiveStream(server)
        self._is_silent = False
        self._cuts_when_ready = False
        self._parsed: dict[bytes, str] = {}
        """Name of a prepared statement → its text."""
        self._sql = ""

    async def run(self) -> None:
        """Pass on until either side ends."""
        if not await self._start_up():
            return
        async with anyio.create_task_group() as tasks:

            async def answers() -> None:
                with suppress(_CutError, *_LOST):
                    await self._pass_answers()
                tasks.cancel_scope.cancel()

            tasks.start_soon(answers)
            with suppress(_CutError, *_LOST):
                await self._pass_messages()
            tasks.cancel_scope.cancel()

    async def _start_up(self) -> bool:
        """Pass the start-up message on; False: it was a request to cancel, and that is all."""
        while True:
            head = await self._from_client.receive_exactly(8)
            length, code = struct.unpack("!II", head)
            body = await self._from_client.receive_exactly(length - 8) if length > 8 else b""
            if code in (_SSL, _GSS):
                await self._client.send(b"N")  # what is encrypted cannot be read
                continue
            await self._server.send(head + body)
            return code != _CANCEL

    async def _pass_messages(self) -> None:
        while True:
            head, body = await _message(self._from_client)
            kind = chr(head[0])
            match self._proxy.count(kind, self._read(kind, body)):
                case "cut_before":
                    raise _CutError
                case "swallow" | "cut_after" as fault:
                    self._is_silent = fault == "swallow"
                    self._cuts_when_ready = True
                case "hang":
                    self._is_silent = True
                case None:
                    pass
            await self._server.send(head + body)
            if self._cuts_when_ready and kind not in "QS":
                raise _CutError  # the server says nothing before the next Sync

    async def _pass_answers(self) -> None:
        while True:
            head, body = await _message(self._from_server)
            if not self._is_silent:
                await self._client.send(head + body)
            if head[:1] == b"Z" and self._cuts_when_ready:
                raise _CutError

    def _read(self, kind: str, body: bytes) -> str:
        """Return what a message is about."""
        match kind:
            case "Q":
                return _text(body)
            case "P":
                name, words, *_ = body.split(b"\0", 2)
                self._sql = self._parsed[name] = words.decode(errors="replace").strip()
            case "B":
                self._sql = self._parsed.get(body.split(b"\0", 2)[1], "")
            case _:
                pass
        return self._sql


async def _message(stream: BufferedByteReceiveStream) -> tuple[bytes, bytes]:
    """Return the head (type and length) and the body of the next message."""
    head = await stream.receive_exactly(5)
    (length,) = struct.unpack("!I", head[1:])
    return head, await stream.receive_exactly(length - 4) if length > 4 else b""


def _text(body: bytes) -> str:
    return body.rstrip(b"\0").decode(errors="replace").strip()


@asynccontextmanager
async def proxying(dsn: str) -> AsyncGenerator[Proxy]:
    """Yield a proxy in front of the server of `dsn`."""
    proxy = Proxy(server_of(dsn))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        proxy.port = listener.extra(SocketAttribute.local_port)  # noqa: S610 -- nothing of Django's
        tasks.start_soon(listener.serve, proxy.serve)
        yield proxy
        tasks.cancel_scope.cancel()
