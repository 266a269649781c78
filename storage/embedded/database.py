"""The role and the database that the product works with inside an embedded server."""

import contextlib
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

import anyio
import asyncpg

from storage.embedded.endpoint import ADMIN, Endpoint, State, probe
from storage.embedded.errors import EmbeddedServerError

_TIMEOUT_S = 30.0
_TEMPLATE = "template1"
_UNTRUSTED_EXTENSIONS = ("vector",)
"""Only a superuser can create these: where the server has them, every database made later begins with them."""


def ensure_database(endpoint: Endpoint, *, name: str, owner: str) -> None:
    """Make the login role and its database unless they exist.

    What exists is left as it is, and it is no fault if somebody else makes the same at the same time.

    Raises:
        EmbeddedServerError: the server does not answer, or refuses.
    """
    answer = probe(endpoint, user=owner, database=name)
    if answer.state is State.READY and answer.version is not None:
        return
    # A thread of its own: the caller's may have a running loop, and in the main thread a loop takes over SIGINT.
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(anyio.run, _make, endpoint, name, owner).result()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:  # a timeout is an OSError
        raise EmbeddedServerError(f"cannot make the database {name!r} of {owner!r}: {error}; start() again") from error


async def _make(endpoint: Endpoint, name: str, owner: str) -> None:
    with anyio.fail_after(_TIMEOUT_S):
        async with _session(endpoint, ADMIN) as admin:
            if not await admin.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", owner):
                with contextlib.suppress(asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
                    await admin.execute(await _role_statement(admin, owner, endpoint.password))
            if await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
                return
            async with _session(endpoint, _TEMPLATE) as template:
                await _make_extensions(template)
            with contextlib.suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                query = "SELECT format('CREATE DATABASE %I OWNER %I', $1::text, $2::text)"
                await admin.execute(await admin.fetchval(query, name, owner))


@contextlib.asynccontextmanager
async def _session(endpoint: Endpoint, database: str) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(endpoint.dsn(ADMIN, database))
    try:
        yield connection
    finally:
        await connection.close()


async def _role_statement(admin: asyncpg.Connection, owner: str, password: str | None) -> str:
    query = "SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER CREATEDB CREATEROLE PASSWORD %L', $1::text, $2::text)"
    return await admin.fetchval(query, owner, password)


async def _make_extensions(template: asyncpg.Connection) -> None:
    query = "SELECT format('CREATE EXTENSION IF NOT EXISTS %I', name) FROM pg_available_extensions WHERE name = ANY($1)"
    for row in await template.fetch(query, list(_UNTRUSTED_EXTENSIONS)):
        await template.execute(row[0])
