"""Serving an application on a real socket of this machine."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from runtime.testing import serve_loopback


def app(log: list[str]) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        log.append("up")
        yield
        log.append("down")

    async def hello(_: Request) -> Response:
        return PlainTextResponse("Hello")

    return Starlette(routes=[Route("/", hello)], lifespan=lifespan)


async def test_the_application_answers_at_once_and_its_lifespan_surrounds_the_block() -> None:
    log: list[str] = []
    async with serve_loopback(app(log)) as url, httpx2.AsyncClient() as client:
        response = await client.get(url)
        assert (response.text, log) == ("Hello", ["up"])
        assert "date" in response.headers
    assert log == ["up", "down"]


async def test_nothing_listens_after_the_block() -> None:
    async with serve_loopback(app([])) as url:
        pass
    async with httpx2.AsyncClient() as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get(url)


async def test_an_error_in_the_block_arrives_as_it_is() -> None:
    log: list[str] = []
    with pytest.raises(LookupError):
        async with serve_loopback(app(log)):
            raise LookupError
    assert log == ["up", "down"]


async def test_a_cancelled_block_still_closes_the_application() -> None:
    log: list[str] = []
    with anyio.CancelScope() as scope:
        async with serve_loopback(app(log)):
            scope.cancel()
            await anyio.sleep_forever()
    assert log == ["up", "down"]


async def test_two_applications_serve_side_by_side() -> None:
    async with serve_loopback(app([])) as one, serve_loopback(app([])) as two:
        assert one != two


async def test_an_application_that_refuses_to_start_is_an_error_and_not_an_exit() -> None:
    @asynccontextmanager
    async def refusing(_: Starlette) -> AsyncGenerator[None]:
        message = "no database"
        raise LookupError(message)
        yield

    with pytest.raises(RuntimeError):
        async with serve_loopback(Starlette(lifespan=refusing)):
            pytest.fail("the block must not begin")
