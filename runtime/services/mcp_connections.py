"""Connections to MCP servers: opened when first used, shared by the calls of one process, closed when idle.

A client of the SDK must be left by the task that entered it, so each connection has a task of its own, in the task
group of its maker; calls come from any task. Every error of the SDK becomes one of `mcp_errors` here.
"""

import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup
from mcp import Client, MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    REQUEST_TIMEOUT,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    InputRequiredResult,
    Tool,
)
from pydantic import TypeAdapter, ValidationError

from runtime.ports import Json
from runtime.services.background import background_tasks
from runtime.services.mcp_definitions import Definition, Offer, clean, offer_of
from runtime.services.mcp_errors import OutcomeUnknownError, ToolServerRefusedError, ToolServerUnavailableError
from runtime.services.mcp_http import http_streams
from runtime.services.mcp_results import result_of
from runtime.services.mcp_stdio import Program, program_streams
from storage.models.runtime import McpServer

logger = logging.getLogger(__name__)

CONNECT_S = 25.0
"""Longest wait until a server has said hello, or has listed its tools. A program that knows only the older handshake
costs ten seconds of it at most; `npx` may have to fetch a package."""

CLOSE_S = 8.0
"""How long connections get to end politely when the process ends."""

MOST_PAGES, MOST_TOOLS = 50, 500
LONGEST_WORDS = 2000
"""Characters that a model reads of a server's own words about a failure."""

KEY_META = "agency/idempotency-key"
"""Where in `_meta` of a call its idempotency key is, for servers that honour one."""

_AMBIGUOUS = {CONNECTION_CLOSED, REQUEST_TIMEOUT, PARSE_ERROR, INTERNAL_ERROR, INVALID_REQUEST}
"""Codes that the SDK also makes up itself, for a proxy's 502 or an answer that nobody can read."""

_Answer: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(CallToolResult | InputRequiredResult)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server is and what it needs to let us in. Its repr shows no secret."""

    id: int
    """Of the row, which belongs to one tenant: connections are never shared between tenants."""
    name: str
    argv: Sequence[str] = ()
    """Empty: it is behind `url`."""
    url: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Environment of the program, or headers."""


