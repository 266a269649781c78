"""A whole database into a file, and back: nothing is called a backup, or restored, before its rows are counted.

    FILE         an archive of pg_dump's, mode 0600
    FILE.json    what must arrive: rows of each table, the schema, the revision, the digest of FILE

Row-level security is forced here, so a login that is subject to it would dump tables without rows, and pg_dump would
call that a success. Hence `backup` wants a login that sees everything, counts in the snapshot that is dumped, and
counts again in the archive. `restore` works as the owner of the tables, in one transaction that is verified before it
is committed. Above: the command line. Below: `archive`, and raw connections.
"""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
import asyncpg
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

import storage.models  # noqa: F401  # pyright: ignore[reportUnusedImport] -- fills the metadata
from storage import archive, schema_state
from storage.backup_errors import (
    BackupExistsError,
    BackupUnreadableError,
    DatabaseNotEmptyError,
    RestoreFailedError,
    RowsMissingError,
)
from storage.catalogue import catalogue
from storage.engine import Address, RawConnection, connect
from storage.errors import DatabaseNotReadyError, DatabaseUnavailableError
from storage.security import EXEMPT_TABLES, ensure_roles, owner_columns

_LOCK_TIMEOUT = "10s"
"""How long a restore waits for whoever still uses the tables."""

_OTHERS = ("schema ", "every new ")
"""Grants on what an archive leaves to the database: the schema itself, and what will be made in it."""

_SPELLING = re.compile(r"::[a-z_ ]+(\[\])?|[() ]")
"""Casts and parentheses. Parsed anew, Postgres prints `x IN ('a', 'b')` with others than before, meaning the same."""

_FROM_EXTENSION = """
    EXISTS (SELECT FROM pg_depend d WHERE d.classid = '{table}'::regclass AND d.objid = {alias}.oid AND d.deptype = 'e')
"""

_TABLES_SQL = f"""
    SELECT relname, format('public.%I', relname) AS quoted, relforcerowsecurity AS is_forced
    FROM pg_class c
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
        AND NOT {_FROM_EXTENSION.format(table="pg_class", alias="c")}
    ORDER BY relname
"""  # noqa: S608 -- built from the constants of this module

_DROPS_SQL = f"""
    SELECT format('DROP %s IF EXISTS public.%I CASCADE',
        CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                     WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, relname)
    FROM pg_class c
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
        AND NOT {_FROM_EXTENSION.format(table="pg_class", alias="c")}
        -- A sequence goes with its column.
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                        AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
    UNION ALL
    SELECT format('DROP ROUTINE IF EXISTS %s CASCADE', p.oid::regprocedure)
    FROM pg_proc p
    WHERE pronamespace = 'public'::regnamespace AND NOT {_FROM_EXTENSION.format(table="pg_proc", alias="p")}
    UNION ALL
    SELECT format('DROP TYPE IF EXISTS public.%I CASCADE', typname)
    FROM pg_type t
    WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd', 'r')
        AND NOT {_FROM_EXTENSION.format(table="pg_type", alias="t")}
"""  # noqa: S608 -- as above

_UNPROTECTED_SQL = """
    SELECT relname FROM pg_class c
    WHERE relnamespace = 'public'::regnamespace AND relname = ANY($1)
        AND NOT (relrowsecurity AND relforcerowsecurity
                 AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant'))
    ORDER BY relname
"""


