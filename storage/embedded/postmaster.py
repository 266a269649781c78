"""The server process of one cluster: find it, bring it up, shut it down.

Nothing here decides who may use the server or how long it lives; `server` does, and calls this under its mutex.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from storage.embedded.account import Account, open_private, run_program, start_program
from storage.embedded.binaries import Binaries, choose
from storage.embedded.cluster import PORT, Cluster
from storage.embedded.endpoint import Endpoint, State, probe
from storage.embedded.errors import DirectoryUnusableError, EmbeddedServerError, ServerFailedError, ServerTimeoutError

_SETTINGS = ("max_connections=200", "shared_buffers=128MB")
_LOG_LIMIT_BYTES = 4_000_000
_POLL_S = 0.002
_TOOL_TIMEOUT_S = 10.0
_RETRY_S = 0.05
_PASSING = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
"""Why a postmaster may refuse for a moment: children of a killed one live on, or another was quicker."""
_LOOPBACK = "127.0.0.1"


def endpoint_of(cluster: Cluster) -> Endpoint | None:
    """Where the cluster's server listens if it runs; None if only a running server knows (Windows).

    Raises:
        DirectoryUnusableError: the directory of the socket is not private to the account.
    """
    if sys.platform != "win32":
        _check_private(cluster.socket_dir, cluster.account)
        return Endpoint(host=str(cluster.socket_dir), port=PORT)
    with contextlib.suppress(OSError, IndexError, ValueError):
        password = cluster.password_file.read_text().strip()
        return Endpoint(host=_LOOPBACK, port=int(_pid_file(cluster)[3]), password=password)
    return None


def pid_of(cluster: Cluster) -> int | None:
    """The process that the pid file names, alive or not."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(_pid_file(cluster)[0])
    return None


def running_pid(cluster: Cluster) -> int | None:
    """The cluster's living postmaster, in whatever state: not a zombie, not a stranger that has got a stale pid."""
    pid = pid_of(cluster)
    if pid is None:
        return None
    if sys.platform == "win32":
        tasks = ["tasklist.exe", "/FI", f"PID eq {pid}"]
        found = "postgres.exe" in run_program(tasks, account=None, cwd=cluster.home, timeout_s=_TOOL_TIMEOUT_S).stdout
    else:
        found = f" -D {cluster.data_dir} " in f"{_command_line(pid)} "
    return pid if found else None


def _command_line(pid: int) -> str:
    """Arguments joined by spaces; none for a zombie."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
        return ""
    ps = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    return run_program(ps, account=None, cwd=Path("/"), timeout_s=_TOOL_TIMEOUT_S).stdout.strip()


def _pid_file(cluster: Cluster) -> list[str]:
    """https://www.postgresql.org/docs/current/storage-file-layout.html: pid, directory, start, port, ..., status."""
    return (cluster.data_dir / "postmaster.pid").read_text(errors="replace").splitlines()


def bring_up(cluster: Cluster, binaries: Binaries, *, timeout_s: float) -> Endpoint:
    """Wait for the server to serve, launching it whenever there is none. The caller holds the mutex.

    Raises:
        ServerFailedError: postgres gives up.
        ServerTimeoutError: nobody serves after `timeout_s`.
        DirectoryUnusableError: the log or the directory of the socket is not ours.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        endpoint = endpoint_of(cluster)
        if endpoint is not None and probe(endpoint).state is State.READY:
            return endpoint
        if running_pid(cluster) is None:
            _launch(cluster, binaries, deadline)
        elif time.monotonic() > deadline:
            break
        else:  # one that is still starting, or stopping
            time.sleep(_POLL_S)
    raise ServerTimeoutError("waiting for postgres to serve", timeout_s, f"read {str(cluster.log)!r}")


def _launch(cluster: Cluster, binaries: Binaries, deadline: float) -> None:
    """Launch a postmaster; return when it says it is ready, or has exited for a passing reason."""
    log_size = _trim_log(cluster.log)
    process = _spawn(cluster, binaries)
    # Reaped at once, whoever stops or kills it: a zombie would look alive to other processes.
    threading.Thread(target=process.wait, name="postmaster-reaper", daemon=True).start()
    try:
        while process.poll() is None and not _announces_ready(cluster, process.pid):
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL_S)
    except BaseException:  # an interrupted caller does not become a client
        process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)
        raise
    if process.poll() is not None:
        with cluster.log.open("rb") as log:
            log.seek(log_size)
            said = log.read().decode(errors="replace")
        if time.monotonic() > deadline or not any(reason in said for reason in _PASSING):
            raise ServerFailedError("postgres", said[-2000:])
        time.sleep(_RETRY_S)


def _trim_log(log: Path) -> int:
    """Begin a new log when the old one is long; return the size, in bytes, of what is there."""
    with contextlib.suppress(FileNotFoundError):
        size = log.stat().st_size
        if size < _LOG_LIMIT_BYTES:
            return size
        log.replace(log.with_suffix(".log.1"))
    return 0


def _announces_ready(cluster: Cluster, pid: int) -> bool:
    """Whether the pid file says that this process accepts connections: cheaper to ask often than a login."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        lines = _pid_file(cluster)
        return int(lines[0]) == pid and lines[7].strip() == "ready"
    return False


