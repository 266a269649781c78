"""How we connect: one address, turned into asyncpg connections and SQLAlchemy engines that survive a pooler.

Nothing here knows tenants; `storage.tenancy` is the only way from an engine to a session.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from storage.errors import DatabaseNotReadyError, DatabaseUnavailableError

if TYPE_CHECKING:
    RawConnection = asyncpg.Connection[asyncpg.Record]
else:
    RawConnection = asyncpg.Connection  # the class is generic in its type stubs only

_DRIVER_PARAMETERS = frozenset(
    {
        "dbname",
        "gsslib",
        "host",
        "krbsrvname",
        "passfile",
        "password",
        "port",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "target_session_attrs",
        "user",
    }
)
"""What asyncpg reads from a DSN. Everything else (Neon's `channel_binding`, Prisma's `pgbouncer`) it would pass to the
server as a setting, which refuses the connection: https://magicstack.github.io/asyncpg/current/api/index.html."""

_CONNECTION_TROUBLE = (
    OSError,  # a timeout is one
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)
_NOT_LET_IN = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    ValueError,  # the address cannot be understood
    OverflowError,  # its port is no port
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the database is."""

    dsn: str
    direct_dsn: str
    """Without a pooler in between: for LISTEN and migrations."""
    pooled: bool
    """True: a transaction pooler may stand in between, so no statement may outlive its transaction."""
    home: Path | None = None
    """Where the embedded server keeps its files; None: it is somebody else's server."""
    connect_timeout_s: float = 10
    command_timeout_s: float = 60

    @property
    def embedded(self) -> bool:
        """Whether it is the server that we run ourselves."""
        return self.home is not None

    @property
    def label(self) -> str:
        """The address without credentials, for messages."""
        if self.embedded:
            return "the embedded server"
        try:
            parts = urlsplit(clean_dsn(self.dsn))
        except ValueError:
            return "the address in DATABASE_URL, which cannot be read (special characters are written as %XX),"
        if parts.scheme != "postgresql":
            return "the address in DATABASE_URL, which does not begin with postgresql://,"
        where = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "localhost")
        port = ":5432" if re.fullmatch(r"[^:,/]+|\[[^]]+\]", where) else ""
        return f"{where}{port}{parts.path}"


def clean_dsn(dsn: str) -> str:
    """Return `dsn` as asyncpg takes it: plain scheme, and only the parameters that it knows."""
    parts = urlsplit(re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", dsn.strip()))
    query = [(key, value) for key, value in parse_qsl(parts.query) if key in _DRIVER_PARAMETERS]
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


async def connect(address: Address, *, direct: bool = False) -> RawConnection:
    """Open one raw connection.

    Raises:
        DatabaseUnavailableError: no server answers, or it does not let us in.
        DatabaseNotReadyError: `direct`, and a pooler answers.
    """
    dsn = address.direct_dsn if direct else address.dsn
    where = replace(address, dsn=dsn).label
    try:
        connection = await asyncpg.connect(
            clean_dsn(dsn),
            timeout=address.connect_timeout_s,
            command_timeout=address.command_timeout_s,
            statement_cache_size=0 if address.pooled and not direct else 100,
            server_settings={"application_name": "agency"},
        )
    except _CONNECTION_TROUBLE as error:
        raise DatabaseUnavailableError(where, str(error) or type(error).__name__) from error
    except _NOT_LET_IN as error:
        raise DatabaseUnavailableError(where, str(error)) from error
    if direct and address.pooled and await _is_a_pooler(connection):
        await connection.close()
        raise DatabaseNotReadyError(
            f"{where} is a connection pooler, and workers and migrations need the server itself",
            "set DATABASE_URL_DIRECT to the address without the pooler",
        )
    return connection


async def _is_a_pooler(connection: RawConnection) -> bool:
    """Tell whether LISTEN, SET ROLE and advisory locks on this connection would end up with somebody else.

    A pooler gives out cancellation keys of its own, so the process id in them is not that of the server's process:
    https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS.
    """
    async with connection.transaction():  # a pooler may give the next statement to another of the server's processes
        behind: int = await connection.fetchval("SELECT pg_backend_pid()")
    return behind != connection.get_server_pid()


def make_engine(address: Address, *, pool_size: int = 10) -> AsyncEngine:
    """Return an engine on `address`; it connects when first used.

    Behind a transaction pooler SQLAlchemy's statement cache answers with errors and silently with wrong rows, so there
    statements are unnamed and uncached. `async_creator=` of create_async_engine cannot say that (its connections always
    cache 100 statements), hence the creator in `connect_args`, where the dialect reads all three.
    """

    async def creator(**_: Any) -> RawConnection:
        return await connect(address)

    arguments: dict[str, Any] = {"async_creator_fn": creator}
    if address.pooled:
        unnamed: Callable[[], str] = str
        arguments |= {"prepared_statement_cache_size": 0, "prepared_statement_name_func": unnamed}
    return create_async_engine(
        "postgresql+asyncpg://",
        connect_args=arguments,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=30,
        # An error of SQLAlchemy would otherwise carry what people wrote into the logs.
        hide_parameters=True,
    )
