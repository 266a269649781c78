"""`agency mcp`: the MCP server on stdin and stdout, with a worker inside, so that a desktop client alone is enough."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from gateway.cli.programs import programs
from gateway.worker import working
from mcp_server.app import App, OpeningApp
from mcp_server.server import build_server
from mcp_server.stdio import serve_stdio
from runtime.local import open_local
from runtime.registry import Registry
from runtime.settings import RuntimeSettings
from storage.settings import StorageSettings

CONCURRENCY = 4
"""Jobs at once beside a desktop client."""


async def mcp(toolsets: str | None, read_only: bool, no_worker: bool, apps: Sequence[str]) -> None:
    """Serve until stdin ends."""
    has_worker = not (no_worker or read_only)
    source = OpeningApp(partial(_with_worker, programs(apps)) if has_worker else _alone)
    names = None if toolsets is None else [name.strip() for name in toolsets.split(",")]
    await serve_stdio(build_server(source, toolsets=names, read_only=read_only), source)


@asynccontextmanager
async def _alone() -> AsyncGenerator[App]:
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        yield App.of(local)


@asynccontextmanager
async def _with_worker(registry: Registry) -> AsyncGenerator[App]:
    """Work on jobs as long as the app is open, and finish what is in hand at the end."""
    async with (
        open_local(StorageSettings(), RuntimeSettings(), registry=registry) as local,
        working(local, concurrency=CONCURRENCY),
    ):
        yield App.of(local)