class Manifest(BaseModel):
    """What is recorded beside an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    revision: str
    created_at: AwareDatetime
    postgres: str
    """Version of the server, as in "18.6"."""
    pg_dump: int
    """Major version of the program that wrote the archive; an older pg_restore may not read it."""
    sha256: str
    rows: dict[str, int]
    catalogue: dict[str, list[str]]
    """As of `storage.catalogue`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """A backup that was made."""

    path: Path
    manifest_path: Path
    size_bytes: int
    revision: str
    rows: Mapping[str, int]
    """Table → rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """A backup that was restored, and how the database compares with this release."""

    rows: Mapping[str, int]
    revision: str
    head: str
    problems: tuple[str, ...]
    """What is not as safe as this release declares it; the rows are there nevertheless."""

    @property
    def needs_upgrade(self) -> bool:
        """Whether the backup is of an older release than this."""
        return self.revision != self.head


def manifest_path(path: Path) -> Path:
    """Return where the manifest of the backup at `path` is."""
    return path.with_name(path.name + ".json")


async def backup(address: Address, path: Path, *, pg_bin: Path | None = None, overwrite: bool = False) -> BackupReport:
    """Write the schema `public` of the database to `path`, while everybody goes on working.

    `address.direct_dsn` is a superuser's or a BYPASSRLS role's. Killed on the way, this leaves a hidden directory
    beside `path` and nothing under its name.

    Raises:
        BackupExistsError: there is a file, and not `overwrite`.
        BackupUnreadableError: its directory cannot be written to.
        DatabaseNotReadyError: the login would not see every row, or there is no schema of ours.
        DatabaseUnavailableError: there is no connection, or it was lost.
        DumpProgramsNotFoundError, DumpProgramFailedError: see `storage.archive`.
        RowsMissingError: the archive does not hold what was counted.
    """
    _refuse_existing(path, overwrite=overwrite)
    connection = await connect(replace(address, command_timeout_s=archive.PATIENCE_S), direct=True)
    try:
        await _require_sight_of_every_row(connection)
        major = connection.get_server_version().major
        programs = await archive.find_programs(pg_bin, at_least=major)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as drafts:
                draft = Path(drafts, "archive")
                manifest = await _write_verified(connection, address.direct_dsn, programs, draft)
                _refuse_existing(path, overwrite=overwrite)
                await anyio.to_thread.run_sync(_publish, draft, manifest, path)
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseNotReadyError(str(error), "make the login a member of pg_read_all_data") from error
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailableError(address.label, f"it was lost during the backup ({error})") from error
    except OSError as error:
        raise BackupUnreadableError(path, error.strerror or str(error)) from error
    finally:
        await connection.close()
    return BackupReport(
        path=path,
        manifest_path=manifest_path(path),
        size_bytes=(await anyio.Path(path).stat()).st_size,
        revision=manifest.revision,
        rows=manifest.rows,
    )


def _refuse_existing(path: Path, *, overwrite: bool) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise BackupUnreadableError(path, "it is a directory, or is to be in one that does not exist; name a file")
    if path.exists() and not overwrite:
        raise BackupExistsError(path)


async def _require_sight_of_every_row(connection: RawConnection) -> None:
    blind: str | None = await connection.fetchval(
        "SELECT current_user FROM pg_roles WHERE rolname = current_user AND NOT (rolsuper OR rolbypassrls)"
    )
    if blind is not None:
        raise DatabaseNotReadyError(
            f"row-level security would hide every row from the login {blind!r}, and the backup would be empty",
            f"as a superuser run 'ALTER ROLE \"{blind}\" BYPASSRLS', or set DATABASE_URL_DIRECT for this command "
            "to a login that has BYPASSRLS and is a member of pg_read_all_data",
        )


async def _write_verified(connection: RawConnection, dsn: str, programs: archive.DumpPrograms, draft: Path) -> Manifest:
    """Dump what this transaction sees, and return what is in it."""
    await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    revision = await _revision(connection)
    if revision is None:
        raise DatabaseNotReadyError("it holds no schema of Agency", "there is nothing to back up")
    snapshot: str = await connection.fetchval("SELECT pg_export_snapshot()")
    await archive.write_archive(programs, dsn, draft, snapshot=snapshot)
    counted = await _count_visible(connection)
    await require_rows(programs, draft, counted)
    return Manifest(
        revision=revision,
        created_at=await connection.fetchval("SELECT now()"),
        postgres=await connection.fetchval("SELECT split_part(current_setting('server_version'), ' ', 1)"),
        pg_dump=programs.major,
        sha256=await anyio.to_thread.run_sync(digest_of, draft),
        rows=counted,
        catalogue=_for_archive(await catalogue(connection)),
    )


async def require_rows(programs: archive.DumpPrograms, path: Path, expected: Mapping[str, int]) -> None:
    """Read an archive and refuse it unless it holds that many rows of each table.

    Raises:
        RowsMissingError: it does not.
    """
    found = await archive.count_rows(programs, path)
    if found != expected:
        raise RowsMissingError("the dump", expected, found)


async def _revision(connection: RawConnection) -> str | None:
    if not await connection.fetchval("SELECT to_regclass('public.alembic_version') IS NOT NULL"):
        return None
    return await connection.fetchval("SELECT version_num FROM public.alembic_version")


async def _count_visible(connection: RawConnection) -> dict[str, int]:
    counts: dict[str, int] = {}
    for table in await connection.fetch(_TABLES_SQL):
        counts[table["relname"]] = await connection.fetchval(f"SELECT count(*) FROM {table['quoted']}")  # noqa: S608 -- quoted by Postgres
    return counts


def _for_archive(described: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Leave out what belongs to the database and not to an archive."""
    return {
        kind: [line for line in lines if not (kind == "grants" and line.startswith(_OTHERS))]
        for kind, lines in described.items()
        if kind != "extensions"
    }


