"""Resources: what a person attaches to a chat. Each has a tool twin, as models do not read resources by themselves."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec

from mcp.server.mcpserver import Context, MCPServer, ResourceSecurity
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp_types import CallToolResult, TextContent
from sqlalchemy.exc import SQLAlchemyError

from mcp_server.app import App, AppSource
from mcp_server.errors import ServerError, explained
from mcp_server.guide import guide
from mcp_server.results import HARD_CAP, cell, clip, fenced, lines
from mcp_server.tools.board import task_board
from mcp_server.tools.entities import describe, entity_get
from mcp_server.verbs import perform_verb
from runtime.errors import RuntimeFault
from storage.errors import EntityNotFoundError, StorageError, UnknownEntityError
from storage.memory import MemoryStore
from storage.values import BIGINT

ParamsT = ParamSpec("ParamsT")

_KEYS = ResourceSecurity(exempt_params={"namespace", "key", "id"})
"""The SDK refuses what looks like a path, and keys of memory may; they name rows, no files."""

_TRANSCRIPT_STEPS = 1000
_LONGEST_BODY = HARD_CAP - 1_000


def _readable(read: Callable[ParamsT, Awaitable[str]]) -> Callable[ParamsT, Awaitable[str]]:
    """Turn our errors into the SDK's: a missing row is the caller's mistake, anything else is on our side."""

    @functools.wraps(read)
    async def door(*args: ParamsT.args, **kwargs: ParamsT.kwargs) -> str:
        try:
            return await read(*args, **kwargs)
        except (ServerError, StorageError, RuntimeFault, SQLAlchemyError, OSError) as error:
            text = explained(error)
            if text is None:
                raise
            is_missing = isinstance(error, EntityNotFoundError | UnknownEntityError)
            raise (ResourceNotFoundError if is_missing else ResourceError)(text) from None

    return door


def register_resources(server: MCPServer[AppSource], source: AppSource) -> None:
    """Add all resources. The specific templates come first: the first that matches is taken."""
    _register_fixed(server, source)
    server.resource("agency://schema/{entity}", title="Fields of an entity")(entity_schema)
    server.resource("agency://executions/{id}/transcript", title="Transcript of an execution")(transcript)
    server.resource("agency://memory/{namespace}/{key}", title="A remembered value", security=_KEYS)(remembered)
    server.resource("agency://{entity}/{id}", title="One row", security=_KEYS)(row)


def _register_fixed(server: MCPServer[AppSource], source: AppSource) -> None:
    """Add what has a URI of its own; such a function is given no context, hence the closures over the source."""

    @_readable
    async def schema() -> str:
        """All entities and what may be done with each."""
        return _text(describe(None))

    @_readable
    async def how_to() -> str:
        """How to work with this account."""
        return await guide(source)

    @_readable
    async def board() -> str:
        """The cards, open ones first."""
        return _text(await task_board(await source.get(), limit=100))

    server.resource("agency://schema", name="schema", title="Entities")(schema)
    server.resource("agency://guide", name="guide", title="Guide")(how_to)
    server.resource("agency://board", name="board", title="Board")(board)


@_readable
async def entity_schema(entity: str) -> str:
    """The fields of one entity: types, filters, legal values."""
    return _text(describe(entity))


@_readable
async def row(entity: str, id: str, ctx: Context[Any, Any]) -> str:  # noqa: A002 -- the template's variable
    """One row with all its readable fields."""
    return _text(await entity_get(await _app(ctx), entity, id))


@_readable
async def transcript(id: str, ctx: Context[Any, Any]) -> str:  # noqa: A002 -- as above
    """Everything that was said and done in one execution."""
    is_number = id.isascii() and id.isdecimal() and len(id) < 20
    if not is_number or not 0 < int(id) <= BIGINT:
        raise EntityNotFoundError("agentExecutions", id[:80])
    seen = await perform_verb(await _app(ctx), "agent_run_status", id=int(id), limit=_TRANSCRIPT_STEPS)
    head = lines({name: seen[name] for name in ("id", "sessionId", "agent", "status", "phase")})
    steps = [f"[{step['step']} {step['kind']}] {step['text']}" for step in seen["steps"]]
    end = lines({name: seen[name] for name in ("waitingFor", "result", "error")})
    body = clip("\n".join(part for part in (*steps, end) if part), _LONGEST_BODY, where="agent_run_status after_step")
    return f"{head}\n{fenced(body, untrusted=True)}"


@_readable
async def remembered(namespace: str, key: str, ctx: Context[Any, Any]) -> str:
    """One remembered value; slashes of its namespace and key are percent-encoded."""
    app = await _app(ctx)
    async with app.reading() as db:
        item = await MemoryStore(db, app.user_id).get(namespace, key)
    if item is None:
        raise EntityNotFoundError("cf_memory_store", f"{namespace} {key}"[:80])
    head = lines({"namespace": item.namespace, "key": item.key, "version": item.version})
    return fenced(f"{head}\nvalue: {clip(cell(item.value), _LONGEST_BODY, where='')}", untrusted=True)


async def _app(ctx: Context[Any, Any]) -> App:
    source: AppSource = ctx.request_context.lifespan_context
    return await source.get()


def _text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))
