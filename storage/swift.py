"""Transactions for the few statements that run for every step of an agent: one round trip to begin, one per statement.

The same door as `Database.begin`, the same pool, but the statements go to asyncpg as they are, compiled once when the
program starts. SQLAlchemy's own way costs the loop more than the server does (benchmarks/agent_step). What a tool does
in between still goes through an `AsyncSession` on the same connection, and commits with the rest.
"""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from storage.engine import RawConnection
from storage.errors import DatabaseUnavailableError
from storage.tenancy import IDLE_LIMIT_S, LOCK_LIMIT_S, RUNTIME, STATEMENT_LIMIT_S

logger = logging.getLogger(__name__)

_ROLLBACK_S = 2.0
"""How long a connection may take to roll back before it is given up."""


_LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What asyncpg raises on a connection that has gone, among other things."""


class Statement:
    """A statement with named parameters, as asyncpg takes it."""

    def __init__(self, statement: TextClause) -> None:
        compiled = statement.compile(dialect=dialect())
        self.sql = str(compiled)
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the values in the order of the placeholders."""
        return [values[name] for name in self._names]


class SwiftTransaction:
    """An open transaction of one tenant."""

    def __init__(self, connection: AsyncConnection, raw: RawConnection) -> None:
        self._connection = connection
        self._raw = raw
        self._session: AsyncSession | None = None

    async def one_or_none(self, statement: Statement, values: Mapping[str, Any]) -> Any | None:
        """Run a statement that returns at most one row, read by name. What the session holds back is written before."""
        if self._session is not None:
            await self._session.flush()
        return await self._raw.fetchrow(statement.sql, *statement.arguments(values))

    @property
    def session(self) -> AsyncSession:
        """A session inside this transaction; its own commit and rollback end nothing."""
        if self._session is None:
            self._session = AsyncSession(self._connection, expire_on_commit=False)
        return self._session

    async def close(self) -> None:
        """Let go of the session, if there was one."""
        if self._session is not None:
            await self._session.close()


@asynccontextmanager
async def begin_swiftly(engine: AsyncEngine, user_id: int) -> AsyncGenerator[SwiftTransaction]:
    """Open a transaction that sees exactly the rows of `user_id`; it commits at the end of the block.

    `engine` must be in AUTOCOMMIT mode: BEGIN and COMMIT are said here.

    Raises:
        DatabaseUnavailableError: the connection was lost; whether a COMMIT went through is unknown then.
    """
    async with engine.connect() as connection:
        raw: RawConnection = (await connection.get_raw_connection()).driver_connection  # pyright: ignore[reportAssignmentType] -- asyncpg's
        transaction = SwiftTransaction(connection, raw)
        try:
            await raw.execute(_BEGIN.format(user_id=int(user_id)))
            yield transaction
            await transaction.close()
            await raw.execute("COMMIT")
        except BaseException as error:
            await _undo(connection, raw)
            if raw.is_closed() and isinstance(error, _LOST):
                raise DatabaseUnavailableError("the server", str(error) or type(error).__name__) from error
            raise


async def _undo(connection: AsyncConnection, raw: RawConnection) -> None:
    """Roll back; a connection that cannot even do that, or of which nobody knows, does not go back to the pool."""
    is_clean = False
    with anyio.move_on_after(_ROLLBACK_S, shield=True):
        try:
            await raw.execute("ROLLBACK")
            is_clean = not raw.is_closed()
        except Exception:
            logger.info("a connection could not roll back and is given up", exc_info=True)
    if not is_clean:
        with anyio.CancelScope(shield=True):
            await connection.invalidate()


_BEGIN = (
    f"BEGIN; SELECT set_config('role', '{RUNTIME}', true), set_config('app.user_id', '{{user_id}}', true), "
    f"set_config('statement_timeout', '{STATEMENT_LIMIT_S}s', true), "
    f"set_config('lock_timeout', '{LOCK_LIMIT_S}s', true), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_LIMIT_S}s', true)"
)
"""One message: the number of a tenant is all that goes into it."""
