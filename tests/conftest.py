"""Fixtures every test shares: a server per test run, a database and two tenants per test."""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import anyio
import pytest

from storage.embedded import EmbeddedServer
from storage.engine import Address, connect
from storage.tenancy import Database
from storage.testing import add_user, address_of, ensure_template, fresh_address, watch_for_leaks

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs deaf to Ctrl-C, and their children inherit that: so would every process here.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.user"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Keep to asyncio, which asyncpg needs."""
    return "asyncio"


def memory_or_disk() -> Path:
    """Return where databases go: tests throw them away, so they need not wait for a disk when there is memory."""
    memory = Path("/dev/shm")  # noqa: S108 -- Linux's memory file system; a private directory is made in it
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 1024**3:
        return memory
    return Path(tempfile.gettempdir())


async def _hasten(admin_dsn: str) -> None:
    """Let the server forget what only a power cut or a long life would need; what commits is still what commits."""
    connection = await connect(address_of(admin_dsn, "postgres"))
    try:
        for setting in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
            await connection.execute(f"ALTER SYSTEM SET {setting} = off")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def server_dsn() -> Generator[str]:
    """A login that may create databases, on one embedded server that all workers of this test run share.

    AGENCY_TEST_SERVER names another server to test on, by such a login's address.
    """
    other = os.environ.get("AGENCY_TEST_SERVER")  # noqa: TID251 -- which server to test on is the runner's choice
    if other:
        yield other
        return
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)  # noqa: TID251 -- set by pytest-xdist
    home = memory_or_disk() / f"agency-tests-{run}"
    home.mkdir(mode=0o755, exist_ok=True)
    server = EmbeddedServer(home)
    anyio.run(_hasten, server.start())
    try:
        yield server.ensure_database()
    finally:
        if server.stop():
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def template(server_dsn: str) -> str:
    """The migrated database that every test's own is cloned from."""
    return anyio.run(ensure_template, server_dsn)


@pytest.fixture
async def address(server_dsn: str, template: str) -> AsyncGenerator[Address]:
    """A migrated, empty database of this test's own."""
    async with fresh_address(server_dsn, template) as found:
        yield found


@pytest.fixture
async def database(address: Address) -> AsyncGenerator[Database]:
    """The doors of this test's own database."""
    opened = Database(address, pool_size=3)
    leaks = watch_for_leaks(opened)
    yield opened
    await opened.close()
    assert not leaks, "something of a transaction went back to the pool"


@pytest.fixture
async def alice(database: Database) -> int:
    """A tenant."""
    return await add_user(database, "alice")


@pytest.fixture
async def bob(database: Database) -> int:
    """Another tenant."""
    return await add_user(database, "bob")
