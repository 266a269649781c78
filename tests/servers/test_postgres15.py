"""The oldest PostgreSQL that we promise to run on, on the machine's own programs."""

import shutil
from collections.abc import Generator
from pathlib import Path

import asyncpg
import pytest

from storage.embedded import EmbeddedServer
from tests.servers.product import settings_for, walk_through
from tests.user import Agency, make_data_dir

PLACES = (
    Path("/usr/lib/postgresql/15/bin"),
    Path("/usr/pgsql-15/bin"),
    Path("/opt/homebrew/opt/postgresql@15/bin"),
    Path("/usr/local/opt/postgresql@15/bin"),
)
"""Where Debian, Red Hat and Homebrew put it."""


@pytest.fixture
def oldest_server() -> Generator[str]:
    """The owner's DSN of an empty database on PostgreSQL 15."""
    programs = next((place for place in PLACES if (place / "initdb").exists()), None)
    if programs is None:
        pytest.skip("there is no PostgreSQL 15 here; on Debian 12: apt-get install postgresql-15")
    home = make_data_dir()
    server = EmbeddedServer(home, pg_bin=programs)
    server.start()
    try:
        yield server.ensure_database()
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


async def test_everything_works_on_the_oldest_server_that_we_promise(
    oldest_server: str, agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(oldest_server)
    try:
        assert connection.get_server_version().major == 15
    finally:
        await connection.close()

    report = await walk_through(agency, settings_for(oldest_server), monkeypatch)

    assert [story["status"] for story in report.messages] == ["processed", "processed"]
    assert report.swarm["tasks"] == {"completed": 4}
    assert report.mcp["card"]["title"] == "Fix the landing page"
