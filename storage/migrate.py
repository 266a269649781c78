"""Bringing a database to this release's schema, and telling whether it is there.

Alembic does the work (`migrations/`); this module hands it a connection and makes the roles first. Downgrades are for
developers; no downgrade drops a role.
"""

import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

import migrations
from storage.engine import Address, connect
from storage.security import ensure_roles

_PATIENCE_S = 330.0
"""Longer than the statement_timeout of `migrations/env.py`, so that the server's limit is the one that counts."""

_ALEMBIC = threading.Lock()
"""alembic keeps what it is about in its own module (`alembic.context`): one run at a time in this process."""


def alembic_config() -> Config:
    """Return alembic's configuration for the migrations that this distribution carries."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


async def upgrade(address: Address, revision: str = "head") -> None:
    """Create the roles and bring the schema up to `revision`. Two at the same moment take turns."""
    connection = await connect(address, direct=True)
    try:
        await ensure_roles(connection)
    finally:
        await connection.close()
    await run_alembic(address, command.upgrade, revision)


async def downgrade(address: Address, revision: str) -> None:
    """Take the schema back to `revision` (`base`: empty)."""
    await run_alembic(address, command.downgrade, revision)


def render_sql(revision: str = "head") -> str:
    """Return the script that brings an empty database to `revision`, for review and for those who run it by hand.

    It expects the roles (`ensure_roles`), which belong to the cluster. Not to be called while this process migrates.
    """
    config = alembic_config()
    config.output_buffer = io.StringIO()
    command.upgrade(config, revision, sql=True)
    return config.output_buffer.getvalue()


async def run_alembic(address: Address, run: Any, *arguments: Any, **options: Any) -> None:
    """Run one of alembic's commands on a connection of ours and commit."""
    patient = replace(address, command_timeout_s=_PATIENCE_S)

    async def creator(**_: Any) -> Any:
        return await connect(patient, direct=True)

    engine = create_async_engine(
        "postgresql+asyncpg://", connect_args={"async_creator_fn": creator}, poolclass=pool.NullPool
    )

    def on_connection(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        run(config, *arguments, **options)

    # In a thread, because one lock must hold for every event loop of the process and must not stop any of them.
    await anyio.to_thread.run_sync(_ALEMBIC.acquire)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(on_connection)
    finally:
        _ALEMBIC.release()
        await engine.dispose()
