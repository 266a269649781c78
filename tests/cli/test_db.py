"""`agency db`: the embedded server from nothing to stopped, in a data directory of this test's own."""

import json
import shutil
from collections.abc import Generator
from pathlib import Path

import anyio
import asyncpg
import pytest

from storage.embedded import EmbeddedServer
from tests.user import Agency, Ran, assert_one_line, make_data_dir


@pytest.fixture
def fresh() -> Generator[Path]:
    home = make_data_dir()
    yield home
    EmbeddedServer(home).release()
    shutil.rmtree(home, ignore_errors=True)


async def test_the_embedded_server_is_made_kept_and_stopped(agency: Agency, fresh: Path) -> None:
    def db(*arguments: str) -> Ran:
        return agency("db", *arguments, AGENCY_DATA_DIR=str(fresh))

    server = EmbeddedServer(fresh)

    found = db("status", "--json")
    assert found.returncode == 0, found.stderr
    status = json.loads(found.stdout)
    assert status.keys() == {"address", "embedded", "revision", "head", "ready", "problems"}
    assert (status["embedded"], status["revision"], status["ready"]) == (True, None, False)
    assert_one_line(db("check"), code=1, complaint="run 'agency db upgrade'")

    upgraded = db("upgrade")
    assert (upgraded.returncode, upgraded.stdout) == (0, ""), upgraded.stderr
    assert upgraded.stderr == f"the embedded server is at revision {status['head']}\n"
    assert not server.status().running

    up = db("up")
    assert (up.returncode, up.stdout) == (0, ""), up.stderr
    assert server.status().running
    checked = db("check")
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr

    told = db("url")
    assert (told.returncode, told.stderr) == (0, "")
    await assert_address(told.stdout.strip())

    down = db("down")
    assert (down.returncode, down.stdout, down.stderr) == (0, "", "the embedded server is stopped\n")
    assert not server.status().running
    again = db("down")
    assert (again.returncode, again.stderr) == (0, "the embedded server was not running\n")


async def assert_address(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename = 'agencyTasks'") == 1
    await connection.close()
    if psql := shutil.which("psql"):
        ran = await anyio.run_process([psql, dsn, "-Atc", 'SELECT count(*) FROM "alembic_version"'])
        assert ran.stdout == b"1\n"


def test_a_server_of_somebody_else_is_not_ours_to_start_or_stop(agency: Agency) -> None:
    elsewhere = "postgresql://nobody@127.0.0.1:1/nothing"
    assert_one_line(agency("db", "up", DATABASE_URL=elsewhere), code=1, complaint="DATABASE_URL is set")
