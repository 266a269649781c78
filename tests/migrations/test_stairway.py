"""Every migration goes up, down and up again; two at once take turns; none waits for ever; the script form is sound."""

import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import anyio
import pytest
from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import text

from storage import migrate, schema_state
from storage.catalogue import catalogue, catalogue_hash
from storage.drift import EMPTY
from storage.engine import Address, connect
from storage.security import ensure_roles
from storage.testing import fresh_address

ROOT = Path(__file__).parents[2]

REVISIONS = [script.revision for script in ScriptDirectory.from_config(migrate.alembic_config()).walk_revisions()][::-1]
"""Every revision, oldest first."""


@pytest.fixture
async def empty(server_dsn: str) -> AsyncGenerator[Address]:
    """A database with nothing in it."""
    async with fresh_address(server_dsn, EMPTY) as address:
        yield address


async def describe(address: Address) -> dict[str, list[str]]:
    """Return the catalogue of a database."""
    connection = await connect(address)
    try:
        return await catalogue(connection)
    finally:
        await connection.close()


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_revision_goes_up_down_and_up_again_to_the_same_schema(empty: Address, revision: str) -> None:
    script = ScriptDirectory.from_config(migrate.alembic_config()).get_revision(revision)
    below = script.down_revision or "base"
    assert isinstance(below, str)
    if below == "base":
        await migrate.run_alembic(empty, command.ensure_version)
    else:
        await migrate.upgrade(empty, below)
    before = await describe(empty)
    await migrate.upgrade(empty, revision)
    first = await describe(empty)
    await migrate.downgrade(empty, below)
    assert await describe(empty) == before
    await migrate.upgrade(empty, revision)
    assert catalogue_hash(await describe(empty)) == catalogue_hash(first) != catalogue_hash(before)


async def test_a_downgrade_to_base_leaves_an_empty_schema(server_dsn: str, template: str) -> None:
    async with fresh_address(server_dsn, template) as address:
        await migrate.downgrade(address, "base")
        left = await describe(address)
    of_alembic = {kind: [line for line in lines if "alembic_version" not in line] for kind, lines in left.items()}
    assert {kind: lines for kind, lines in of_alembic.items() if lines} == {
        "grants": ["schema public: usage to PUBLIC"],
    }


async def test_a_downgrade_keeps_the_roles(server_dsn: str, template: str) -> None:
    async with fresh_address(server_dsn, template) as address:
        await migrate.downgrade(address, "base")
        connection = await connect(address)
        try:
            kept = await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'agency\\_%'")
        finally:
            await connection.close()
    assert kept >= 3


def test_the_newest_revision_is_found_without_alembic() -> None:
    assert schema_state.head() == REVISIONS[-1]


async def test_a_database_at_the_head_is_ready_and_one_below_is_not(empty: Address) -> None:
    await migrate.upgrade(empty, REVISIONS[0])
    assert not (await schema_state.state(empty)).is_ready
    await migrate.upgrade(empty)
    assert (await schema_state.state(empty)).is_ready


async def test_upgrades_at_the_same_moment_all_succeed(empty: Address, server_dsn: str, template: str) -> None:
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(migrate.upgrade, empty)
    async with fresh_address(server_dsn, template) as alone:
        assert await describe(empty) == await describe(alone)


UPGRADE = """
import sys, anyio
from storage import migrate, schema_state
from storage.engine import Address

anyio.run(migrate.upgrade, Address(dsn=sys.argv[1], direct_dsn=sys.argv[1], pooled=False))
"""


async def test_upgrades_by_several_processes_all_succeed(empty: Address) -> None:
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(anyio.run_process, [sys.executable, "-c", UPGRADE, empty.dsn])
    assert (await schema_state.state(empty)).is_ready


async def test_an_upgrade_waits_for_its_turn(empty: Address) -> None:
    other, observer = await connect(empty), await connect(empty)
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = $1)"
    database = await observer.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
    try:
        await other.execute(f"SELECT pg_advisory_lock({advisory_lock()})")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(migrate.upgrade, empty)
                while not await observer.fetchval(waiting, database):
                    pass
                assert not await observer.fetchval("SELECT to_regclass('users') IS NOT NULL")
                await other.execute("SELECT pg_advisory_unlock_all()")
        assert (await schema_state.state(empty)).is_ready
    finally:
        await other.close()
        await observer.close()


def advisory_lock() -> str:
    """Return the key that migrations take their turns by."""
    found = re.search(r"pg_advisory_xact_lock\((\d+)\)", migrate.render_sql())
    assert found
    return found.group(1)


def look_inside(config: Config, queries: Mapping[str, str], answers: dict[str, object]) -> None:
    """Answer `queries` where alembic would run the migrations: after env.py has prepared the transaction."""
    script = ScriptDirectory.from_config(config)

    def steps(_: object, context: MigrationContext) -> list[RevisionStep]:
        assert context.connection is not None
        for name, query in queries.items():
            answers[name] = context.connection.execute(text(query)).scalar_one()
        return []

    with EnvironmentContext(config, script, fn=steps):
        script.run_env()


async def test_a_migration_runs_within_time_limits_and_alone(empty: Address) -> None:
    queries = {
        "lock_timeout": "SELECT current_setting('lock_timeout')",
        "statement_timeout": "SELECT current_setting('statement_timeout')",
        "turns": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()",
    }
    answers: dict[str, object] = {}
    await migrate.run_alembic(empty, look_inside, queries, answers)
    assert answers == {"lock_timeout": "5s", "statement_timeout": "5min", "turns": 1}


def test_a_second_upgrade_waits_for_the_first_without_the_limit_for_locks() -> None:
    script = migrate.render_sql()
    assert script.index("SET LOCAL statement_timeout") < script.index("pg_advisory_xact_lock")
    assert script.index("pg_advisory_xact_lock") < script.index("SET LOCAL lock_timeout") < script.index("CREATE TABLE")


async def test_the_script_makes_the_same_schema_as_the_migrations(
    empty: Address, server_dsn: str, template: str
) -> None:
    connection = await connect(empty)
    try:
        await ensure_roles(connection)
        await connection.execute(migrate.render_sql())
    finally:
        await connection.close()
    async with fresh_address(server_dsn, template) as migrated:
        assert await describe(empty) == await describe(migrated)


SQUAWK = [str(Path(sysconfig.get_path("scripts")) / "squawk"), "--config", str(ROOT / ".squawk.toml")]


def test_squawk_finds_nothing_in_the_script(tmp_path: Path) -> None:
    script = tmp_path / "upgrade.sql"
    script.write_text(migrate.render_sql(), "utf-8")
    outcome = subprocess.run(
        [*SQUAWK, "--reporter", "gcc", "--assume-in-transaction", str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (outcome.stdout, outcome.returncode) == ("", 0)


def test_squawk_leaves_out_just_the_two_rules_that_the_document_decides() -> None:
    settings = tomllib.loads((ROOT / ".squawk.toml").read_text("utf-8"))
    assert settings == {
        "assume_in_transaction": True,
        "excluded_rules": ["prefer-text-field", "prefer-bigint-over-int"],
    }


def test_squawk_would_find_an_unsafe_statement(tmp_path: Path) -> None:
    script = tmp_path / "upgrade.sql"
    script.write_text(migrate.render_sql().replace("COMMIT;", "DROP TABLE users;\nCOMMIT;"), "utf-8")
    outcome = subprocess.run([*SQUAWK, str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert outcome.returncode != 0
    assert "ban-drop-table" in outcome.stdout
