"""The unprivileged account a server runs under when the program itself runs as root.

PostgreSQL refuses to run as root. No account is created and no directory is opened up for it: what the account cannot
reach is placed or copied elsewhere by the modules above.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.embedded.errors import DirectoryUnusableError, EmbeddedServerError

if sys.platform != "win32":
    import pwd

_PREFERRED = ("postgres", "_postgres", "nobody")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user and its primary group; supplementary groups are dropped."""

    name: str
    uid: int
    gid: int

    def can_reach(self, path: Path) -> bool:
        """Whether the mode bits of `path` and of every directory above it let the account in.

        The nearest existing ancestor stands for what does not exist yet. Access control lists are not read.
        """
        while not path.exists() and path != path.parent:
            path = path.parent
        return all(self._may_execute(step) for step in (path, *path.parents))

    def _may_execute(self, path: Path) -> bool:
        state = path.stat()
        if state.st_uid == self.uid:
            return bool(state.st_mode & 0o100)
        if state.st_gid == self.gid:
            return bool(state.st_mode & 0o010)
        return bool(state.st_mode & 0o001)


if sys.platform == "win32":

    def server_account(owned: Path | None) -> Account | None:  # noqa: ARG001 -- the signature is that of the other systems
        """None: processes run as ourselves."""
        return None

else:

    def server_account(owned: Path | None) -> Account | None:
        """The account for a server's processes: the owner of `owned` if that is not root, else a fitting system user.

        None means "as ourselves": this process is not root.
        """
        if os.geteuid() != 0:
            return None
        if owned is not None and (owner := owned.stat().st_uid) != 0:
            return _account(pwd.getpwuid(owner))
        for name in _PREFERRED:
            with contextlib.suppress(KeyError):
                return _account(pwd.getpwnam(name))
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root and none of the users {', '.join(_PREFERRED)} exists; "
            "create one, or run the program as an ordinary user"
        )

    def _account(entry: pwd.struct_passwd) -> Account:
        return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def make_directory(path: Path, account: Account | None) -> None:
    """Make the directory and its missing parents: private, or passable for `account` whatever our umask.

    Raises:
        DirectoryUnusableError: it cannot be made, or we cannot write to it.
    """
    try:
        for missing in reversed([step for step in (path, *path.parents) if not step.exists()]):
            missing.mkdir(exist_ok=True)
            missing.chmod(0o755 if account else 0o700)
    except OSError as error:
        raise DirectoryUnusableError(path, f"{error.strerror}; choose another data directory") from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise DirectoryUnusableError(path, "it belongs to another user; choose another data directory")


def open_private(path: Path, flags: int = 0) -> int:
    """Open a file for reading and writing, made with mode 0600 if missing, and return its descriptor.

    Made by root, it goes to the owner of its directory, who could not open it otherwise.

    Raises:
        DirectoryUnusableError: it cannot be opened.
    """
    # O_NOFOLLOW: root may work in a directory that somebody else can write to.
    flags |= os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    try:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(path, flags)
        if sys.platform != "win32" and os.geteuid() == 0:
            directory = path.parent.stat()
            os.fchown(descriptor, directory.st_uid, directory.st_gid)
    except OSError as error:
        raise DirectoryUnusableError(path, f"{error.strerror}; it must belong to the user of this program") from error
    return descriptor


def start_program(
    command: Sequence[str | Path],
    *,
    account: Account | None,
    cwd: Path,
    log_descriptor: int,
    extra_env: Mapping[str, str],
) -> "subprocess.Popen[bytes]":
    """Start a program as `account` in a session of its own, so that Ctrl-C in our terminal does not reach it."""
    return subprocess.Popen(  # noqa: S603 -- programs of the chosen PostgreSQL, arguments of ours, no shell
        [str(part) for part in command],
        cwd=cwd,
        env={**_environment(), **extra_env},
        stdin=subprocess.DEVNULL,
        stdout=log_descriptor,
        stderr=log_descriptor,
        start_new_session=True,
        creationflags=_creation_flags(),
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def run_program(
    command: Sequence[str | Path], *, account: Account | None, cwd: Path, timeout_s: float
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end as `account`; its output and errors come back together in `stdout`.

    Raises:
        OSError: it cannot be executed.
        subprocess.TimeoutExpired: it was killed after `timeout_s`.
    """
    return subprocess.run(  # noqa: S603 -- as in start_program
        [str(part) for part in command],
        cwd=cwd,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        check=False,
        start_new_session=True,
        creationflags=_creation_flags(),
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def _environment() -> dict[str, str]:
    """A fixed environment: PGDATA, PGPORT, a locale or a preloaded library of the caller must not change the server."""
    fixed = {"LC_ALL": "C", "TZ": "UTC"}
    if sys.platform == "win32":
        return {**os.environ, **fixed}  # noqa: TID251 -- no program of Windows runs without SYSTEMROOT
    return {**fixed, "PATH": os.defpath}


def _creation_flags() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    return 0
