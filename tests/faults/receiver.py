"""The outside world of a fault test: an HTTP receiver on a real socket that remembers everything it was asked to do."""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from runtime.testing import serve_loopback

Path = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One request."""

    path: Path
    """What is wanted: `charge`, `fax`, `replies`."""
    key: str
    """By which the receiver would know a repetition; empty: none was sent."""
    body: Mapping[str, Any]


Hold = Callable[[Post], Awaitable[None]]
"""Runs after a request has been counted and before it is answered."""


class Receiver:
    """Counts requests. `hold`, when set, sees each one before it is answered."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.hold: Hold | None = None
        self.url = ""

    def to(self, path: Path) -> list[Post]:
        """Return the requests to `path`, in order of arrival."""
        return [post for post in self.posts if post.path == path]

    def keys(self, path: Path) -> Counter[str]:
        """Return how often each key came to `path`."""
        return Counter(post.key for post in self.to(path))

    async def take(self, request: Request) -> JSONResponse:
        """Count one request."""
        headers = request.headers
        key = headers.get("idempotency-key") or headers.get("webhook-id") or ""
        try:
            body = await request.json()
        except ClientDisconnect:  # it died while it asked, so that nothing was asked
            return JSONResponse({}, status_code=400)
        post = Post(path=request.path_params["path"], key=key, body=body)
        self.posts.append(post)
        if self.hold is not None:
            await self.hold(post)
        return JSONResponse({"id": f"{post.path}-{key}"[:100]})


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    """Yield a receiver that listens."""
    receiver = Receiver()
    app = Starlette(routes=[Route("/{path:str}", receiver.take, methods=["POST"])])
    async with serve_loopback(app) as url:
        receiver.url = url
        yield receiver