class Link:
    """One connection. `client` is there once `ready` is set, unless `problem` says why not."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.client: Client | None = None
        self.problem = ""
        self.users = 0
        self.uses = 0
        """How often it was taken, all in all."""
        self.is_retired = False
        """It takes no further call, and closes when the last one has left."""
        self.ready = anyio.Event()
        self.gone = anyio.Event()
        self._scope = anyio.CancelScope()
        self._changed = anyio.Event()

    def retire(self) -> None:
        """Let no further call begin on it."""
        self.is_retired = True
        self.changed()

    def changed(self) -> None:
        """Wake its task, which looks whether it is needed."""
        self._changed.set()
        if self.client is None and self.is_retired and not self.users:
            self._scope.cancel()  # it is still saying hello, to nobody

    def report(self, problem: str) -> None:
        """Note why it broke; the first reason counts."""
        self.problem = self.problem or problem

    async def keep(self, idle_s: float) -> None:
        """Open it, hold it open while it is used, and close it; nothing is raised but cancellation."""
        try:
            with self._scope:
                async with _client(self) as client:
                    self.client = client
                    self.ready.set()
                    await self._until_unused(idle_s)
        except Exception as error:  # noqa: BLE001 -- the SDK raises whatever its tasks met, and no other connection is to suffer
            self.report(_reason(error))
            logger.warning(
                "a connection to a tool server ended", extra={"server": self.endpoint.name, "reason": self.problem}
            )
        finally:
            self.is_retired = True
            self.ready.set()
            self.gone.set()

    async def _until_unused(self, idle_s: float) -> None:
        while self.users or not self.is_retired:
            self._changed = anyio.Event()
            if self.users:
                await self._changed.wait()
                continue
            with anyio.move_on_after(idle_s) as waited:
                await self._changed.wait()
            self.is_retired = self.is_retired or waited.cancelled_caught


def _client(link: Link) -> Client:
    endpoint = link.endpoint
    program = Program(server=endpoint.name, argv=endpoint.argv, env=endpoint.secrets)
    streams = program_streams(program, link.report) if endpoint.argv else http_streams(endpoint.url, endpoint.secrets)
    ours = Implementation(name="agency", version=version("agency-runtime"))
    return Client(cast("AbstractAsyncContextManager[Any]", streams), cache=None, client_info=ours)


class Connections:
    """The open connections of one process."""

    def __init__(self, tasks: TaskGroup, *, idle_s: float, connect_s: float = CONNECT_S) -> None:
        self._tasks = tasks
        self._idle_s = idle_s
        self.connect_s = connect_s
        self._links: dict[int, Link] = {}

    @asynccontextmanager
    async def use(self, endpoint: Endpoint) -> AsyncGenerator[Link]:
        """Yield a connection that has said hello.

        Raises:
            ToolServerUnavailableError: the server cannot be started or reached.
        """
        link = self._links.get(endpoint.id)
        if link is None or link.is_retired:
            link = self._links[endpoint.id] = Link(endpoint)
            self._tasks.start_soon(self._keep, link)
        link.users += 1
        link.uses += 1
        try:
            with anyio.move_on_after(self.connect_s):
                await link.ready.wait()
            if link.client is None:
                link.retire()
                reason = link.problem or f"it did not answer within {self.connect_s:g} s"
                raise ToolServerUnavailableError(endpoint.name, reason)
            yield link
        finally:
            link.users -= 1
            link.changed()

    async def close(self) -> None:
        """Let every connection end politely, within bounds."""
        links = list(self._links.values())
        with anyio.move_on_after(CLOSE_S, shield=True):
            for link in links:
                link.retire()
            for link in links:
                await link.gone.wait()

    async def _keep(self, link: Link) -> None:
        try:
            await link.keep(self._idle_s)
        finally:
            if self._links.get(link.endpoint.id) is link:
                del self._links[link.endpoint.id]


def endpoint_of(row: McpServer, secrets: Mapping[str, str]) -> Endpoint:
    """Return where the server of a row is."""
    return Endpoint(id=row.id, name=row.name, argv=tuple(row.command), url=row.url or "", secrets=secrets)


async def offer_at(endpoint: Endpoint) -> Offer:
    """Connect once, and return what a server has.

    Raises:
        ToolServerUnavailableError: it cannot be started or reached, or does not list its tools.
    """
    async with background_tasks() as tasks:
        connections = Connections(tasks, idle_s=CONNECT_S)
        try:
            async with connections.use(endpoint) as link:
                return offer_of(endpoint.name, await definitions(connections, link))
        finally:
            await connections.close()
    raise AssertionError  # a cancelled block ends above


async def definitions(connections: Connections, link: Link, *, until: str | None = None) -> list[Definition]:
    """Return the tools of a server, in its order, page by page; with `until`, the pages up to the one with that tool.

    Raises:
        ToolServerUnavailableError: it does not list them, or lists them without end.
    """
    name = link.endpoint.name
    found: list[Definition] = []
    cursor: str | None = None
    try:
        with anyio.fail_after(connections.connect_s):
            for _ in range(MOST_PAGES):
                page = await _client_of(link).list_tools(cursor=cursor)
                found += map(_definition, page.tools)
                cursor = page.next_cursor
                if cursor is None or any(tool.name == until for tool in page.tools) or len(found) > MOST_TOOLS:
                    break
    except MCPError as error:
        link.retire()
        raise ToolServerUnavailableError(name, link.problem or clean(error.message, LONGEST_WORDS)) from error
    except ValidationError as error:
        raise ToolServerUnavailableError(name, "its list of tools is not as the protocol wants it") from error
    except TimeoutError as error:
        link.retire()
        reason = f"it did not list its tools within {connections.connect_s:g} s"
        raise ToolServerUnavailableError(name, reason) from error
    if len(found) > MOST_TOOLS or (cursor is not None and until is None):
        raise ToolServerUnavailableError(name, f"it lists more than {MOST_TOOLS} tools or {MOST_PAGES} pages")
    return found


async def call(link: Link, tool: str, arguments: Json, *, key: str) -> Json:
    """Call a tool once and return its result as it is kept.

    Raises:
        ToolServerRefusedError: the server says that it failed.
        OutcomeUnknownError: nobody can tell.
    """
    # The SDK's `call_tool` would also apply the server's output schema, which may be made to hang us.
    request = CallToolRequest(
        params=CallToolRequestParams(name=tool, arguments=arguments, _meta=cast("Any", {KEY_META: key}))
    )
    server = link.endpoint.name
    try:
        answer = await _client_of(link).session.send_request(request, _Answer)
    except MCPError as error:
        if error.code not in _AMBIGUOUS:
            raise ToolServerRefusedError(server, clean(error.message, LONGEST_WORDS)) from error
        if error.code == CONNECTION_CLOSED:
            link.retire()
        raise OutcomeUnknownError(server, link.problem or clean(error.message, LONGEST_WORDS)) from error
    except (ValidationError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
        link.retire()
        raise OutcomeUnknownError(server, "its answer cannot be read") from error
    except anyio.get_cancelled_exc_class():
        link.retire()  # whatever hangs there, the next call begins with a new process
        raise
    if isinstance(answer, InputRequiredResult):
        raise ToolServerRefusedError(server, "it wants to ask a person something first, which an agent cannot answer")
    result = result_of(answer)
    if answer.is_error:
        raise ToolServerRefusedError(server, clean(str(result.get("text", result)), LONGEST_WORDS))
    return result


def _client_of(link: Link) -> Client:
    if link.client is None:
        raise ToolServerUnavailableError(link.endpoint.name, "the connection was never open")
    return link.client


def _definition(tool: Tool) -> Definition:
    annotations = tool.annotations
    return Definition(
        name=tool.name,
        description=tool.description or "",
        input_schema=tool.input_schema,
        annotations=annotations.model_dump(mode="json", by_alias=True, exclude_none=True) if annotations else {},
    )


def _reason(error: BaseException) -> str:
    """Return what went wrong in words that quote no address and no header."""
    causes = list(dict.fromkeys(map(_words, _leaves(error))))
    return clean("; ".join(causes), 300)


def _words(error: BaseException) -> str:
    match error:
        case FileNotFoundError() | PermissionError():
            return f"its program cannot be started: {error.strerror}"
        case MCPError():
            return error.message
        case _:
            return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error