def _spawn(cluster: Cluster, binaries: Binaries) -> "subprocess.Popen[bytes]":
    command: list[str | Path] = [binaries.program("postgres"), "-D", cluster.data_dir, *_listening(cluster)]
    for setting in _SETTINGS:
        command += ["-c", setting]
    log = open_private(cluster.log, os.O_APPEND)
    try:
        return start_program(
            command, account=cluster.account, cwd=cluster.data_dir, log_descriptor=log, extra_env=_stale_pid(cluster)
        )
    finally:
        os.close(log)


def _listening(cluster: Cluster) -> list[str]:
    if sys.platform == "win32":
        with socket.create_server((_LOOPBACK, 0)) as free:
            return ["-h", _LOOPBACK, "-p", str(free.getsockname()[1])]
    directory = cluster.socket_dir
    if directory != cluster.data_dir:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            if cluster.account:
                os.chown(directory, cluster.account.uid, cluster.account.gid, follow_symlinks=False)
        _check_private(directory, cluster.account)
    return ["-h", "", "-k", str(directory), "-p", str(PORT)]


def _stale_pid(cluster: Cluster) -> dict[str, str]:
    """Tell the postmaster not to mistake the process of a stale pid file for a server.

    The pid may live again as another program's, or as a zombie that nobody reaps. The postmaster overlooks it when it
    is told that this is its own grandparent (CreateLockFile in src/backend/utils/init/miscinit.c), which is why pg_ctl,
    who sets the variable to its own parent, is not used. Its check of the shared memory still guards the data.
    """
    pid = pid_of(cluster)
    return {} if pid is None or sys.platform == "win32" else {"PG_GRANDPARENT_PID": str(pid)}


def _check_private(directory: Path, account: Account | None) -> None:
    """In a shared directory anybody could have made the name first, and put a false server there."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(FileNotFoundError):
        state = directory.lstat()
        owner = account.uid if account else os.geteuid()
        if state.st_uid != owner or state.st_mode & 0o170077 != 0o040000:
            raise DirectoryUnusableError(
                directory,
                f"it must be a directory of uid {owner} closed to others (mode 0700); remove it and try again",
            )


def shut_down(cluster: Cluster, pg_bin: Path | None, *, timeout_s: float) -> None:
    """Disconnect everybody and stop the server, if it runs, with all data on disk.

    Raises:
        EmbeddedServerError: it may not be signalled.
        ServerTimeoutError: it still runs after `timeout_s`.
    """
    pid = running_pid(cluster)
    if pid is None:
        return
    _request_fast_shutdown(pid, cluster, pg_bin)
    deadline = time.monotonic() + timeout_s
    while pid_of(cluster) == pid and running_pid(cluster) == pid:
        if time.monotonic() > deadline:
            raise ServerTimeoutError(f"stopping process {pid}", timeout_s, f"read {str(cluster.log)!r}")
        time.sleep(_POLL_S)
    if cluster.socket_dir != cluster.data_dir:
        with contextlib.suppress(OSError):
            cluster.socket_dir.rmdir()


def _request_fast_shutdown(pid: int, cluster: Cluster, pg_bin: Path | None) -> None:
    if sys.platform != "win32" and cluster.account is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        return
    # As the account, not as root: the account can write to the pid file, and must not choose what root signals.
    command: list[str | Path] = ["/bin/sh", "-c", 'kill -INT "$0"', str(pid)]
    if sys.platform == "win32":
        command = [
            choose(pg_bin, major=cluster.major, cluster=cluster.data_dir).program("pg_ctl"),
            "kill",
            "INT",
            str(pid),
        ]
    done = run_program(command, account=cluster.account, cwd=cluster.home, timeout_s=_TOOL_TIMEOUT_S)
    if done.returncode != 0 and running_pid(cluster) == pid:
        raise EmbeddedServerError(
            f"process {pid} of {str(cluster.data_dir)!r} cannot be stopped: {done.stdout.strip()}"
        )
