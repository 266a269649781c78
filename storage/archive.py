"""PostgreSQL's own archive format: written by pg_dump, and read back by pg_restore.

pg_restore only prints here and never connects. So the restoring transaction is ours, with its verification inside;
no newer program sends an older server a setting that it does not know; and no password leaves this process for it.
Above: `storage.backup`. Below: programs, found like those of the embedded server.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import anyio
import anyio.to_thread

from storage.backup_errors import BackupUnreadableError, DumpProgramFailedError, DumpProgramsNotFoundError
from storage.embedded import BinariesNotFoundError
from storage.embedded.binaries import choose
from storage.engine import clean_dsn

PATIENCE_S = 6 * 3600.0
"""No single dump, statement or copy of a backup takes longer."""

_LOCK_WAIT = "30s"
"""How long pg_dump waits for a migration to let go of a table."""

_LAST_WORDS = 2000
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_COPY = re.compile(rb'COPY "public"\."((?:[^"]|"")+)" \((".*")\) FROM stdin;')
_COLUMN = re.compile(r'"((?:[^"]|"")+)"')
_SETVAL = b"SELECT pg_catalog.setval("
_PREAMBLE = (b"--", b"\\restrict ", b"\\unrestrict ", b"SET ", b"SELECT pg_catalog.set_config(")
_NOT_FOR_US = re.compile(r"^(\\(un)?restrict \w+|SET transaction_timeout = 0;)$", re.MULTILINE)
"""psql's own commands, and a setting that servers know since 17."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpPrograms:
    """One version's pg_dump and pg_restore."""

    pg_dump: Path
    pg_restore: Path
    major: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """A table's rows in COPY's text format; `chunks` hold whole lines and are to be read before the next item."""

    table: str
    columns: tuple[str, ...]
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class SequenceValue:
    """The statement that sets a sequence to where it was."""

    sql: str


async def find_programs(pg_bin: Path | None, *, at_least: int) -> DumpPrograms:
    """Return the first programs that are new enough: `pg_bin` alone if given, else the embedded server's, PATH.

    Raises:
        DumpProgramsNotFoundError: there are none of major version `at_least` or newer.
    """
    found: list[str] = []
    for directory in await anyio.to_thread.run_sync(_directories, pg_bin):
        programs = await _inspect(directory)
        if programs is None:
            found.append(f"nothing that runs in {str(directory)!r}")
        elif programs.major >= at_least:
            return programs
        else:
            found.append(f"{programs.major} in {str(directory)!r}")
    raise DumpProgramsNotFoundError(at_least, found)


def _directories(pg_bin: Path | None) -> list[Path]:
    if pg_bin is not None:
        return [pg_bin]
    directories: list[Path] = []
    with contextlib.suppress(BinariesNotFoundError):
        directories.append(choose(None, major=None).bin_dir)
    if on_path := shutil.which("pg_dump"):
        # Not resolved: Debian's is a wrapper that finds the newest version by its own name.
        directories.append(Path(on_path).parent)
    return directories


async def _inspect(directory: Path) -> DumpPrograms | None:
    pg_dump, pg_restore = (shutil.which(name, path=str(directory)) for name in ("pg_dump", "pg_restore"))
    if pg_dump is None or pg_restore is None:
        return None
    try:
        shown = await anyio.run_process([pg_dump, "--version"], check=False)
    except OSError:
        return None
    match = _VERSION.search(shown.stdout.decode(errors="replace"))
    return match and DumpPrograms(pg_dump=Path(pg_dump), pg_restore=Path(pg_restore), major=int(match[1]))


async def write_archive(programs: DumpPrograms, dsn: str, target: Path, *, snapshot: str) -> None:
    """Dump the schema `public` as the exported snapshot sees it, into a file that this makes or replaces.

    Raises:
        DumpProgramFailedError: pg_dump gave up.
    """
    url, secrets = split_password(clean_dsn(dsn))
    await _run(
        [
            programs.pg_dump,
            "--format=custom",
            "--schema=public",
            "--encoding=UTF8",
            "--quote-all-identifiers",  # no version's reserved words matter, and COPY lines have one form
            "--no-password",
            f"--lock-wait-timeout={_LOCK_WAIT}",
            f"--snapshot={snapshot}",
            f"--file={target}",
            f"--dbname={url}",
        ],
        env=secrets,
    )


def split_password(dsn: str) -> tuple[str, dict[str, str]]:
    """Split a URL into one that everybody may see among the arguments, and the environment that holds its password."""
    parts = urlsplit(dsn)
    who, at, where = parts.netloc.rpartition("@")
    user, _, encoded = who.partition(":")
    query = dict(parse_qsl(parts.query))
    password = query.pop("password", None) or unquote(encoded)
    query.pop("sslpassword", None)  # libpq takes it from nowhere else: a key file for pg_dump must have none
    # Not urlunsplit, which drops the slashes of an empty host; libpq wants them.
    url = f"postgresql://{user}{at}{where}{parts.path}?{urlencode(query)}"
    return url, {"PGPASSWORD": password} if password else {}


