"""A real PgBouncer in transaction mode in front of the tests' server, as hosters run it."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import anyio
import asyncpg

from tests.user import make_data_dir

INSTALL = "there is no pgbouncer here; on Debian: apt-get install pgbouncer"

SERVER_CONNECTIONS = 2
"""Per database and user; all clients share them, transaction by transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server behind the pooler is, taken from a DSN of ours."""

    user: str
    host: str
    """A name, or the directory of a socket."""
    port: int

    @property
    def owner(self) -> os.stat_result | None:
        """Whose socket it is; None: it is reached by TCP."""
        path = Path(self.host, f".s.PGSQL.{self.port}")
        return path.stat() if path.exists() else None


def server_of(dsn: str) -> Server:
    """Read a DSN with an unquoted or a queried host."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    return Server(
        user=unquote(parts.username or query["user"][0]),
        host=parts.hostname or query["host"][0],
        port=parts.port or int(query.get("port", ["5432"])[0]),
    )


def program() -> str | None:
    """Return where PgBouncer is; Debian keeps it out of an ordinary user's PATH."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")


def _configuration(server: Server, port: int, users: Path, version: tuple[int, ...]) -> str:
    lines = [
        "[databases]",
        f"* = host={server.host} port={server.port}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = trust",
        f"auth_file = {users}",
        "pool_mode = transaction",
        f"default_pool_size = {SERVER_CONNECTIONS}",
        "max_client_conn = 200",
    ]
    if version >= (1, 21):  # this one can follow prepared statements, and hosters run others that cannot
        lines.append("max_prepared_statements = 0")
    return "\n".join([*lines, ""])


@contextmanager
def pooling(dsn: str, found: str) -> Generator[str]:
    """Run PgBouncer, the program `found`, before the server of `dsn`; yield `user@host:port` of the pooler.

    It refuses to run as root, so it then runs as the user whose server it is.
    """
    server = server_of(dsn)
    home = make_data_dir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    shown = subprocess.run([found, "-V"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(number) for number in re.findall(r"\d+", shown)[:2])
    users, settings = home / "users.txt", home / "pgbouncer.ini"
    users.write_text(f'"{server.user}" ""\n')
    settings.write_text(_configuration(server, port, users, version))
    owner = server.owner if os.geteuid() == 0 else None
    with (
        (home / "log").open("w") as log,
        subprocess.Popen(
            [found, "-q", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=owner.st_uid if owner else None,
            group=owner.st_gid if owner else None,
            extra_groups=[] if owner else None,
        ) as process,
    ):
        try:
            anyio.run(_listening, f"postgresql://{server.user}@127.0.0.1:{port}/postgres", process, home / "log")
            yield f"{server.user}@127.0.0.1:{port}"
        finally:
            process.kill()
    shutil.rmtree(home, ignore_errors=True)


async def _listening(dsn: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    with anyio.fail_after(20):
        while True:
            assert process.poll() is None, await anyio.Path(log).read_text()
            try:
                connection = await asyncpg.connect(dsn, ssl=False, statement_cache_size=0)
            except OSError:
                await anyio.sleep(0.02)
            else:
                await connection.close()
                return
