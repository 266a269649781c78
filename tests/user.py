"""`agency` as its user runs it: as a process, with a data directory of its own and nothing else set.

A plugin of tests/conftest.py. One data directory per worker of a test run: later commands meet the data of earlier
ones.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from storage.embedded import EmbeddedServer
from tests.conftest import memory_or_disk

Ran = subprocess.CompletedProcess[str]
Agency = Callable[..., Ran]
Started = Callable[..., AbstractContextManager["Running"]]

PATIENCE_S = 100
"""Longest that one command may take on a busy machine; the limit of a whole test is pytest-timeout's."""


def make_data_dir() -> Path:
    """Return a new directory that root's embedded server may live in too: its account must be able to enter."""
    home = Path(tempfile.mkdtemp(prefix="agency-user-", dir=memory_or_disk()))
    home.chmod(0o755)
    return home


def environment_of(data_dir: Path) -> dict[str, str]:
    """Return the environment of a new user: nothing set but where to put the data, and no settings file."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}  # noqa: TID251 -- handed to a child
    return kept | {"AGENCY_DATA_DIR": str(data_dir), "XDG_CONFIG_HOME": str(data_dir / "config")}


@pytest.fixture(scope="session")
def data_dir() -> Generator[Path]:
    """Where this worker's embedded server lives."""
    home = make_data_dir()
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def environment(data_dir: Path) -> dict[str, str]:
    """The environment of a new user whose data is in `data_dir`."""
    return environment_of(data_dir)


@pytest.fixture(scope="session")
def kept_running(data_dir: Path) -> Generator[None]:
    """Be a client of the embedded server, which saves each command a start and a stop."""
    server = EmbeddedServer(data_dir)
    server.start()
    yield
    server.stop()


@pytest.fixture
def agency(environment: Mapping[str, str]) -> Agency:
    """Run `agency` with these arguments to its end; keywords are settings."""

    def run(*arguments: str, **settings: str) -> Ran:
        return subprocess.run(
            [sys.executable, "-m", "gateway.cli", *arguments],
            env={**environment, **settings},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


class Running:
    """An `agency` that goes on until it is stopped."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert process.stderr is not None
        self._stderr = process.stderr

    def wait_for(self, words: str) -> str:
        """Return the next line of stderr with these words in it."""
        seen: list[str] = []
        for line in self._stderr:
            seen.append(line)
            if words in line:
                return line
        raise AssertionError(f"ended without {words!r}: {''.join(seen)}")

    def insist(self) -> Ran:
        """Ask it to stop, and once more when it is still there a moment later; return how it ended."""
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.5)
        return self.stop()

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> Ran:
        """Ask it to stop, as a service manager does, and return how it ended and what it had still said."""
        self._process.send_signal(with_signal)
        stdout, stderr = self._process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(self._process.args, self._process.returncode, stdout, stderr)


@pytest.fixture
def started(environment: Mapping[str, str]) -> Started:
    """Start `agency` with these arguments; it is killed at the end of the block unless it was stopped."""

    @contextmanager
    def start(*arguments: str, **settings: str) -> Generator[Running]:
        with subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", *arguments],
            env={**environment, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Running(process)
            finally:
                process.kill()

    return start


def assert_one_line(ran: Ran, *, code: int, complaint: str) -> None:
    """Check that a command refused with this exit code and one line that contains `complaint`, and printed no data."""
    assert ran.returncode == code, ran.stderr
    assert ran.stdout == ""
    lines = [line for line in ran.stderr.splitlines() if line.startswith("agency: ")]
    assert len(lines) == 1, ran.stderr
    assert complaint in lines[0]
    assert "Traceback" not in ran.stderr
