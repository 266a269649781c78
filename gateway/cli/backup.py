"""`agency db backup` and `agency db restore`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.to_thread

from gateway.cli.output import print_record, progress
from gateway.errors import CheckFailedError
from runtime.local import open_address
from storage import backup as backups
from storage.embedded import EmbeddedServer
from storage.engine import Address
from storage.settings import StorageSettings


async def backup(path: Path, force: bool, as_json: bool) -> None:
    """Write a backup, print what is in it, and say what is not."""
    settings = StorageSettings()
    async with open_address(settings, upgrade=False) as address, _seeing_every_row(settings, address) as source:
        made = await backups.backup(source, path, pg_bin=settings.pg_bin, overwrite=force)
    shown = {
        "file": str(made.path),
        "manifest": str(made.manifest_path),
        "sizeBytes": made.size_bytes,
        "revision": made.revision,
        "rows": dict(made.rows) if as_json else sum(made.rows.values()),
    }
    print_record(shown, as_json=as_json)
    _say(f"keep both files together; {_keys(settings, address)} is not in them: keep a copy of it too, elsewhere")


async def restore(path: Path, force: bool, as_json: bool) -> None:
    """Replace the database by a backup, print what is in it, and say what to do next."""
    settings = StorageSettings()
    async with open_address(settings, upgrade=False) as address:
        restored = await backups.restore(address, path, pg_bin=settings.pg_bin, force=force)
    rows = dict(restored.rows) if as_json else sum(restored.rows.values())
    print_record({"file": str(path), "revision": restored.revision, "rows": rows}, as_json=as_json)
    keys = _keys(settings, address)
    _say(f"sealed secrets open only with the keys of the database that was backed up; those in use here: {keys}")
    _say("what waited to be sent or run when the backup was made waits again, and a worker will do it")
    if restored.problems:
        raise CheckFailedError(f"everything was restored, but {'; '.join(restored.problems)}; run 'agency db upgrade'")
    if restored.needs_upgrade:
        _say(f"its schema is at {restored.revision}, this release needs {restored.head}: run 'agency db upgrade'")


@asynccontextmanager
async def _seeing_every_row(settings: StorageSettings, address: Address) -> AsyncGenerator[Address]:
    """Yield the embedded server's database as its superuser sees it; another server's as the configured login does."""
    if not address.embedded:
        yield address
        return
    server = EmbeddedServer(settings.data_dir, pg_bin=settings.pg_bin)
    superuser = urlsplit(await anyio.to_thread.run_sync(server.start))
    try:
        dsn = urlunsplit(superuser._replace(path=urlsplit(address.direct_dsn).path))
        yield replace(address, dsn=dsn, direct_dsn=dsn)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.stop)


def _keys(settings: StorageSettings, address: Address) -> str:
    if settings.secret_keys is not None or address.home is None:
        return "AGENCY_SECRET_KEYS"
    return f"the key file {str(address.home / 'secret.key')!r}"


def _say(text: str) -> None:
    # A path may look like markup, and is to be copied in one piece.
    progress.print(text, markup=False, soft_wrap=True)
