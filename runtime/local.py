"""The composition root that scripts and commands share: settings → database → user → model → driver.

Only the gateway's application and worker are composed elsewhere, and they start from here.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import anyio
import anyio.to_thread
from sqlalchemy.ext.asyncio import AsyncSession

from runtime.clock import SystemClock
from runtime.conversations import TurnCloser
from runtime.definitions import AgentRows
from runtime.driver import Driver, Known, ToolSource
from runtime.errors import NotAuthorisedError
from runtime.journal import PostgresJournal
from runtime.models.offline import OfflineModel
from runtime.operation import Context
from runtime.ports import Model
from runtime.registry import NOTHING, Registry
from runtime.services.mcp_tools import open_mcp_tools
from runtime.settings import RuntimeSettings
from runtime.streaming import DeltaWriter
from storage import schema_state
from storage.credentials import UNUSABLE_PASSWORD, parse_api_key
from storage.crypto import Keyring
from storage.embedded import EmbeddedServer
from storage.engine import Address
from storage.errors import DatabaseNotReadyError
from storage.ids import process_name
from storage.job_engine import PgQueuerJobs
from storage.jobs import Jobs
from storage.queries import identity
from storage.settings import StorageSettings
from storage.tenancy import Database

LOCAL_USER = "local"
"""Who every local door acts as on the embedded database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """A running system, seen from one process and as one user."""

    settings: RuntimeSettings
    address: Address
    database: Database
    jobs: Jobs
    model: Model
    journal: PostgresJournal
    driver: Driver
    keyring: Keyring
    user_id: int
    process: str
    """What leases are held under."""
    registry: Registry = NOTHING
    """What this process can run beside the built-in agents and tools."""
    tool_source: ToolSource | None = None
    """The tools of other MCP servers."""

    async def renew_leases(self) -> None:
        """Prolong what this process holds, and break off what somebody wants cancelled; to be called every 5 s."""
        self.driver.interrupt(await self.journal.renew_all())

    async def context(self, db: AsyncSession, *, door: str) -> Context:
        """Return the context in which a person or a client performs an operation through `door`."""
        zone = ZoneInfo(await identity.timezone_of(db) or self.settings.timezone)
        now = SystemClock().now()
        return Context(db=db, jobs=self.jobs, user_id=self.user_id, now=now, zone=zone, door=door)


@asynccontextmanager
async def open_address(settings: StorageSettings, *, upgrade: bool = True) -> AsyncGenerator[Address]:
    """Yield where the database is, with the embedded server running, and migrated, when there is no DATABASE_URL.

    Raises:
        DatabaseUnavailableError: nothing answers at DATABASE_URL.
        DatabaseNotReadyError: that database needs `agency db upgrade`, or its roles are not harmless.
        EmbeddedServerError: the embedded server cannot start.
    """
    if settings.database_url is not None:
        dsn = settings.database_url.get_secret_value()
        direct = settings.database_url_direct.get_secret_value() if settings.database_url_direct else dsn
        address = Address(
            dsn=dsn,
            direct_dsn=direct,
            pooled=True,
            connect_timeout_s=settings.connect_timeout_s,
            command_timeout_s=settings.command_timeout_s,
        )
        if upgrade:
            await schema_state.require_ready(address)
        yield address
        return
    server = EmbeddedServer(settings.data_dir, pg_bin=settings.pg_bin)
    await anyio.to_thread.run_sync(server.start)
    try:
        dsn = await anyio.to_thread.run_sync(server.ensure_database)
        address = Address(dsn=dsn, direct_dsn=dsn, pooled=False, home=server.home)
        if upgrade and not (await schema_state.state(address)).is_ready:
            from storage import migrate  # alembic takes most of a second to import, and most starts do not need it

            await migrate.upgrade(address)
        yield address
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.stop)


def load_keyring(settings: StorageSettings, address: Address) -> Keyring:
    """Return the keys that seal secrets: from the settings, or from the key file beside the embedded server's data.

    Raises:
        DatabaseNotReadyError: a database of yours needs AGENCY_SECRET_KEYS.
        CryptoError: the keys are not usable.
    """
    if settings.secret_keys is not None:
        return Keyring.parse(settings.secret_keys.get_secret_value())
    if address.home is None:
        raise DatabaseNotReadyError(
            "it is not the embedded one and AGENCY_SECRET_KEYS is not set",
            "set it to a base64 32-byte key, e.g. from 'openssl rand -base64 32', and keep it safe",
        )
    return Keyring.load_or_create(address.home / "secret.key")


