"""An MCP server behind an address: answers of limited size, and secrets in headers that go nowhere else."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage

from runtime.services.mcp_stdio import LARGEST_MESSAGE

CONNECT_S = 10.0
READ_S = 90.0
"""Longest silence; beyond the time limit of any call, which is the limit that is meant to strike."""

Streams = tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]


class _BoundedBody(httpx2.AsyncByteStream):
    """A body that ends in an error beyond the limit."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size_bytes = 0
        async for chunk in self._body:
            size_bytes += len(chunk)
            if size_bytes > LARGEST_MESSAGE:
                # The one kind of error that the SDK turns into an answer instead of breaking the connection.
                message = f"it sent more than {LARGEST_MESSAGE:,} bytes at once; ask for less"
                raise httpx2.StreamError(message)
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


class _BoundedTransport(httpx2.AsyncHTTPTransport):
    """Sends requests; what comes back is of limited size. An event stream is limited by the SDK, event by event."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            message = "it sent a compressed answer, unasked"  # a few bytes of which may be gigabytes
            raise httpx2.RemoteProtocolError(message, request=request)
        is_events = response.headers.get("content-type", "").startswith("text/event-stream")
        if not is_events and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _BoundedBody(response.stream)
        return response


@asynccontextmanager
async def http_streams(url: str, headers: Mapping[str, str]) -> AsyncGenerator[Streams]:
    """Yield what the server at `url` says and what it hears; `headers` go with every request to it and nowhere else."""
    async with (
        httpx2.AsyncClient(
            headers={**headers, "accept-encoding": "identity"},
            timeout=httpx2.Timeout(CONNECT_S, read=READ_S),
            transport=_BoundedTransport(),
            trust_env=False,
        ) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=LARGEST_MESSAGE) as streams,
    ):
        yield streams
