"""The places of one cluster on disk, and how it comes into being."""

import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from storage.embedded.account import Account, run_program, server_account
from storage.embedded.binaries import Binaries
from storage.embedded.endpoint import ADMIN
from storage.embedded.errors import DirectoryUnusableError, ServerFailedError, ServerTimeoutError

PORT = 5432
"""Part of a socket's file name; where there are sockets, nothing listens on it."""

_SOCKET_PATH_LIMIT = 103
"""Bytes in sockaddr_un.sun_path without the final zero, on the system that has the fewest (macOS)."""

_LOCALES = ("C.UTF-8", "en_US.UTF-8", "C")
_BUILTIN_PROVIDER_SINCE = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where a cluster lives, and the account its processes run under (None: ours)."""

    home: Path
    """Ours: holds data directories, locks, logs."""
    major: int
    account: Account | None

    @property
    def data_dir(self) -> Path:
        """Belongs to the account, mode 0700."""
        return self.home / f"postgres-{self.major}"

    @property
    def log(self) -> Path:
        """What the postmaster says; outside of the data directory, where the account could replace it by a link."""
        return self.home / f"postgres-{self.major}.log"

    @property
    def password_file(self) -> Path:
        """Exists where there are no private sockets (Windows)."""
        return self.home / f"postgres-{self.major}.password"

    @property
    def socket_dir(self) -> Path:
        """The data directory, which is private, unless a socket's path would be too long or split by list parsers."""
        path = os.fsencode(self.data_dir / f".s.PGSQL.{PORT}")
        if len(path) <= _SOCKET_PATH_LIMIT and not set(b",\"'") & set(path):
            return self.data_dir
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        # Not tempfile.gettempdir(): every process must come to the same answer, whatever its TMPDIR.
        return Path("/tmp") / f"agency-{digest}"  # noqa: S108 -- made with mode 0700 and checked before each use


def locate(base: Path, system_dir: Path) -> tuple[Path, Account | None]:
    """The home for `base`, and the account of its server.

    That is `base`, except for root where the account cannot reach it, as in /root: then a directory of its own below
    `system_dir`. A cluster that exists stays where it is.
    """
    if server_account(None) is None:
        return base, None
    elsewhere = system_dir / hashlib.sha256(os.fsencode(base)).hexdigest()[:16]
    for home in (base, elsewhere):
        if majors := clusters(home):
            return home, server_account(home / f"postgres-{majors[0]}")
    account = server_account(None)
    return (base if account is None or account.can_reach(base) else elsewhere), account


def clusters(home: Path) -> list[int]:
    """Major versions of the complete clusters in `home`, newest first."""
    names = (re.fullmatch(r"postgres-(\d+)", path.parent.name) for path in home.glob("postgres-*/PG_VERSION"))
    return sorted((int(name[1]) for name in names if name), reverse=True)


def create(cluster: Cluster, binaries: Binaries, *, timeout_s: float) -> None:
    """Make an empty cluster, which appears at its place complete or not at all.

    Raises:
        ServerFailedError: initdb failed.
        ServerTimeoutError: initdb took longer than `timeout_s`.
        DirectoryUnusableError: something else is at its place.
    """
    for abandoned in cluster.home.glob(".initdb-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=".initdb-", dir=cluster.home))
    try:
        if cluster.account:
            shutil.chown(building, cluster.account.uid, cluster.account.gid)
        _initdb(cluster, binaries, building, timeout_s)
        building.rename(cluster.data_dir)
        _make_durable(cluster.home)
    except OSError as error:
        raise DirectoryUnusableError(cluster.data_dir, f"{error.strerror}; move away what is there") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _initdb(cluster: Cluster, binaries: Binaries, target: Path, timeout_s: float) -> None:
    command: list[str | Path] = [binaries.program("initdb"), "-D", target, "-U", ADMIN]
    command += ["--encoding=UTF8", "--data-checksums", "--no-instructions", *_authentication(cluster)]
    if binaries.major >= _BUILTIN_PROVIDER_SINCE:  # a sort order that no update of the system can change
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    output = ""
    for locale in _LOCALES:  # full-text search folds case by the system's LC_CTYPE even with the builtin provider
        try:
            done = run_program(
                [*command, f"--locale={locale}"], account=cluster.account, cwd=target, timeout_s=timeout_s
            )
        except subprocess.TimeoutExpired as error:
            raise ServerTimeoutError("initdb", timeout_s, "see whether the disk is full or very slow") from error
        if done.returncode == 0:
            return
        output = done.stdout[-2000:]
        if "invalid locale" not in output:
            break
    raise ServerFailedError("initdb", output)


def _authentication(cluster: Cluster) -> list[str]:
    if sys.platform != "win32":
        return ["--auth=trust"]  # only the account and root can pass the socket's directory
    cluster.password_file.write_text(secrets.token_urlsafe(32) + "\n")
    return ["--auth=scram-sha-256", f"--pwfile={cluster.password_file}"]


def _make_durable(directory: Path) -> None:
    """Let the names in `directory` survive a power cut."""
    if sys.platform != "win32":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
