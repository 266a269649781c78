"""Roles belong to the cluster: many who start at once make them once, each on a server of this test's own."""

import tempfile
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest

from storage.embedded import EmbeddedServer
from storage.engine import RawConnection, connect
from storage.security import ensure_roles, role_problems
from storage.tenancy import ADMIN, DISPATCH, RUNTIME
from storage.testing import address_of

OLDEST = Path("/usr/lib/postgresql/15/bin")
"""Where Debian keeps the oldest PostgreSQL that we support."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(None, id="bundled"),
        pytest.param(
            OLDEST, id="15", marks=pytest.mark.skipif(not OLDEST.is_dir(), reason="PostgreSQL 15 is not installed")
        ),
    ],
)
def cluster(request: pytest.FixtureRequest) -> Generator[str]:
    """The superuser's DSN of a server without our roles."""
    with tempfile.TemporaryDirectory(prefix="agency-roles-") as name:
        base = Path(name)
        base.chmod(0o711)  # as root the server runs under another account, which must be able to pass
        server = EmbeddedServer(base, pg_bin=request.param)
        yield server.start()
        server.stop()


@pytest.mark.parametrize("login", ["postgres", "maker"])
async def test_many_at_once_make_the_roles_and_may_switch_to_them(cluster: str, login: str) -> None:
    superuser = await connect(address_of(cluster, "postgres"))
    dsn = cluster.replace("//postgres@", f"//{login}@")
    # Two databases: an advisory lock would order the connections of one only.
    logins: list[RawConnection] = []
    try:
        await superuser.execute(f"DROP ROLE IF EXISTS {RUNTIME}, {DISPATCH}, {ADMIN}")
        await superuser.execute("DROP ROLE IF EXISTS maker; CREATE ROLE maker LOGIN CREATEROLE")
        logins += [await connect(address_of(dsn, ("postgres", "template1")[number % 2])) for number in range(8)]
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for connection in logins:
                    tasks.start_soon(ensure_roles, connection)
        for connection in logins:
            assert await role_problems(connection) == []
            await connection.execute(f"SET ROLE {RUNTIME}; SET ROLE {DISPATCH}; SET ROLE {ADMIN}")
    finally:
        for connection in (*logins, superuser):
            await connection.close()
