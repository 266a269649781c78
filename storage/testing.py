"""Databases for tests: real ones, each cloned from a migrated template in some 45 ms, each gone afterwards.

Shipped, because whoever builds on Agency tests against Postgres too. There is no fake, and no savepoint around each
test: that would leak the tenant of one session into the next.
"""

import hashlib
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import asyncpg
from sqlalchemy import event, insert

import migrations
from storage import migrate
from storage.credentials import UNUSABLE_PASSWORD
from storage.engine import Address, RawConnection, connect
from storage.models.identity import User
from storage.tenancy import Database

_TEMPLATE_LOCK = 4150719
"""Any constant of ours: processes that start together build the template once."""


def address_of(server_dsn: str, name: str) -> Address:
    """Return the address of database `name` on the server that `server_dsn` reaches."""
    dsn = urlunsplit(urlsplit(server_dsn)._replace(path=f"/{name}"))
    return Address(dsn=dsn, direct_dsn=dsn, pooled=False)


def _schema_fingerprint() -> str:
    """Hash the migrations' text, so that a changed migration gets a new template."""
    digest = hashlib.sha256()
    for path in sorted(Path(migrations.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


async def _exists(connection: RawConnection, name: str) -> bool:
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name))


async def ensure_template(server_dsn: str) -> str:
    """Return the name of the migrated template, building it when this schema has none yet.

    `server_dsn` names a login that may create databases and roles.
    """
    name = f"agency_template_{_schema_fingerprint()}"
    connection = await connect(address_of(server_dsn, "postgres"))
    try:
        await connection.execute(f"SELECT pg_advisory_lock({_TEMPLATE_LOCK})")
        if not await _exists(connection, name):
            draft = f"agency_draft_{uuid.uuid4().hex}"
            await connection.execute(f"CREATE DATABASE {draft}")
            await migrate.upgrade(address_of(server_dsn, draft))
            await connection.execute(f"ALTER DATABASE {draft} RENAME TO {name}")
    finally:
        await connection.close()
    return name


@asynccontextmanager
async def fresh_address(server_dsn: str, template: str) -> AsyncGenerator[Address]:
    """Yield the address of a database of one's own, dropped at the end even while somebody is connected."""
    name = f"agency_test_{uuid.uuid4().hex}"
    connection = await connect(address_of(server_dsn, "postgres"))
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield address_of(server_dsn, name)
        finally:
            await _drop(connection, name)
    finally:
        await connection.close()


def watch_for_leaks(database: Database) -> list[str]:
    """Look at every connection that goes back to the pool; return a list that fills with what it should not carry.

    A tenant or a role that outlives its transaction would be the next caller's, and the pool resets neither.
    """
    leaks: list[str] = []

    def look(connection: Any, _record: object) -> None:
        if connection is None:
            return  # it broke and goes nowhere
        cursor = connection.cursor()
        cursor.execute("SELECT current_setting('app.user_id', true), current_user = session_user")
        ((user_id, is_own_role),) = cursor.fetchall()
        cursor.close()
        connection.rollback()
        if user_id or not is_own_role:
            leaks.append(f"tenant {user_id!r}" if user_id else "a role")

    event.listen(database.engine.sync_engine, "checkin", look)
    return leaks


async def _drop(connection: RawConnection, name: str) -> None:
    """Drop a database; FORCE may not end an autovacuum worker, which leaves by itself soon."""
    with anyio.fail_after(10):
        while True:
            try:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            except (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectInUseError):
                await anyio.sleep(0.1)
            else:
                return


async def add_user(database: Database, username: str) -> int:
    """Create a user nobody can log in as, and return its id."""
    async with database.begin_admin() as db:
        values = {User.username: username, User.email: f"{username}@example.test", User.password: UNUSABLE_PASSWORD}
        statement = insert(User).values(values).returning(User.id)
        return (await db.execute(statement)).scalar_one()
