"""The embedded server, with real processes: started together, killed, starved, and run under another user.

Every test has a directory of its own at a short path: pytest's is closed to the account that root's server runs under,
and too long for a socket.
"""

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from storage.embedded import (
    BinariesNotFoundError,
    DirectoryUnusableError,
    EmbeddedServer,
    EmbeddedServerError,
    NotStartedError,
    ServerFailedError,
    ServerTimeoutError,
    locks,
)
from storage.embedded.binaries import choose

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the faults are made with Linux's process interfaces")

PROGRAM = Path(__file__).with_name("embedded_client.py")
TMP = Path("/tmp")  # noqa: S108 -- mkdtemp's own default, but never at a long path
NOBODY = 65534
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
IS_ROOT = os.geteuid() == 0


def _place() -> Path:
    """In memory if there is room and programs may run there: a disk syncs some hundred files for each cluster."""
    memory = Path("/dev/shm")  # noqa: S108 -- as TMP
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4e9
    return memory if roomy and not os.statvfs(memory).f_flag & os.ST_NOEXEC else TMP


PLACE = _place()


class Client:
    """Another process that uses the server."""

    def __init__(self, base: Path, *, pg_bin: Path | None = None, uid: int | None = None) -> None:
        arguments = [str(base), str(pg_bin or ""), "" if uid is None else str(uid)]
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def tell(self, method: str) -> None:
        """Send a command without waiting for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(method + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """What the method returned."""
        answer = self.outcome()
        assert "returned" in answer, answer
        return answer["returned"]

    def outcome(self) -> dict[str, Any]:
        """What the method returned, or the class and text of what it raised."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, method: str) -> Any:
        """Call a method of the client's server and return what it returns."""
        self.tell(method)
        return self.answer()

    def kill(self) -> None:
        """Kill -9, and wait until the kernel has closed its files."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill it if it lives, and close our ends of its pipes."""
        self.process.kill()
        self.process.communicate()


def remove(base: Path) -> None:
    """Stop whatever a test, perhaps a failed one, has left running; then delete its directory."""
    for pid_file in base.rglob("postmaster.pid"):
        pid = int(pid_file.read_text().split()[0])
        with contextlib.suppress(OSError):
            if str(base) in Path(f"/proc/{pid}/cmdline").read_text():
                end_and_wait(pid, signal.SIGINT)
    shutil.rmtree(base)


def end_and_wait(pid: int, number: signal.Signals) -> None:
    """Signal a process that need not be our child, and wait until it has ended, reaped or not."""
    with os.fdopen(os.pidfd_open(pid)) as process:
        os.kill(pid, number)
        select.select([process], [], [])


@pytest.fixture
def empty() -> Generator[Path]:
    """A base directory without a cluster."""
    base = Path(tempfile.mkdtemp(prefix="agency-", dir=PLACE))
    base.chmod(0o755)
    yield base
    remove(base)


@pytest.fixture(scope="session")
def template() -> Generator[Path]:
    """A base directory whose stopped cluster has a database with one row."""
    base = Path(tempfile.mkdtemp(prefix="agency-", dir=PLACE))
    base.chmod(0o755)
    server = EmbeddedServer(base)
    server.start()
    dsn = server.ensure_database()
    query(dsn, "CREATE TABLE note (body text)")
    query(dsn, "INSERT INTO note VALUES ('kept')")
    server.stop()
    yield base
    remove(base)


@pytest.fixture
def base(template: Path) -> Generator[Path]:
    """A copy of the template, which takes a tenth of the time of initdb."""
    copy = Path(tempfile.mkdtemp(prefix="agency-", dir=PLACE))
    subprocess.run(["cp", "-a", f"{template}/.", str(copy)], check=True)
    yield copy
    remove(copy)