async def _run(command: Sequence[str | Path], *, env: Mapping[str, str]) -> bytes:
    program = Path(command[0]).name
    try:
        with anyio.fail_after(PATIENCE_S):
            done = await anyio.run_process([str(part) for part in command], env=_environment(env), check=False)
    except OSError as error:  # a timeout is one
        raise DumpProgramFailedError(program, str(error) or "it took too long") from error
    if done.returncode != 0:
        raise DumpProgramFailedError(program, _end_of(done.stderr))
    return done.stdout


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    inherited = os.environ  # noqa: TID251 -- libpq reads PGPASSFILE, PGSSLROOTCERT, HOME... there, as asyncpg does here
    return {**inherited, "LC_ALL": "C", **extra}


def _end_of(output: bytes) -> str:
    return output[-_LAST_WORDS:].decode(errors="replace").strip()


def _printing(programs: DumpPrograms, path: Path, section: str) -> list[str]:
    # By --schema neither the schema itself is made again nor what extensions brought along.
    fixed = ["--file=-", "--schema=public", "--no-owner", "--no-tablespaces"]
    return [str(programs.pg_restore), *fixed, f"--section={section}", str(path)]


async def read_definitions(programs: DumpPrograms, path: Path, section: Literal["pre-data", "post-data"]) -> str:
    """Return the statements that make the tables, or those that make indexes, keys, policies and grants afterwards.

    Raises:
        DumpProgramFailedError: pg_restore cannot read the file.
    """
    script = await _run(_printing(programs, path, section), env={})
    return _NOT_FOR_US.sub("", script.decode())


@asynccontextmanager
async def open_rows(programs: DumpPrograms, path: Path) -> AsyncGenerator[AsyncIterator[TableRows | SequenceValue]]:
    """Yield what an archive holds of every table and sequence, without ever having all of it in memory.

    Raises:
        DumpProgramFailedError: pg_restore cannot read the file to its end; at the latest when the block is left.
        BackupUnreadableError: the file holds something that is neither.
    """
    with tempfile.TemporaryFile() as complaints, anyio.fail_after(PATIENCE_S):
        command = _printing(programs, path, "data")
        async with await anyio.open_process(
            command, stdin=subprocess.DEVNULL, stderr=complaints, env=_environment({})
        ) as program:
            assert program.stdout is not None  # noqa: S101 -- a pipe, by default
            yield _items(_Lines(program.stdout), path)
            if await program.wait() != 0:
                raise DumpProgramFailedError("pg_restore", _written_to(complaints))


def _written_to(file: IO[bytes]) -> str:
    file.seek(0)
    return _end_of(file.read())


async def count_rows(programs: DumpPrograms, path: Path) -> dict[str, int]:
    """Return table → rows in an archive.

    Raises:
        DumpProgramFailedError, BackupUnreadableError: see `open_rows`.
    """
    counts: dict[str, int] = {}
    async with open_rows(programs, path) as items:
        async for item in items:
            if isinstance(item, TableRows):
                # COPY writes a line break inside of a value as two other characters.
                counts[item.table] = sum([chunk.count(b"\n") async for chunk in item.chunks])
    return counts


async def _items(lines: "_Lines", path: Path) -> AsyncGenerator[TableRows | SequenceValue]:
    while (line := await lines.next()) is not None:
        if match := _COPY.fullmatch(line):
            columns = tuple(_plain(name) for name in _COLUMN.findall(match[2].decode()))
            yield TableRows(table=_plain(match[1].decode()), columns=columns, chunks=lines.until_end_of_copy())
        elif line.startswith(_SETVAL):
            yield SequenceValue(line.decode())
        elif line and not line.startswith(_PREAMBLE):
            raise BackupUnreadableError(path, "it holds more than tables and sequences; restore it with pg_restore")


def _plain(identifier: str) -> str:
    return identifier.replace('""', '"')


class _Lines:
    """A program's output, line by line where it is SQL and in large pieces where it is rows."""

    def __init__(self, output: AsyncIterable[bytes]) -> None:
        self._blocks = _whole_lines(output)
        self._unread = b""

    async def next(self) -> bytes | None:
        """Return a line without its end; None: there are no more."""
        if not await self._fill():
            return None
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    async def until_end_of_copy(self) -> AsyncGenerator[bytes]:
        """Yield whole lines up to the one that ends a COPY, which is consumed."""
        while await self._fill():
            block = b"\n" + self._unread
            end = block.find(b"\n\\.\n")
            if end >= 0:
                self._unread = block[end + 4 :]
                if end:
                    yield block[1 : end + 1]
                return
            self._unread = b""
            yield block[1:]

    async def _fill(self) -> bool:
        if not self._unread:
            self._unread = await anext(self._blocks, b"")
        return bool(self._unread)


async def _whole_lines(output: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Yield what arrives in pieces that end with a line; a row may be longer than any piece that arrives."""
    parts: list[bytes] = []
    async for chunk in output:
        head, newline, rest = chunk.rpartition(b"\n")
        if newline:
            yield b"".join((*parts, head, newline))
            parts = []
        if rest:
            parts.append(rest)
