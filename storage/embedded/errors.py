"""Errors of the embedded server.

EmbeddedServerError
├── BinariesNotFoundError       no usable PostgreSQL programs of the wanted major version
├── DirectoryUnusableError      a directory is not ours, not private, or not writable
├── ServerFailedError           initdb or postgres ran and gave up
├── ServerTimeoutError          a lock, a start or a stop took longer than allowed
└── NotStartedError             the call needs a server this object has started
"""

from collections.abc import Sequence
from pathlib import Path

from storage.errors import StorageError


class EmbeddedServerError(StorageError):
    """The embedded server cannot do what was asked."""


class BinariesNotFoundError(EmbeddedServerError):
    """No usable PostgreSQL programs; `wanted` is None when any supported major version would do."""

    def __init__(self, *, wanted: int | None, found: Sequence[str], advice: str) -> None:
        self.wanted = wanted
        self.found = tuple(found)
        version = "" if wanted is None else f" {wanted}"
        seen = "; ".join(found) if found else "none"
        super().__init__(f"no usable PostgreSQL{version} server binaries; found: {seen}; {advice}")


class DirectoryUnusableError(EmbeddedServerError):
    """A directory or a file in it cannot be used safely."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"cannot use {str(path)!r}: {problem}")


class ServerFailedError(EmbeddedServerError):
    """A program of the server exited with an error; `output` is the end of what it said."""

    def __init__(self, program: str, output: str) -> None:
        self.program = program
        self.output = output
        super().__init__(f"{program} failed; its last words were:\n{output}")


class ServerTimeoutError(EmbeddedServerError):
    """Something took longer than allowed."""

    def __init__(self, what: str, timeout_s: float, advice: str) -> None:
        self.timeout_s = timeout_s
        super().__init__(f"{what} took longer than {timeout_s:g} s; {advice}")


class NotStartedError(EmbeddedServerError):
    """The object is not attached to a server."""

    def __init__(self) -> None:
        super().__init__("this object is not attached to a server; call start() first")