@pytest.fixture
def client_of() -> Generator[Callable[..., Client]]:
    """Start client processes; those that are left are killed after the base directory's server is stopped."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> Client:
            client = Client(*arguments, **options)
            stack.callback(client.close)
            return client

        yield start


def query(dsn: str, sql: str) -> list[Any]:
    """First column of every row."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(dsn)
        try:
            return [row[0] for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return anyio.run(run)


def pid_of(server: EmbeddedServer) -> int:
    pid = server.status().pid
    assert pid is not None
    return pid


def process_state(pid: int) -> str:
    """As in "R", "S", "T", "Z"."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def with_initdb(directory: Path, script: str) -> Path:
    """A bin directory with the real programs, except that initdb is a shell script; `$REAL` is the real one."""
    real = choose(None, major=None).bin_dir
    bin_dir = directory / "bin"
    bin_dir.mkdir()
    for program in real.iterdir():
        (bin_dir / program.name).symlink_to(program)
    (bin_dir / "initdb").unlink()
    (bin_dir / "initdb").write_text(f"#!/bin/sh\nREAL={real}/initdb\n{script}\n")
    (bin_dir / "initdb").chmod(0o755)
    return bin_dir


# Life and death -------------------------------------------------------------------------------------------------------


def test_a_first_start_makes_a_cluster_that_psql_and_asyncpg_can_use(empty: Path) -> None:
    server = EmbeddedServer(empty / "deep" / "base with blank")

    dsn = server.start()

    settings = ("server_encoding", "data_checksums", "fsync", "listen_addresses", "max_connections", "timezone")
    assert [query(dsn, f"SHOW {name}")[0] for name in settings] == ["UTF8", "on", "on", "", "200", "UTC"]
    psql = choose(None, major=None).program("psql")
    shown = subprocess.check_output([psql, "-XAtc", "SELECT 'reached'", dsn], env={"PGPORT": "1"}, text=True)
    assert shown == "reached\n"
    status = server.status()
    assert status.running
    assert status.data_dir is not None
    assert status.version is not None
    assert status.data_dir.name == f"postgres-{status.version.split('.')[0]}"
    assert stat.S_IMODE(status.data_dir.stat().st_mode) == 0o700
    assert server.stop()


def test_a_second_client_attaches_and_the_last_one_out_stops_the_server(
    base: Path, client_of: Callable[..., Client]
) -> None:
    ours, other = EmbeddedServer(base), client_of(base)

    assert ours.start() == other.ask("start")

    assert not ours.stop()
    assert ours.status().running
    assert other.ask("stop")
    assert not ours.status().running


def test_two_objects_in_one_process_are_two_clients(base: Path) -> None:
    first, second = EmbeddedServer(base), EmbeddedServer(base)
    first.start()
    second.start()

    assert not first.stop()
    assert second.stop()


def test_starting_one_object_from_many_threads_makes_one_client(base: Path) -> None:
    server = EmbeddedServer(base)

    with ThreadPoolExecutor(4) as threads:
        starts = [threads.submit(server.start) for _ in range(4)]

    assert len({start.result() for start in starts}) == 1
    assert server.stop()
    assert not server.stop()


def test_four_concurrent_first_starts_run_initdb_once(empty: Path, client_of: Callable[..., Client]) -> None:
    calls = empty / "calls"
    calls.mkdir()
    calls.chmod(0o777)
    pg_bin = with_initdb(empty, f'mktemp {calls}/XXXXXX >/dev/null; exec $REAL "$@"')
    clients = [client_of(empty / "base", pg_bin=pg_bin) for _ in range(4)]

    for client in clients:
        client.tell("start")
    dsns = {client.answer() for client in clients}

    assert len(dsns) == 1
    assert len(list(calls.iterdir())) == 1
    assert [client.ask("stop") for client in clients] == [False, False, False, True]


def test_a_client_killed_leaks_nothing(base: Path, client_of: Callable[..., Client]) -> None:
    killed, server = client_of(base), EmbeddedServer(base)
    killed.ask("start")
    dsn = server.start()
    pid = pid_of(server)

    killed.kill()

    assert query(dsn, "SELECT 1") == [1]
    assert pid_of(server) == pid
    assert server.stop()
    assert not server.status().running


def test_when_every_client_is_killed_the_server_waits_for_the_next_one(
    base: Path, client_of: Callable[..., Client]
) -> None:
    killed, server = client_of(base), EmbeddedServer(base)
    killed.ask("start")
    pid = pid_of(server)

    killed.kill()
    server.start()

    assert pid_of(server) == pid
    assert server.stop()
    assert not server.status().running


def test_ctrl_c_in_the_starters_terminal_does_not_reach_the_server(
    base: Path, client_of: Callable[..., Client]
) -> None:
    starter, server = client_of(base), EmbeddedServer(base)
    starter.ask("start")
    server.start()
    pid = pid_of(server)

    os.killpg(starter.process.pid, signal.SIGINT)
    starter.process.wait()

    assert os.getsid(pid) == pid
    assert pid_of(server) == pid


# Holding --------------------------------------------------------------------------------------------------------------


def test_a_held_server_outlives_its_clients_until_it_is_released(base: Path, client_of: Callable[..., Client]) -> None:
    up, server = client_of(base), EmbeddedServer(base)
    up.ask("hold")
    assert up.ask("stop") is False
    server.start()

    assert not server.stop()
    assert server.status().held
    assert server.status().running
    assert EmbeddedServer(base).release()
    assert not server.status().running
    assert not server.status().held


def test_release_leaves_the_server_to_the_clients_it_still_has(base: Path) -> None:
    server = EmbeddedServer(base)
    server.hold()

    assert not EmbeddedServer(base).release()
    assert server.status().running
    assert server.stop()


def test_releasing_and_stopping_what_never_ran_is_no_error(empty: Path) -> None:
    server = EmbeddedServer(empty / "base")

    assert not server.stop()
    assert not server.release()
    assert not server.status().running


# Crashes --------------------------------------------------------------------------------------------------------------


def test_a_killed_postmaster_is_recovered_with_its_rows(base: Path) -> None:
    server = EmbeddedServer(base)
    server.start()
    dsn = server.ensure_database()
    query(dsn, "INSERT INTO note VALUES ('committed')")
    pid = pid_of(server)

    end_and_wait(pid, signal.SIGKILL)
    assert not server.status().running
    server.start()

    assert pid_of(server) != pid
    assert query(dsn, "SELECT body FROM note ORDER BY body") == ["committed", "kept"]
    assert server.stop()


def test_a_start_waits_for_the_backends_of_a_killed_postmaster(base: Path) -> None:
    server = EmbeddedServer(base)
    dsn = server.start()
    pid = pid_of(server)
    backend = next(iter(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    os.kill(int(backend), signal.SIGSTOP)
    end_and_wait(pid, signal.SIGKILL)
    refused = threading.Event()
    log = next(base.glob("postgres-*.log"))

    def free_the_backend_once_a_start_was_refused() -> None:
        while "pre-existing shared memory block" not in log.read_text():
            refused.wait(0.01)
        os.kill(int(backend), signal.SIGCONT)

    freeing = threading.Thread(target=free_the_backend_once_a_start_was_refused)
    freeing.start()
    server.start()
    freeing.join()

    assert query(dsn, "SELECT 1") == [1]
    assert server.stop()


def test_a_stale_pid_that_belongs_to_another_program_does_not_block_a_start(base: Path) -> None:
    server = EmbeddedServer(base)
    server.start()
    end_and_wait(pid_of(server), signal.SIGKILL)
    pid_file = next(base.glob("postgres-*/postmaster.pid"))
    owner = pid_file.stat().st_uid
    stranger = subprocess.Popen(["sleep", "600"], user=owner if IS_ROOT else None)
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")

    try:
        server.start()
        assert pid_of(server) != stranger.pid
        assert server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_postmaster_that_is_a_zombie_does_not_block_a_start(base: Path, client_of: Callable[..., Client]) -> None:
    starter, server = client_of(base), EmbeddedServer(base)
    starter.ask("start")
    pid = pid_of(server)
    os.kill(starter.process.pid, signal.SIGSTOP)
    end_and_wait(pid, signal.SIGKILL)
    assert process_state(pid) == "Z"

    server.start()

    assert pid_of(server) != pid
    assert not server.stop()


def test_a_starter_killed_in_the_middle_of_initdb_is_repaired_by_the_next_start(
    empty: Path, client_of: Callable[..., Client]
) -> None:
    pipe = empty / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o666)
    pg_bin = with_initdb(empty, f'$REAL "$@" && rm "$2/global/pg_control"; echo $$ >{pipe}; exec sleep 600')
    base = empty / "base"
    killed = client_of(base, pg_bin=pg_bin)
    killed.tell("start")
    initdb = int(pipe.read_text())

    killed.kill()
    assert list(base.glob(".initdb-*"))
    server = EmbeddedServer(base)
    dsn = server.start()
    end_and_wait(initdb, signal.SIGKILL)

    assert query(dsn, "SELECT 1") == [1]
    assert not list(base.glob(".initdb-*"))
    assert server.stop()


def test_a_starter_killed_while_postgres_starts_does_not_disturb_the_next_start(
    base: Path, client_of: Callable[..., Client]
) -> None:
    killed, server = client_of(base), EmbeddedServer(base)
    killed.tell("start")
    data_dir = next(base.glob("postgres-*/"))
    while not (data_dir / "postmaster.pid").exists():
        assert killed.process.poll() is None

    killed.kill()
    dsn = server.start()

    assert query(dsn, "SELECT 1") == [1]
    assert server.stop()


# Failures that are told -----------------------------------------------------------------------------------------------


def test_a_postgres_that_gives_up_is_quoted_and_leaves_no_client(base: Path) -> None:
    config = next(base.glob("postgres-*/postgresql.conf"))
    good = config.read_text()
    config.write_text(good + "no_such_setting = 1\n")
    server = EmbeddedServer(base)

    with pytest.raises(ServerFailedError) as failure:
        server.start()
    config.write_text(good)
    other = EmbeddedServer(base)
    other.start()

    assert "no_such_setting" in failure.value.output
    assert other.stop()


def test_an_initdb_that_fails_is_quoted_and_leaves_nothing(empty: Path) -> None:
    pg_bin = with_initdb(empty, "echo the disk is full; exit 1")
    base = empty / "base"

    with pytest.raises(ServerFailedError) as failure:
        EmbeddedServer(base, pg_bin=pg_bin).start()

    assert "the disk is full" in failure.value.output
    assert sorted(path.name for path in base.iterdir()) == ["clients", "mutex"]


def test_waiting_for_another_process_ends(base: Path) -> None:
    with locks.exclusive(base / "mutex", timeout_s=1), pytest.raises(ServerTimeoutError):
        EmbeddedServer(base, timeout_s=0.01).start()


def test_a_server_that_does_not_answer_is_not_waited_for_forever(base: Path) -> None:
    server, other = EmbeddedServer(base), EmbeddedServer(base, timeout_s=0.01)
    server.start()
    pid = pid_of(server)
    socket_file = next(base.glob("postgres-*/.s.PGSQL.*[0-9]"))
    socket_file.rename(socket_file.with_name("hidden"))

    with pytest.raises(ServerTimeoutError):
        other.start()

    socket_file.with_name("hidden").rename(socket_file)
    assert pid_of(server) == pid
    assert server.stop()


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
def test_a_directory_of_somebody_else_is_refused(empty: Path, client_of: Callable[..., Client]) -> None:
    stranger = client_of(empty / "base", uid=NOBODY)

    stranger.tell("start")

    assert stranger.outcome()["raised"][0] == "DirectoryUnusableError"


def test_a_link_in_the_place_of_a_lock_is_not_followed(empty: Path) -> None:
    (empty / "elsewhere").touch()
    (empty / "mutex").symlink_to(empty / "elsewhere")

    with pytest.raises(DirectoryUnusableError) as refusal:
        EmbeddedServer(empty).start()

    assert refusal.value.path == empty / "mutex"
    (empty / "mutex").unlink()


def test_a_long_log_is_put_aside(base: Path) -> None:
    log = next(base.glob("postgres-*.log"))
    os.truncate(log, 5_000_000)
    server = EmbeddedServer(base)

    server.start()

    assert log.with_suffix(".log.1").stat().st_size == 5_000_000
    assert "ready to accept connections" in log.read_text()
    assert server.stop()


# Places ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def long_base(template: Path) -> Generator[Path]:
    """A copy of the template whose path is too long for a socket."""
    top = Path(tempfile.mkdtemp(prefix="agency-", dir=PLACE))
    top.chmod(0o755)
    copy = top / ("long" * 25)
    subprocess.run(["cp", "-a", str(template), str(copy)], check=True)
    yield copy
    remove(top)


def short_socket_dir(base: Path) -> Path:
    data_dir = next(base.glob("postgres-*/"))
    return TMP / f"agency-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"


def test_a_path_too_long_for_a_socket_gets_a_private_short_one(long_base: Path) -> None:
    server = EmbeddedServer(long_base)

    dsn = server.start()

    socket_dir = short_socket_dir(long_base)
    assert query(dsn, "SHOW unix_socket_directories") == [str(socket_dir)]
    assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
    assert server.stop()
    assert not socket_dir.exists()


def test_a_socket_directory_that_others_could_use_is_refused(long_base: Path) -> None:
    socket_dir = short_socket_dir(long_base)
    socket_dir.mkdir()
    socket_dir.chmod(0o777)

    try:
        with pytest.raises(DirectoryUnusableError) as refusal:
            EmbeddedServer(long_base).start()
        assert refusal.value.path == socket_dir
    finally:
        socket_dir.rmdir()


@pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as somebody else")
def test_root_runs_the_server_as_an_unprivileged_user(base: Path) -> None:
    server = EmbeddedServer(base)
    server.start()

    assert Path(f"/proc/{pid_of(server)}").stat().st_uid != 0
    assert next(base.glob("postgres-*.log")).stat().st_uid == 0
    assert server.stop()


@pytest.mark.skipif(not IS_ROOT, reason="only root has directories that its server cannot reach")
def test_root_keeps_its_closed_directories_closed(empty: Path) -> None:
    closed, package = empty / "closed", choose(None, major=None).bin_dir.parent.parent
    closed.mkdir(mode=0o700)
    for part in (package, package.with_suffix(".libs")):
        shutil.copytree(part, closed / part.name, symlinks=True)
    pg_bin = closed / package.name / "pginstall" / "bin"
    server = EmbeddedServer(closed / "base", pg_bin=pg_bin, system_dir=empty / "system")

    dsn = server.start()

    data_dir = server.status().data_dir
    assert data_dir is not None
    assert data_dir.is_relative_to(empty / "system")
    assert query(dsn, "SELECT 1") == [1]
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert server.stop()
    closed.chmod(0o755)
    again = EmbeddedServer(closed / "base", system_dir=empty / "system")
    again.start()
    assert again.status().data_dir == data_dir
    assert again.stop()


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user; elsewhere every test runs unprivileged")
def test_an_ordinary_user_needs_no_help_of_root(empty: Path, client_of: Callable[..., Client]) -> None:
    base = empty / "base"
    base.mkdir(mode=0o700)
    os.chown(base, NOBODY, NOBODY)
    first, second = client_of(base, uid=NOBODY), client_of(base, uid=NOBODY)

    first.ask("start")
    dsn = second.ask("start")
    assert second.ask("ensure_database") != dsn

    assert next(base.glob("postgres-*/")).stat().st_uid == NOBODY
    assert first.ask("stop") is False
    assert second.ask("stop") is True


@pytest.mark.skipif(not IS_ROOT, reason="only root can visit the server of another user")
def test_root_visits_a_users_server_without_taking_it_over(empty: Path, client_of: Callable[..., Client]) -> None:
    base = empty / "base"
    base.mkdir(mode=0o700)
    os.chown(base, NOBODY, NOBODY)
    user = client_of(base, uid=NOBODY)
    user.ask("start")
    assert user.ask("stop") is True
    for lock in ("mutex", "clients"):
        (base / lock).unlink()

    root = EmbeddedServer(base)
    root.start()
    assert Path(f"/proc/{pid_of(root)}").stat().st_uid == NOBODY
    assert root.stop()

    user.ask("start")
    assert user.ask("stop") is True


# Versions -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DEBIAN_15.is_dir(), reason="no PostgreSQL 15 of the machine's own")
def test_a_cluster_stays_with_the_version_that_made_it(empty: Path) -> None:
    older = EmbeddedServer(empty, pg_bin=DEBIAN_15)
    older.start()
    dsn = older.ensure_database()
    assert query(dsn, "SHOW server_version_num")[0].startswith("15")
    assert query(dsn, "SHOW data_checksums") == ["on"]
    older.stop()
    wheel = choose(None, major=None)

    found = EmbeddedServer(empty)
    found.start()
    assert str(found.status().version).startswith("15.")
    found.stop()
    with pytest.raises(BinariesNotFoundError) as refusal:
        EmbeddedServer(empty, pg_bin=wheel.bin_dir).start()

    assert refusal.value.wanted == 15
    assert refusal.value.found == (str(wheel),)


def test_a_bin_directory_without_postgres_is_named(empty: Path) -> None:
    with pytest.raises(BinariesNotFoundError) as refusal:
        EmbeddedServer(empty, pg_bin=empty).start()

    assert refusal.value.wanted is None
    assert str(empty) in refusal.value.found[0]


# The database ---------------------------------------------------------------------------------------------------------


def test_the_products_role_owns_its_database_and_is_no_superuser(base: Path) -> None:
    server = EmbeddedServer(base)
    server.start()

    dsn = server.ensure_database("Größe %?", "own'er")

    may = query(dsn, "SELECT ARRAY[rolsuper, rolcreaterole, rolcreatedb] FROM pg_roles WHERE rolname = current_user")
    assert may == [[False, True, True]]
    assert query(dsn, "SELECT datdba::regrole = current_user::regrole FROM pg_database WHERE datname = 'Größe %?'")[0]
    assert server.ensure_database("Größe %?", "own'er") == dsn
    assert server.stop()


def test_a_database_begins_with_the_extensions_only_a_superuser_can_make(base: Path) -> None:
    server = EmbeddedServer(base)
    server.start()
    dsn = server.ensure_database()

    query(dsn, "CREATE DATABASE another")
    query(dsn, "CREATE EXTENSION pg_trgm")

    for database in (dsn, dsn.replace("/agency?", "/another?")):
        assert query(database, "SELECT extname FROM pg_extension WHERE extname = 'vector'") == query(
            database, "SELECT name FROM pg_available_extensions WHERE name = 'vector'"
        )
    assert server.stop()


def test_full_text_search_folds_the_case_of_letters_beyond_ascii(base: Path) -> None:
    server = EmbeddedServer(base)
    server.start()

    assert query(server.ensure_database(), "SELECT to_tsvector('simple', 'ÜBUNG — Übung')::text") == ["'übung':1,2"]
    assert server.stop()


def test_processes_may_make_the_database_at_the_same_time(base: Path, client_of: Callable[..., Client]) -> None:
    server = EmbeddedServer(base)
    dsn = server.start()
    query(dsn, "DROP DATABASE agency")
    query(dsn, "DROP ROLE agency")
    clients = [client_of(base) for _ in range(3)]
    for client in clients:
        client.ask("start")

    for client in clients:
        client.tell("ensure_database")

    assert len({client.answer() for client in clients}) == 1


async def test_the_database_can_be_made_from_a_thread_that_runs_an_event_loop(base: Path) -> None:
    server = EmbeddedServer(base)
    server.start()

    connection = await asyncpg.connect(server.ensure_database("second"))

    assert await connection.fetchval("SELECT current_user") == "agency"
    await connection.close()
    assert server.stop()


def test_a_database_needs_a_started_server(base: Path) -> None:
    with pytest.raises(NotStartedError):
        EmbeddedServer(base).ensure_database()


def test_a_database_of_a_dead_server_is_refused_until_the_next_start(base: Path) -> None:
    server = EmbeddedServer(base)
    server.start()
    end_and_wait(pid_of(server), signal.SIGKILL)

    with pytest.raises(EmbeddedServerError):
        server.ensure_database()

    server.start()
    assert query(server.ensure_database(), "SELECT body FROM note") == ["kept"]
    assert server.stop()