@asynccontextmanager
async def open_model(settings: RuntimeSettings) -> AsyncGenerator[Model]:
    """Yield Claude when there is a key, the offline model otherwise."""
    if settings.anthropic_api_key is None or settings.model == "offline":
        yield OfflineModel()
        return
    # Importing anthropic costs seconds, and most commands never talk to it.
    from runtime.models.anthropic import AnthropicModel, anthropic_client

    key = settings.anthropic_api_key.get_secret_value()
    async with anthropic_client(api_key=key, base_url=settings.anthropic_base_url) as client:
        yield AnthropicModel(
            client,
            model=settings.model,
            max_tokens=settings.max_tokens,
            deadline_s=settings.model_deadline_s,
            stream=settings.model_stream,
            thinking=settings.thinking,
            effort=settings.effort,
            small_model=settings.small_model,
            strict_tools=settings.strict_tools,
        )


async def find_user(database: Database, settings: RuntimeSettings, *, embedded: bool, user: str | None = None) -> int:
    """Return whom this process acts as.

    Raises:
        NotAuthorisedError: nobody was named, the name is unknown, or the key is not valid.
    """
    if settings.api_key is not None and user is None:
        return await user_of_key(database, settings.api_key.get_secret_value())
    name = user or settings.user or (LOCAL_USER if embedded else None)
    if name is None:
        raise NotAuthorisedError("set AGENCY_API_KEY (agency key create) or AGENCY_USER to say who you are")
    async with database.begin_dispatch() as db:
        found = await identity.user_named(db, name)
    if found is not None:
        return found
    if embedded and name == LOCAL_USER:
        return await _add_local_user(database)
    raise NotAuthorisedError(f"no user {name!r}; add one with 'agency user add'")


async def _add_local_user(database: Database) -> int:
    async with database.begin_admin() as db:
        return await identity.ensure_user(
            db,
            username=LOCAL_USER,
            email="local@localhost",
            password_hash=UNUSABLE_PASSWORD,
            role="superadmin",
        )


async def user_of_key(database: Database, key: str) -> int:
    """Return the owner of an API key that is active, not revoked and not expired.

    Raises:
        NotAuthorisedError: it is not such a key; why is not said.
    """
    parsed = parse_api_key(key)
    async with database.begin_dispatch() as db:
        found = await identity.owner_of_key(db, prefix=parsed.prefix, key_hash=parsed.key_hash)
    if found is None:
        raise NotAuthorisedError("the API key is not valid; make one with 'agency key create'")
    async with database.begin(found.user_id) as db:
        await identity.touch_key(db, found.key_id)
    return found.user_id


def compose(
    *,
    database: Database,
    user_id: int,
    model: Model,
    keyring: Keyring,
    settings: RuntimeSettings,
    tool_source: ToolSource | None = None,
    registry: Registry = NOTHING,
) -> Local:
    """Wire a system from its parts; nothing of it connects before it is used."""
    jobs = PgQueuerJobs(database)
    process = process_name()
    journal = PostgresJournal(database, process)
    driver = Driver(
        journal=journal,
        model=model,
        jobs=jobs,
        closing=TurnCloser(jobs),
        known=Known(
            agents=registry.agent_named,
            tools=registry.tool_named,
            agent_source=AgentRows(database),
            tool_source=tool_source,
        ),
        deltas=DeltaWriter(database),
        default_zone=settings.timezone,
        context_tokens=settings.context_tokens,
    )
    return Local(
        settings=settings,
        address=database.address,
        database=database,
        jobs=jobs,
        model=model,
        journal=journal,
        driver=driver,
        keyring=keyring,
        user_id=user_id,
        process=process,
        registry=registry,
        tool_source=tool_source,
    )


@asynccontextmanager
async def open_local(
    storage: StorageSettings,
    settings: RuntimeSettings,
    *,
    user: str | None = None,
    model: Model | None = None,
    registry: Registry = NOTHING,
) -> AsyncGenerator[Local]:
    """Yield a system that is ready to work, and take it down in the reverse order.

    Raises:
        StorageError, EmbeddedServerError, CryptoError: see `open_address` and `load_keyring`.
        NotAuthorisedError: see `find_user`.
    """
    async with open_address(storage) as address, nullcontext(model) if model else open_model(settings) as chosen:
        keyring = load_keyring(storage, address)
        database = Database(address, pool_size=storage.pool_size)
        try:
            user_id = await find_user(database, settings, embedded=address.embedded, user=user)
            async with open_mcp_tools(database, keyring) as tool_source:
                yield compose(
                    database=database,
                    user_id=user_id,
                    model=chosen,
                    keyring=keyring,
                    settings=settings,
                    tool_source=tool_source,
                    registry=registry,
                )
        finally:
            with anyio.CancelScope(shield=True):
                await database.close()
