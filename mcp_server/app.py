"""What a tool needs of the running system, and where it comes from.

The SDK's `lifespan` runs once per handshake, twice and overlapping when a client probes with `server/discover` first,
so nothing is opened there: it only hands on an `AppSource`, and a tool gets its `App` when it is called. Until then the
database may still be starting; `initialize` and `tools/list` never ask for it.
"""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Protocol
from zoneinfo import ZoneInfo

import anyio
from mcp.server.mcpserver import Context, Resolve
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from mcp_server.confirmation import Confirmations
from mcp_server.errors import AppUnavailableError, reported
from runtime.clock import Clock, SystemClock
from runtime.errors import RuntimeFault
from runtime.local import Local
from runtime.operation import Context as OperationContext
from storage.errors import StorageError
from storage.jobs import Jobs
from storage.queries import identity
from storage.tenancy import Database

DOOR = "mcp"
"""Who asks, for the audit trail."""

logger = logging.getLogger(__name__)

_CANNOT_OPEN = (StorageError, RuntimeFault, SQLAlchemyError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The running system as one caller sees it. A server for many callers makes one for each of them."""

    database: Database
    jobs: Jobs
    user_id: int
    default_zone: str
    """IANA name, for users who have not said theirs."""
    model_name: str
    """Who will answer: `offline`, or the name of a real model."""
    clock: Clock
    confirmations: Confirmations

    @classmethod
    def of(cls, local: Local, *, clock: Clock | None = None) -> "App":
        """Return the app of a process that acts as one user."""
        chosen = clock or SystemClock()
        return cls(
            database=local.database,
            jobs=local.jobs,
            user_id=local.user_id,
            default_zone=local.settings.timezone,
            model_name=local.model.name,
            clock=chosen,
            confirmations=Confirmations(chosen),
        )

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a READ ONLY transaction of the caller."""
        return self.database.begin(self.user_id, read_only=True)

    def writing(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a transaction of the caller; it commits at the end of the block."""
        return self.database.begin(self.user_id)

    async def context(self, db: AsyncSession) -> OperationContext:
        """Return the context in which an operation runs for the caller."""
        zone = ZoneInfo(await identity.timezone_of(db) or self.default_zone)
        return OperationContext(db=db, jobs=self.jobs, user_id=self.user_id, now=self.clock.now(), zone=zone, door=DOOR)


class AppSource(Protocol):
    """Where a tool call gets its app from."""

    async def get(self) -> App:
        """Return the app of the caller.

        Raises:
            AppUnavailableError: it is not there, and waiting for it was in vain.
        """
        ...


class OpenedApp:
    """An app that is there already."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def get(self) -> App:
        """Return it."""
        return self._app


class OpeningApp:
    """An app that is opened in the background, again and again until it succeeds; `run` holds it open.

    `open_app` makes the context manager that opens it and takes it down; it may run more inside, a worker for instance.
    """

    def __init__(
        self,
        open_app: Callable[[], AbstractAsyncContextManager[App]],
        *,
        patience_s: float = 25,
        retry_s: float = 5,
    ) -> None:
        self._open_app = open_app
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._app: App | None = None
        self._problem: str | None = None
        self._changed = anyio.Event()
        self._closed = anyio.Event()

    async def get(self) -> App:
        """Return the app, after waiting for it to open.

        Raises:
            AppUnavailableError: it could not be opened, takes longer than our patience, or was closed.
        """
        with anyio.move_on_after(self._patience_s):
            while self._app is None and self._problem is None:
                await self._changed.wait()
        if self._app is not None:
            return self._app
        raise AppUnavailableError(self._problem or "the database is still starting")

    async def run(self) -> None:
        """Open the app and hold it open until `close`."""
        while not self._closed.is_set():
            try:
                async with self._open_app() as app:
                    self._tell(app, None)
                    await self._closed.wait()
            except _CANNOT_OPEN as error:
                logger.warning("the system could not be opened and will be tried again", extra={"reason": str(error)})
                self._tell(None, str(error))
                with anyio.move_on_after(self._retry_s):
                    await self._closed.wait()
        self._tell(None, "the server is shutting down")

    def close(self) -> None:
        """Let `run` take the app down and return."""
        self._closed.set()

    def _tell(self, app: App | None, problem: str | None) -> None:
        self._app, self._problem = app, problem
        self._changed.set()
        self._changed = anyio.Event()


@reported
async def current_app(ctx: Context[Any, Any]) -> App:
    """Return the app of the caller of this request; `lifespan_context` is the server's AppSource."""
    source: AppSource = ctx.request_context.lifespan_context
    return await source.get()


CurrentApp = Annotated[App, Resolve(current_app)]
"""A parameter that no client can set and no schema shows."""


@asynccontextmanager
async def hand_on(source: AppSource) -> AsyncGenerator[AppSource]:
    """The server's lifespan: opens nothing, because it runs once per handshake."""
    yield source
