"""Two tenants' clients of one server, each through `mcp.Client` in memory."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from mcp import Client

from mcp_server.app import App, OpenedApp
from mcp_server.server import build_server
from runtime.local import Local
from runtime.testing import system_on
from runtime.testing.clock import FixedClock
from storage.tenancy import Database


@pytest.fixture
def clock() -> FixedClock:
    """The clock of the server; the database keeps its own."""
    return FixedClock()


@pytest.fixture
def system(database: Database, alice: int) -> Local:
    """Alice's system, with the offline model."""
    return system_on(database, alice, timezone="Europe/Berlin")


@pytest.fixture
def app(system: Local, clock: FixedClock) -> App:
    """What alice's client is served from."""
    return App.of(system, clock=clock)


@pytest.fixture
async def client(app: App) -> AsyncGenerator[Client]:
    """Alice's client."""
    async with Client(build_server(OpenedApp(app))) as connected:
        yield connected


@pytest.fixture
async def bobs_client(app: App, bob: int) -> AsyncGenerator[Client]:
    """Bob's client of the same process: same database, same confirmation key."""
    async with Client(build_server(OpenedApp(replace(app, user_id=bob)))) as connected:
        yield connected