def _changes(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> list[str]:
    """Return one line for each thing that only one of two schemas has."""
    found: list[str] = []
    for kind in sorted({*before, *after}):
        old, new = ({_SPELLING.sub("", line): line for line in side.get(kind, ())} for side in (before, after))
        found += [f"no longer {kind}: {old[line]}" for line in sorted(old.keys() - new.keys())]
        found += [f"unexpected {kind}: {new[line]}" for line in sorted(new.keys() - old.keys())]
    return found


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(draft: Path, manifest: Manifest, path: Path) -> None:
    """Give both files their names, durably; pg_dump has synced the archive itself."""
    record = draft.with_name("manifest")
    with record.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    for file in (record, draft):
        file.chmod(0o600)
    # The manifest first: a backup that has its name is complete.
    record.replace(manifest_path(path))
    draft.replace(path)
    if sys.platform != "win32":
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


async def restore(address: Address, path: Path, *, pg_bin: Path | None = None, force: bool = False) -> RestoreReport:
    """Replace the schema `public` by a backup, whole or not at all; an older one is to be upgraded afterwards.

    `address.direct_dsn` is the owner's of the tables; in an empty database it becomes that. With `force`, rows that are
    there go.

    Raises:
        BackupUnreadableError: file and manifest do not belong together, or are a newer release's.
        DatabaseNotEmptyError: there are rows, and not `force`.
        RowsMissingError: not every row arrived; rolled back.
        RestoreFailedError: the database refused, or has become another than the one backed up; rolled back.
        DumpProgramsNotFoundError, DumpProgramFailedError: see `storage.archive`.
    """
    manifest = await anyio.to_thread.run_sync(_read_manifest, path)
    programs = await archive.find_programs(pg_bin, at_least=manifest.pg_dump)
    connection = await connect(replace(address, command_timeout_s=archive.PATIENCE_S), direct=True)
    try:
        async with connection.transaction():
            await _become_owner(connection)
            await _make_room(connection, address, force=force)
            await ensure_roles(connection)
            await _load(connection, programs, path)
            await _verify(connection, address, manifest)
        exposed = await connection.fetch(_UNPROTECTED_SQL, list(owner_columns()))
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
        # Lost at the very end, the reply to COMMIT is: nobody knows without asking.
        raise DatabaseUnavailableError(
            address.label, f"it was lost during the restore ({error}); look with 'agency db status', then restore again"
        ) from error
    except asyncpg.LockNotAvailableError as error:
        raise RestoreFailedError(address.label, "its tables are in use; stop gateways and workers first") from error
    except asyncpg.PostgresError as error:
        raise RestoreFailedError(address.label, str(error)) from error
    finally:
        await connection.close()
    state = await schema_state.state(address)
    problems = [f"{row['relname']} is without its row-level security" for row in exposed]
    return RestoreReport(
        rows=manifest.rows, revision=manifest.revision, head=state.head, problems=(*state.problems, *problems)
    )


def _read_manifest(path: Path) -> Manifest:
    record = manifest_path(path)
    try:
        manifest = Manifest.model_validate_json(record.read_bytes())
        digest = digest_of(path)
    except OSError as error:
        missing = f"{error.strerror}: {error.filename!r}"
        raise BackupUnreadableError(path, f"{missing}; a backup is this file and {record.name!r}") from error
    except ValidationError as error:
        raise BackupUnreadableError(
            record, "it was not written by 'agency db backup' of this or an older release"
        ) from error
    if digest != manifest.sha256:
        raise BackupUnreadableError(
            path, f"it is damaged, or {record.name!r} is another backup's; take a good copy of both"
        )
    if manifest.revision > schema_state.head():
        raise BackupUnreadableError(
            path, f"its schema is at {manifest.revision}, newer than this release's; install the release that made it"
        )
    return manifest


async def _become_owner(connection: RawConnection) -> None:
    """Work as whoever owns the tables already, so that a superuser who restores does not take them away."""
    await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    switch: str | None = await connection.fetchval(
        """
        SELECT format('SET LOCAL ROLE %I', pg_get_userbyid(relowner)) FROM pg_class
        WHERE oid = to_regclass('public.alembic_version') AND pg_get_userbyid(relowner) <> current_user
        """
    )
    if switch is not None:
        await connection.execute(switch)


async def _make_room(connection: RawConnection, address: Address, *, force: bool) -> None:
    if not force:
        counted = await _count_as_owner(connection)
        if occupied := {table: rows for table, rows in counted.items() if rows and table not in EXEMPT_TABLES}:
            raise DatabaseNotEmptyError(address.label, occupied)
    for row in await connection.fetch(_DROPS_SQL):
        await connection.execute(row[0])


async def _count_as_owner(connection: RawConnection) -> dict[str, int]:
    """Count every row as the owner, from whom forced row-level security would hide them all.

    Nobody else sees the tables without it: the lock is held until the transaction ends.
    """
    forced = [row["quoted"] for row in await connection.fetch(_TABLES_SQL) if row["is_forced"]]
    for table in forced:
        await connection.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    counts = await _count_visible(connection)
    for table in forced:
        await connection.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    return counts


async def _load(connection: RawConnection, programs: archive.DumpPrograms, path: Path) -> None:
    """Tables, then rows, then keys and policies: in this order the owner may fill them."""
    await connection.execute(await archive.read_definitions(programs, path, "pre-data"))
    async with archive.open_rows(programs, path) as items:
        async for item in items:
            if isinstance(item, archive.TableRows):
                await connection.copy_to_table(
                    item.table, schema_name="public", columns=list(item.columns), source=item.chunks
                )
            else:
                await connection.execute(item.sql)
    await connection.execute(await archive.read_definitions(programs, path, "post-data"))


async def _verify(connection: RawConnection, address: Address, manifest: Manifest) -> None:
    counted = await _count_as_owner(connection)
    if counted != manifest.rows:
        raise RowsMissingError("the restored database", manifest.rows, counted)
    if changes := _changes(manifest.catalogue, _for_archive(await catalogue(connection))):
        raise RestoreFailedError(address.label, f"its schema would not be the one backed up: {'; '.join(changes[:5])}")
