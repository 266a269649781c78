"""Listening: an HTTP application on a real socket, inside the caller's task group."""

import contextlib
import socket
from collections.abc import AsyncGenerator, Generator

import anyio
import uvicorn
from starlette.types import ASGIApp

from gateway.errors import PortTakenError

GRACE_S = 10
"""Seconds that requests in hand get to end."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone: the command that runs this decides when to stop."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """Take the port before anything else is started.

    Raises:
        PortTakenError: something else listens there, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Spelled out, because asyncio switches Nagle's algorithm off only where the protocol is.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise PortTakenError(host, port) from error
    return listener


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncGenerator[str]:
    """Serve `app` on `listener`, which this closes at the end, and yield the base URL.

    A request that arrives before the server has started waits in the socket's queue, so nobody has to wait for it.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    with contextlib.closing(listener):
        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                await server.serve(sockets=[listener])

            tasks.start_soon(serve)
            try:
                yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            finally:
                server.should_exit = True
