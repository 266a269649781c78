"""The three doors to a database session, and no other way in.

`begin(user_id)` sees one tenant's rows; `begin_dispatch()` sees what must be looked up before the tenant is known;
`begin_admin()` makes and removes users. Each switches the role for its transaction only, because superusers and owners
of tables bypass row-level security, and because a pooler hands the connection to somebody else afterwards.

The caller's block is the transaction: it commits at the end, rolls back on an error, and nothing below commits.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from storage.engine import Address, RawConnection, connect, make_engine

RUNTIME, DISPATCH, ADMIN = "agency_runtime", "agency_dispatch", "agency_admin"
"""The roles; none of them can log in, is superuser or owns a table."""

STATEMENT_LIMIT_S, LOCK_LIMIT_S, IDLE_LIMIT_S = 30, 10, 12
"""How long, behind a door, one statement may take, wait for a lock, and a transaction may stand idle."""

_ENTER = text(
    f"""
    SELECT set_config('role', :role, true), set_config('app.user_id', :user_id, true),
           set_config('transaction_read_only', :read_only, true),
           set_config('statement_timeout', '{STATEMENT_LIMIT_S}s', true),
           set_config('lock_timeout', '{LOCK_LIMIT_S}s', true),
           set_config('idle_in_transaction_session_timeout', '{IDLE_LIMIT_S}s', true)
    """
)
"""One round trip. A stopped process inside a transaction would otherwise hold its locks beyond the lease (15 s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Door:
    role: str
    user_id: str = ""
    read_only: str = "off"


class _DoorSession(Session):
    """A session that always enters through a door."""


@event.listens_for(_DoorSession, "after_begin")
def _enter(session: Session, transaction: SessionTransaction, connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction] -- called by SQLAlchemy
    if transaction.nested:
        return  # a savepoint is inside the transaction that has entered already
    door: _Door = session.info["door"]
    connection.execute(_ENTER, {"role": door.role, "user_id": door.user_id, "read_only": door.read_only})


class Database:
    """A database, seen through its doors. Make one per process; `close` it at the end."""

    def __init__(self, address: Address, *, pool_size: int = 10) -> None:
        self.address = address
        self._engine = make_engine(address, pool_size=pool_size)
        self._swift_engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def engine(self) -> AsyncEngine:
        """For pool statistics and shutdown; sessions come from the doors."""
        return self._engine

    @asynccontextmanager
    async def begin(self, user_id: int, *, read_only: bool = False) -> AsyncGenerator[AsyncSession]:
        """Open a transaction that sees exactly the rows of `user_id`."""
        door = _Door(role=RUNTIME, user_id=str(user_id), read_only="on" if read_only else "off")
        async with self._open(door) as db:
            yield db

    @property
    def swift_engine(self) -> AsyncEngine:
        """The same pool in AUTOCOMMIT mode, for `storage.swift`, which says BEGIN and COMMIT itself."""
        return self._swift_engine

    @asynccontextmanager
    async def begin_dispatch(self) -> AsyncGenerator[AsyncSession]:
        """Open a transaction that may look up whose row something is, and claim work."""
        async with self._open(_Door(role=DISPATCH)) as db:
            yield db

    @asynccontextmanager
    async def begin_admin(self) -> AsyncGenerator[AsyncSession]:
        """Open a transaction that may make and remove users."""
        async with self._open(_Door(role=ADMIN)) as db:
            yield db

    async def dispatch_connection(self) -> RawConnection:
        """Open a raw connection as the dispatch role, for the job engine, which needs LISTEN; the caller closes it."""
        connection = await connect(self.address, direct=True)
        await connection.execute(f"SET ROLE {DISPATCH}")
        return connection

    async def close(self) -> None:
        """Close every pooled connection."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _open(self, door: _Door) -> AsyncGenerator[AsyncSession]:
        session = AsyncSession(
            self._engine, sync_session_class=_DoorSession, expire_on_commit=False, info={"door": door}
        )
        async with session, session.begin():
            yield session


async def limit_statements(db: AsyncSession, seconds: float) -> None:
    """Let the server end any further statement of this transaction that takes longer.

    To give up waiting is not enough: the server would go on, and hold its locks.
    """
    await db.execute(text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": f"{seconds * 1000:.0f}ms"})


def was_cut_off(error: BaseException) -> bool:
    """Tell whether the server ended a statement because it took too long (query_canceled, 57014)."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == "57014"


_TRANSIENT = frozenset({"40001", "40P01", "57P01", "57P02", "57P03", "53300"})
"""Serialization failure, deadlock, shutdown by an admin or a crash, not yet started, too many connections."""


def is_transient(error: BaseException) -> bool:
    """Tell whether the database failed in a way that says nothing about the statement: trying again may work."""
    if not isinstance(error, DBAPIError):
        return False
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _TRANSIENT


async def raw_connection(db: AsyncSession) -> RawConnection:
    """Return the asyncpg connection of `db`'s transaction, which has begun by then: what runs on it commits with it."""
    connection = await db.connection()
    raw: Any = await connection.get_raw_connection()
    return raw.driver_connection
