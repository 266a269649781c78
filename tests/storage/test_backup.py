"""Backup and restore with PostgreSQL's own programs, on an embedded server whose superuser and owner both log in.

A faulty program is a small script in front of the real one, so that what is refused is what would really happen.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import select

from storage import archive, backup, migrate, schema_state
from storage.backup_errors import (
    BackupExistsError,
    BackupUnreadableError,
    DatabaseNotEmptyError,
    DumpProgramFailedError,
    DumpProgramsNotFoundError,
    RestoreFailedError,
    RowsMissingError,
)
from storage.catalogue import catalogue
from storage.crypto import Keyring
from storage.embedded import EmbeddedServer
from storage.embedded.binaries import choose
from storage.engine import Address, RawConnection, clean_dsn, connect
from storage.errors import DatabaseNotReadyError
from storage.models.identity import User
from storage.models.messaging import UserWebhook
from storage.tenancy import Database
from storage.testing import add_user, address_of, ensure_template, fresh_address
from tests.user import Agency, assert_one_line, make_data_dir

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the faulty programs are shell scripts")

EMPTY = "template0"
AWKWARD = "a\n\\.\nb\tc\\N 'd' \"e\" \r\n" + "long " * 60_000
"""What COPY has to escape, and longer than a pipe holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """An embedded server, seen by its owner login and by its superuser."""

    owner_dsn: str
    superuser_dsn: str
    template: str

    def as_superuser(self, address: Address) -> Address:
        return address_of(self.superuser_dsn, urlsplit(address.dsn).path[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A database of two tenants, each with a webhook that holds a sealed secret."""

    address: Address
    as_superuser: Address
    alice: int
    bob: int
    keyring: Keyring


@pytest.fixture(scope="module")
async def server() -> AsyncGenerator[Server]:
    home = make_data_dir()
    embedded = EmbeddedServer(home)
    superuser_dsn = await anyio.to_thread.run_sync(embedded.start)
    owner_dsn = await anyio.to_thread.run_sync(embedded.ensure_database)
    # The owner builds its databases from "postgres".
    yield Server(owner_dsn=owner_dsn, superuser_dsn=superuser_dsn, template=await ensure_template(owner_dsn))
    await anyio.to_thread.run_sync(embedded.stop)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
async def source(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Source]:
    """Shared, because no test here changes it."""
    keyring = Keyring.load_or_create(tmp_path_factory.mktemp("keys") / "secret.key")
    async with fresh_address(server.owner_dsn, server.template) as address:
        database = Database(address, pool_size=1)
        alice, bob = await add_user(database, "alice"), await add_user(database, "bob")
        await add_webhook(database, keyring, alice, "whsec_alice")
        await add_webhook(database, keyring, bob, "whsec_bob")
        await database.close()
        yield Source(address=address, as_superuser=server.as_superuser(address), alice=alice, bob=bob, keyring=keyring)


@pytest.fixture
async def empty(server: Server) -> AsyncGenerator[Address]:
    """A database into which nobody has put anything."""
    async with fresh_address(server.owner_dsn, EMPTY) as address:
        yield address


@pytest.fixture
async def occupied(server: Server) -> AsyncGenerator[Address]:
    """A migrated database with one user, carol, and a table that no release knows."""
    async with fresh_address(server.owner_dsn, server.template) as address:
        database = Database(address, pool_size=1)
        await add_user(database, "carol")
        await database.close()
        connection = await connect(address)
        await connection.execute("CREATE TABLE stray (id bigint REFERENCES users (id))")
        await connection.close()
        yield address


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a backup goes."""
    return tmp_path / "agency.backup"


@pytest.fixture(scope="module")
async def good_backup(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "agency.backup"
    await backup.backup(source.as_superuser, path)
    return path


@pytest.fixture
def saved(good_backup: Path, file: Path) -> Path:
    """A backup of `source` that the test may spoil."""
    shutil.copy(good_backup, file)
    shutil.copy(backup.manifest_path(good_backup), backup.manifest_path(file))
    return file


async def add_webhook(database: Database, keyring: Keyring, owner: int, secret: str) -> None:
    async with database.begin(owner) as db:
        row = UserWebhook(
            user_id=owner,
            name="chat",
            type="custom",
            webhook_token=secret,
            config={},
            system_prompt=AWKWARD,
        )
        db.add(row)
        await db.flush()
        sealed = keyring.seal(secret, table="userWebhooks", column="config", row=row.id, owner=owner)
        row.config = {"signingSecret": sealed}


async def secrets_of(database: Database, keyring: Keyring, owner: int) -> list[str]:
    """Open the secrets of every webhook that this tenant sees."""
    async with database.begin(owner, read_only=True) as db:
        rows = (await db.scalars(select(UserWebhook))).all()
    assert all(row.system_prompt == AWKWARD for row in rows)
    place = {"table": "userWebhooks", "column": "config"}
    return [keyring.open_text(str(row.config["signingSecret"]), **place, row=row.id, owner=row.user_id) for row in rows]


async def usernames(address: Address) -> list[str]:
    database = Database(address, pool_size=1)
    async with database.begin_admin() as db:
        names = list(await db.scalars(select(User.username).order_by(User.id)))
    await database.close()
    return names


def in_front_of(directory: Path, program: str, script: str) -> Path:
    """Return a directory of programs in which `program` is this script, with the real one in $REAL."""
    real = choose(None, major=None).bin_dir
    directory.mkdir()
    for name in ("pg_dump", "pg_restore"):
        (directory / name).symlink_to(real / name)
    (directory / program).unlink()
    (directory / program).write_text(f"#!/bin/sh\nREAL='{real / program}'\n{script}\n")
    (directory / program).chmod(0o755)
    return directory


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


ONLY_VERSION = 'if [ "$1" = --version ]; then exec "$REAL" --version; fi\n'


def put(file: Path, content: bytes) -> None:
    """Replace the archive, and the record of it too, as a program that is wrong about both would."""
    file.write_bytes(content)
    alter_manifest(file, sha256=backup.digest_of(file))


def alter_manifest(file: Path, **changes: object) -> None:
    path = backup.manifest_path(file)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


async def test_every_row_of_every_tenant_comes_back_and_stays_apart(source: Source, empty: Address, file: Path) -> None:
    made = await backup.backup(source.as_superuser, file)
    restored = await backup.restore(empty, file)

    assert (made.rows["users"], made.rows["userWebhooks"]) == (2, 2)
    assert restored.rows == made.rows
    assert (restored.problems, restored.needs_upgrade) == ((), False)
    assert (await schema_state.state(empty)).is_ready
    database = Database(empty, pool_size=1)
    assert await secrets_of(database, source.keyring, source.alice) == ["whsec_alice"]
    assert await secrets_of(database, source.keyring, source.bob) == ["whsec_bob"]
    assert await add_user(database, "carol") > source.bob
    await database.close()


async def test_a_restored_schema_is_protected_like_a_migrated_one(source: Source, empty: Address, saved: Path) -> None:
    await backup.restore(empty, saved)

    restored, migrated = await connect(empty), await connect(source.address)
    assert await restored.fetchval('SELECT count(*) FROM "userWebhooks"') == 0, "the owner is subject to policies too"
    owners = await restored.fetch("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert [row[0] for row in owners] == ["agency"]
    found, wanted = await catalogue(restored), await catalogue(migrated)
    for kind in ("tables", "columns", "grants", "triggers", "functions"):
        assert found[kind] == wanted[kind]
    await restored.close()
    await migrated.close()


async def test_a_backup_is_for_its_owner_only_and_leaves_nothing_else_behind(source: Source, file: Path) -> None:
    made = await backup.backup(source.as_superuser, file)

    assert names_in(file.parent) == ["agency.backup", "agency.backup.json"]
    states = [await anyio.Path(path).stat() for path in (made.path, made.manifest_path)]
    assert [stat.S_IMODE(state.st_mode) for state in states] == [0o600, 0o600]
    assert made.size_bytes == states[0].st_size


async def test_a_login_that_policies_apply_to_cannot_make_a_backup(source: Source, file: Path) -> None:
    with pytest.raises(DatabaseNotReadyError) as caught:
        await backup.backup(source.address, file)
    assert "BYPASSRLS" in caught.value.remedy
    assert names_in(file.parent) == []


async def test_a_login_made_for_backups_needs_nothing_more_than_it_is_told(
    server: Server, source: Source, file: Path
) -> None:
    superuser = await connect(source.as_superuser)
    await superuser.execute("CREATE ROLE keeper LOGIN BYPASSRLS")
    keeper = address_of(server.owner_dsn.replace("agency@", "keeper@"), urlsplit(source.address.dsn).path[1:])
    with pytest.raises(DatabaseNotReadyError) as caught:
        await backup.backup(keeper, file)
    assert "pg_read_all_data" in caught.value.remedy

    await superuser.execute("GRANT pg_read_all_data TO keeper")
    made = await backup.backup(keeper, file)
    assert made.rows["users"] == 2
    await superuser.close()


async def test_a_dump_from_which_policies_hid_the_rows_is_not_called_a_backup(
    source: Source, file: Path, tmp_path: Path
) -> None:
    script = f'{ONLY_VERSION}exec "$REAL" "$@" --enable-row-security \'--dbname={source.address.dsn}\''
    programs = in_front_of(tmp_path / "bin", "pg_dump", script)
    with pytest.raises(RowsMissingError) as caught:
        await backup.backup(source.as_superuser, file, pg_bin=programs)
    assert caught.value.differences == {"userWebhooks": (2, 0), "users": (2, 0)}
    assert names_in(tmp_path) == ["bin"]


async def test_a_restore_to_which_rows_do_not_arrive_is_undone(
    server: Server, source: Source, occupied: Address, saved: Path
) -> None:
    programs = await archive.find_programs(None, at_least=18)
    hollow = [str(programs.pg_dump), "--format=custom", "--schema=public", "--quote-all-identifiers"]
    dumped = await anyio.run_process([*hollow, "--enable-row-security", source.address.dsn])
    assert dumped.returncode == 0, "pg_dump calls this a success"
    put(saved, dumped.stdout)

    with pytest.raises(RowsMissingError) as caught:
        await backup.restore(occupied, saved, force=True)
    assert caught.value.differences == {"userWebhooks": (2, 0), "users": (2, 0)}
    assert await usernames(occupied) == ["carol"]


async def test_a_restore_without_its_policies_is_undone(empty: Address, saved: Path, tmp_path: Path) -> None:
    programs = in_front_of(tmp_path / "bin", "pg_restore", f'{ONLY_VERSION}exec "$REAL" --no-policies "$@"')
    with pytest.raises(RestoreFailedError, match="no longer policies"):
        await backup.restore(empty, saved, pg_bin=programs)
    assert (await schema_state.state(empty)).current is None


async def test_rows_are_replaced_only_when_that_is_asked_for(occupied: Address, saved: Path) -> None:
    with pytest.raises(DatabaseNotEmptyError) as caught:
        await backup.restore(occupied, saved)
    assert caught.value.rows == {"users": 1}
    assert await usernames(occupied) == ["carol"]

    await backup.restore(occupied, saved, force=True)
    assert await usernames(occupied) == ["alice", "bob"]
    connection = await connect(occupied)
    assert await connection.fetchval("SELECT to_regclass('stray')") is None
    await connection.close()


async def test_a_superuser_who_restores_does_not_take_the_tables_away(
    server: Server, occupied: Address, saved: Path
) -> None:
    await backup.restore(server.as_superuser(occupied), saved, force=True)
    await migrate.downgrade(occupied, "base")


async def test_a_restore_into_tables_in_use_gives_up(
    occupied: Address, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_LOCK_TIMEOUT", "50ms")
    worker = await connect(occupied)
    async with worker.transaction():
        await worker.fetch("SELECT FROM users")
        with pytest.raises(RestoreFailedError, match="stop gateways and workers"):
            await backup.restore(occupied, saved, force=True)
    await worker.close()
    assert await usernames(occupied) == ["carol"]


async def test_a_backup_of_an_older_release_is_upgraded_after_its_restore(
    server: Server, empty: Address, file: Path
) -> None:
    async with fresh_address(server.owner_dsn, server.template) as old:
        await migrate.downgrade(old, "0001")
        await backup.backup(server.as_superuser(old), file)
    restored = await backup.restore(empty, file)
    assert (restored.revision, restored.needs_upgrade) == ("0001", True)

    await migrate.upgrade(empty)
    assert (await schema_state.state(empty)).is_ready


async def test_an_empty_database_is_nothing_to_back_up(server: Server, empty: Address, file: Path) -> None:
    with pytest.raises(DatabaseNotReadyError, match="nothing to back up"):
        await backup.backup(server.as_superuser(empty), file)
    assert names_in(file.parent) == []


async def test_a_file_is_overwritten_only_when_that_is_asked_for(source: Source, file: Path) -> None:
    precious = anyio.Path(file)
    await precious.write_text("precious")
    with pytest.raises(BackupExistsError):
        await backup.backup(source.as_superuser, file)
    assert await precious.read_text() == "precious"

    await backup.backup(source.as_superuser, file, overwrite=True)
    assert (await precious.read_bytes()).startswith(b"PGDMP")


async def test_a_place_that_cannot_hold_a_file_is_refused(source: Source, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing" / "agency.backup"):
        with pytest.raises(BackupUnreadableError):
            await backup.backup(source.as_superuser, place)


async def test_what_is_not_the_backup_it_should_be_is_refused_before_anything_changes(
    source: Source, occupied: Address, file: Path
) -> None:
    async def assert_refused(problem: str) -> None:
        with pytest.raises(BackupUnreadableError, match=problem):
            await backup.restore(occupied, file, force=True)

    await assert_refused("No such file")
    await backup.backup(source.as_superuser, file)
    alter_manifest(file, revision="9999")
    await assert_refused("newer than this release")
    alter_manifest(file, sha256="another")
    await assert_refused("damaged")
    alter_manifest(file, format=2)
    await assert_refused("was not written by")
    await anyio.Path(backup.manifest_path(file)).unlink()
    await assert_refused("No such file")
    assert await usernames(occupied) == ["carol"]


async def test_an_archive_that_ends_too_early_changes_nothing(occupied: Address, saved: Path) -> None:
    whole = await anyio.Path(saved).read_bytes()
    for content in (whole[:-1000], b"no archive at all"):
        put(saved, content)
        with pytest.raises(DumpProgramFailedError):
            await backup.restore(occupied, saved, force=True)
        assert await usernames(occupied) == ["carol"]


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        ("head -c 100000; exit 1", DumpProgramFailedError),
        # The server refuses the first row while the program still has more to say than the pipe holds.
        ("sed 's/{\"signingSecret/}/'", RestoreFailedError),
        ("grep -v whsec_bob", RowsMissingError),
    ],
)
async def test_rows_that_are_spoiled_on_the_way_change_nothing(
    occupied: Address, saved: Path, tmp_path: Path, spoil: str, error: type[Exception]
) -> None:
    script = f'{ONLY_VERSION}case "$*" in *section=data*) "$REAL" "$@" | {spoil};; *) exec "$REAL" "$@";; esac'
    programs = in_front_of(tmp_path / "bin", "pg_restore", script)
    with pytest.raises(error):
        await backup.restore(occupied, saved, pg_bin=programs, force=True)
    assert await usernames(occupied) == ["carol"]


async def test_a_backup_that_is_killed_leaves_nothing_under_its_name(
    source: Source, file: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "started")
    half = f'{ONLY_VERSION}for part; do case $part in --file=*) echo half > "${{part#--file=}}";; esac; done\n'
    programs = in_front_of(tmp_path / "bin", "pg_dump", f"{half}echo $$ > '{tmp_path / 'started'}'; exec sleep 60")
    code = (
        "import sys, anyio; from pathlib import Path; from storage import backup; from storage.engine import Address\n"
        "dsn, file, programs = sys.argv[1:]\n"
        "address = Address(dsn=dsn, direct_dsn=dsn, pooled=False)\n"
        "anyio.run(lambda: backup.backup(address, Path(file), pg_bin=Path(programs)))\n"
    )
    arguments = [source.as_superuser.dsn, str(file), str(programs)]
    async with await anyio.open_process([sys.executable, "-c", code, *arguments], stderr=None) as process:
        dumping = int(await anyio.Path(tmp_path / "started").read_text())
        process.kill()
        await process.wait()
        os.kill(dumping, signal.SIGKILL)

    draft, *named = names_in(tmp_path)
    assert draft.startswith(".agency.backup-")
    assert named == ["bin", "started"]
    assert await anyio.Path(tmp_path, draft, "archive").read_text() == "half\n"


async def test_a_password_is_not_among_the_arguments(source: Source, file: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f'{ONLY_VERSION}{{ echo "$@"; echo "=$PGPASSWORD"; }} > \'{seen}\'; exec "$REAL" "$@"'
    programs = in_front_of(tmp_path / "bin", "pg_dump", script)
    parts = urlsplit(source.as_superuser.dsn)
    dsn = urlunsplit(parts._replace(netloc="postgres:open%20sesame@"))
    await backup.backup(replace(source.as_superuser, dsn=dsn, direct_dsn=dsn), file, pg_bin=programs)

    arguments, password = (await anyio.Path(seen).read_text()).splitlines()
    assert "sesame" not in arguments
    assert "postgresql://postgres@/" in arguments
    assert password == "=open sesame"


@pytest.mark.parametrize(
    ("dsn", "shown", "password"),
    [
        ("postgresql:///db", "postgresql:///db?", None),
        ("postgresql://u@/db?host=%2Frun&password=a%20b", "postgresql://u@/db?host=%2Frun", "a b"),
        (
            "postgresql://u:p%40ss@h1:1,[::1]:2/db?sslmode=require",
            "postgresql://u@h1:1,[::1]:2/db?sslmode=require",
            "p@ss",
        ),
    ],
)
def test_an_address_is_shown_without_its_password(dsn: str, shown: str, password: str | None) -> None:
    url, environment = archive.split_password(clean_dsn(dsn))
    assert (url, environment.get("PGPASSWORD")) == (shown, password)


@pytest.mark.parametrize("script", ["echo 'pg_dump (PostgreSQL) 14.2'", "exit 3", None])
async def test_programs_that_are_too_old_or_missing_are_named(
    source: Source, file: Path, tmp_path: Path, script: str | None
) -> None:
    programs = in_front_of(tmp_path / "bin", "pg_dump", script) if script else tmp_path
    with pytest.raises(DumpProgramsNotFoundError) as caught:
        await backup.backup(source.as_superuser, file, pg_bin=programs)
    assert caught.value.wanted == 18
    assert str(programs) in caught.value.found[0]


@pytest.fixture
def home() -> Generator[Path]:
    """The data directory of somebody who has never used it."""
    path = make_data_dir()
    server = EmbeddedServer(path)
    server.start()
    yield path
    server.stop()
    shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def superuser_of(home: Path) -> AsyncGenerator[RawConnection]:
    server = EmbeddedServer(home)
    connection = await connect(address_of(server.start(), "agency"))
    yield connection
    await connection.close()
    server.stop()


async def test_a_user_backs_up_and_restores_by_command(agency: Agency, home: Path, file: Path) -> None:
    def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
        return agency(*arguments, AGENCY_DATA_DIR=str(home))

    assert ran("task", "add", "Call Acme Dental").returncode == 0
    made = ran("db", "backup", str(file), "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["rows"]["agencyTasks"] == 1
    assert str(EmbeddedServer(home).home / "secret.key") in made.stderr

    assert_one_line(ran("db", "restore", str(file)), code=5, complaint="--force")
    async with superuser_of(home) as connection:
        await connection.execute('DELETE FROM "agencyTasks"')
    restored = ran("db", "restore", str(file), "--force", "--json")
    assert restored.returncode == 0, restored.stderr
    async with superuser_of(home) as connection:
        assert await connection.fetchval('SELECT title FROM "agencyTasks"') == "Call Acme Dental"
