"""Serves an ASGI application on a real socket of this machine, in the caller's event loop."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing

import anyio
import uvicorn
from starlette.types import ASGIApp

_SHUTDOWN_S = 1
"""Seconds that open responses get to end before they are cancelled."""


@asynccontextmanager
async def serve_loopback(app: ASGIApp) -> AsyncGenerator[str]:
    """Serve `app`, its lifespan included, and yield its base URL (`http://127.0.0.1:PORT`).

    When the body begins, the socket accepts. The body runs in no task group of ours, so its exceptions arrive as they
    are.

    Raises:
        RuntimeError: the app's lifespan refused to start.
    """
    with closing(_listener()) as listener:
        server = await _started(app, listener)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            # Open sockets and the app's lifespan outlive a cancelled body otherwise.
            with anyio.CancelScope(shield=True):
                await server.shutdown([listener])


def _listener() -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the protocol is spelled out, unlike in `socket.create_server`;
    # with it on, every response in two writes on a kept connection waits 40 ms for the client's delayed ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


async def _started(app: ASGIApp, listener: socket.socket) -> uvicorn.Server:
    # The steps of `Server.serve` without its main loop: that one installs signal handlers and polls ten times a second.
    config = uvicorn.Config(
        app, http="h11", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=_SHUTDOWN_S
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    try:
        await server.startup([listener])
    except SystemExit as error:
        message = "the application's lifespan refused to start; the log of uvicorn says why"
        raise RuntimeError(message) from error
    # Sets the headers of every response, `Date` among them, which then stays the time of the start.
    await server.on_tick(0)
    return server
