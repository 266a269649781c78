"""A second MCP server, as a process: on its pipes, or over HTTP with `--http`.

What it does is written into a directory that the test names, and how it behaves is read from there at each request, so
that a test can change it while it runs.

    python second_server.py [--http] DIRECTORY
"""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

PROGRAM = Path(__file__).resolve()
PLAYGROUND = Path(sys.argv[-1])
ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"what": {"type": "string", "minLength": 2}, "count": {"type": "integer", "minimum": 1}},
    "required": ["what"],
    "additionalProperties": False,
}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
READ_ONLY = ToolAnnotations(read_only_hint=True)


def note(line: str) -> None:
    """Append a line to what this server did."""
    with (PLAYGROUND / "done").open("a") as file:
        file.write(line + "\n")


def description() -> str:
    """Return how `order` describes itself at present."""
    told = PLAYGROUND / "description"
    return told.read_text() if told.exists() else "Order something from the shop."


def tools() -> list[Tool]:
    """Return everything there is, in the order of the pages."""
    simple = ("hang", "die", "fill", "nul", "picture", "refuse", "crash", "environment", "text")
    return [
        Tool(name="order", description=description(), input_schema=ORDER),
        Tool(name="price.of a thing", input_schema=NOTHING, annotations=READ_ONLY),
        *(Tool(name=name, description=f"Do {name}.", input_schema=NOTHING) for name in simple),
        Tool(name="odd", input_schema={"type": "object", "anyOf": [{}]}),
    ]


async def list_tools(_ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> ListToolsResult:
    """List three tools a page."""
    start = int(params.cursor) if params and params.cursor else 0
    following = str(start + 3) if start + 3 < len(tools()) else None
    return ListToolsResult(tools=tools()[start : start + 3], next_cursor=following)


async def call_tool(_ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    """Do what is asked, well or badly."""
    note(f"{params.name} {params.arguments}")
    match params.name:
        case "order":
            arguments = params.arguments or {}
            kept = {"what": arguments["what"], "key": (params.meta or {}).get("agency/idempotency-key")}
            return CallToolResult(content=[], structured_content=kept)
        case "hang":
            await anyio.sleep_forever()
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "refuse":
            return text("out of stock", is_error=True)
        case "crash":
            message = "boom"
            raise ZeroDivisionError(message)
        case "picture":
            image = ImageContent(data="A" * 4000, mime_type="image/png")
            return CallToolResult(content=[TextContent(text="look"), image])
        case _:
            return text(WORDS[params.name]())
    raise AssertionError


WORDS = {
    "price.of a thing": lambda: "12 EUR",
    "fill": lambda: "x" * 50_000_000,
    "nul": lambda: "a\0b",
    "environment": lambda: " ".join(sorted(os.environ)),  # noqa: TID251 -- what the test wants to know
    "text": lambda: "plain words",
}


def text(words: str, *, is_error: bool = False) -> CallToolResult:
    """Return a result that is a text."""
    return CallToolResult(content=[TextContent(text=words)], is_error=is_error)


SERVER: Server[Any] = Server("second", on_list_tools=list_tools, on_call_tool=call_tool)


class NoteHeader(BaseHTTPMiddleware):
    """Writes down what the client authenticates with."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Serve the request."""
        note(f"authorization {request.headers.get('authorization')}")
        return await call_next(request)


def serve_http() -> None:
    """Serve at a free port, which is printed."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = SERVER.streamable_http_app()
    app.user_middleware.append(Middleware(NoteHeader))
    print(listener.getsockname()[1], flush=True)  # noqa: T201 -- whoever started us waits for it
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    server.run(sockets=[listener])


async def serve_pipes() -> None:
    """Serve on stdin and stdout."""
    (PLAYGROUND / "pid").write_text(str(os.getpid()))
    print("started with a secret:", os.environ.get("SHOP_TOKEN"), file=sys.stderr)  # noqa: T201, TID251 -- for our log
    async with stdio_server() as (incoming, outgoing):
        await SERVER.run(incoming, outgoing, SERVER.create_initialization_options())


if __name__ == "__main__":
    if "--http" in sys.argv:
        serve_http()
    else:
        anyio.run(serve_pipes)
