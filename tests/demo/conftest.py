"""A data directory of the demo's own, shared by the tests of one worker: later runs meet the data of earlier ones."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import pytest

from tests.conftest import memory_or_disk

Agency = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def data_dir() -> Generator[Path]:
    """Where this worker's embedded server lives."""
    home = Path(tempfile.mkdtemp(prefix="agency-demo-", dir=memory_or_disk()))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def environment(data_dir: Path) -> dict[str, str]:
    """The environment of a new user: nothing set but where to put the data."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}  # noqa: TID251 -- handed to a child
    return kept | {"AGENCY_DATA_DIR": str(data_dir), "XDG_CONFIG_HOME": str(data_dir / "config")}


@pytest.fixture
def agency(environment: Mapping[str, str]) -> Agency:
    """Run `agency` with these arguments as its user would."""

    def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "gateway.cli", *arguments],
            env={**environment, **settings},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run
