"""`agency serve` and `agency worker`: the long-running processes."""

import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio

from gateway.app import make_app
from gateway.cli.output import progress
from gateway.cli.programs import programs
from gateway.http_server import listen, serving
from gateway.worker import work
from runtime.local import open_local
from runtime.settings import RuntimeSettings
from storage.settings import StorageSettings


@asynccontextmanager
async def stopped_by_signal() -> AsyncGenerator[anyio.Event]:
    """Yield an event that SIGINT or SIGTERM sets; the second signal ends the process at once."""
    stop = anyio.Event()

    async def watch(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                if stop.is_set():
                    scope.cancel()
                stop.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, tasks.cancel_scope)
        yield stop
        tasks.cancel_scope.cancel()


async def serve(host: str, port: int, apps: Sequence[str]) -> None:
    """Listen for chat channels and work on what comes in, until stopped."""
    registry = programs(apps)
    listener = listen(host, port)
    async with (
        stopped_by_signal() as stop,
        open_local(StorageSettings(), RuntimeSettings(), registry=registry) as local,
        serving(make_app(local), listener) as url,
    ):
        progress.print(f"serving on {url} with the {local.model.name} model; Ctrl-C stops")
        await work(local, stop=stop)


async def worker(concurrency: int, apps: Sequence[str]) -> None:
    """Work on jobs until stopped."""
    registry = programs(apps)
    async with (
        stopped_by_signal() as stop,
        open_local(StorageSettings(), RuntimeSettings(), registry=registry) as local,
    ):
        also = f", also as {', '.join(sorted(registry.agents))}" if registry.agents else ""
        progress.print(f"working with the {local.model.name} model{also}; Ctrl-C stops", soft_wrap=True)
        await work(local, concurrency=concurrency, stop=stop)
