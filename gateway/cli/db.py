"""`agency db ...`: the database itself."""

import sys

import anyio.to_thread

from gateway.cli.output import print_record, progress
from gateway.errors import CheckFailedError, GatewayError
from runtime.local import open_address
from storage import migrate, schema_state
from storage.embedded import EmbeddedServer
from storage.settings import StorageSettings


def _embedded(settings: StorageSettings) -> EmbeddedServer:
    if settings.database_url is not None:
        raise GatewayError("DATABASE_URL is set, so there is no embedded server to start or stop; unset it first")
    return EmbeddedServer(settings.data_dir, pg_bin=settings.pg_bin)


async def up() -> None:
    """Start the embedded server, migrate it, and let it outlive this process."""
    settings = StorageSettings()
    server = _embedded(settings)
    async with open_address(settings):
        await anyio.to_thread.run_sync(server.hold)
    progress.print("the embedded server stays up until 'agency db down'")


async def down() -> None:
    """Take back `up`; the server stops when nobody else uses it."""
    server = _embedded(StorageSettings())
    was = await anyio.to_thread.run_sync(server.status)
    stopped = await anyio.to_thread.run_sync(server.release)
    if not was.running:
        progress.print("the embedded server was not running")
    elif stopped:
        progress.print("the embedded server is stopped")
    else:
        progress.print("released; the embedded server stops when the last process lets go of it")


async def status(as_json: bool) -> None:
    """Print the address and the state of the schema."""
    settings = StorageSettings()
    async with open_address(settings, upgrade=False) as address:
        state = await schema_state.state(address)
    shown = {
        "address": address.label,
        "embedded": address.embedded,
        "revision": state.current,
        "head": state.head,
        "ready": state.is_ready,
        "problems": list(state.problems),
    }
    print_record(shown, as_json=as_json)


async def upgrade() -> None:
    """Create the roles and bring the schema to this release."""
    async with open_address(StorageSettings(), upgrade=False) as address:
        await migrate.upgrade(address)
        state = await schema_state.state(address)
    progress.print(f"{address.label} is at revision {state.current}")


async def check() -> None:
    """Fail when the schema or the roles are not as this release needs them."""
    async with open_address(StorageSettings(), upgrade=False) as address:
        state = await schema_state.state(address)
    if not state.is_ready:
        problems = "; ".join(state.problems) or f"revision {state.current} instead of {state.head}"
        raise CheckFailedError(f"{problems}; run 'agency db upgrade'")
    progress.print(f"{address.label} is ready at revision {state.current}")


async def url() -> None:
    """Print the address for other programs."""
    settings = StorageSettings()
    async with open_address(settings) as address:
        sys.stdout.write(address.direct_dsn + "\n")
    if address.embedded and not (await anyio.to_thread.run_sync(_embedded(settings).status)).held:
        progress.print("[dim]the embedded server stops when nobody uses it; 'agency db up' keeps it running[/dim]")
