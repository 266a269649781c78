"""Errors of backup and restore.

BackupError
├── DumpProgramsNotFoundError   no pg_dump and pg_restore that are new enough
├── DumpProgramFailedError      pg_dump or pg_restore ran and gave up
├── BackupExistsError           a backup would overwrite a file
├── BackupUnreadableError       the file, or what was recorded beside it, is not a backup that this release can restore
├── RowsMissingError            there are not as many rows as were counted in the database that was backed up
├── DatabaseNotEmptyError       a restore would replace rows
└── RestoreFailedError          the database refused; it is as it was before
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from storage.errors import StorageError


class BackupError(StorageError):
    """Base of every error of backup and restore."""


class DumpProgramsNotFoundError(BackupError):
    """No pg_dump and pg_restore that are new enough."""

    def __init__(self, wanted: int, found: Sequence[str]) -> None:
        super().__init__(
            f"no pg_dump and pg_restore of PostgreSQL {wanted} or newer; found: {'; '.join(found) or 'none'}; "
            f"install the client programs of PostgreSQL {wanted}, or point AGENCY_PG_BIN at their directory"
        )
        self.wanted = wanted
        self.found = tuple(found)


class DumpProgramFailedError(BackupError):
    """A program exited with an error; `output` is the end of what it said."""

    def __init__(self, program: str, output: str) -> None:
        super().__init__(f"{program} failed; its last words were:\n{output}")
        self.program = program
        self.output = output


class BackupExistsError(BackupError):
    """A backup would overwrite a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{str(path)!r} exists; choose another name, or replace it with --force")
        self.path = path


class BackupUnreadableError(BackupError):
    """The file is not a backup that this release can restore."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"cannot use {str(path)!r}: {problem}")
        self.path = path
        self.problem = problem


class RowsMissingError(BackupError):
    """Fewer or more rows than were counted: table → (counted, found)."""

    def __init__(self, where: str, expected: Mapping[str, int], found: Mapping[str, int]) -> None:
        self.differences = {
            table: (expected.get(table, 0), found.get(table, 0))
            for table in sorted({*expected, *found})
            if expected.get(table, 0) != found.get(table, 0)
        }
        shown = ", ".join(f"{table} {n} instead of {wanted}" for table, (wanted, n) in self.differences.items())
        super().__init__(f"{where} does not hold the rows that were counted: {shown}; nothing was kept of it")


class DatabaseNotEmptyError(BackupError):
    """A restore would replace rows: table → how many."""

    def __init__(self, where: str, rows: Mapping[str, int]) -> None:
        super().__init__(
            f"{where} holds {sum(rows.values())} rows in {', '.join(sorted(rows))}; "
            "--force replaces everything in its schema public"
        )
        self.rows = dict(rows)


class RestoreFailedError(BackupError):
    """The database refused, and everything was rolled back."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"nothing was restored and {where} is as it was: {reason}")
        self.reason = reason
