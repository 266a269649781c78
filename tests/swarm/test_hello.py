"""The example of the documentation runs as it is written: no settings, no key, no database of one's own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

HELLO = Path(__file__).parents[2] / "examples" / "hello_swarm.py"


@pytest.fixture
def data_dir() -> Generator[Path]:
    """A short path: pytest's own is too long for a socket, and closed to the account that root's server runs under."""
    made = Path(tempfile.mkdtemp(prefix="agency-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_the_hello_example_runs_as_written(data_dir: Path) -> None:
    inherited = os.environ  # noqa: TID251 -- the program gets what this process has, without its settings
    ours = ("AGENCY_", "DATABASE_", "ANTHROPIC_")
    kept = {name: value for name, value in inherited.items() if not name.startswith(ours)}
    environment = {**kept, "AGENCY_DATA_DIR": str(data_dir), "XDG_CONFIG_HOME": str(data_dir)}
    done = subprocess.run(
        [sys.executable, str(HELLO)], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout) == (0, "report: notes on cost; notes on risk\n"), done.stderr
    lines = [line for line in HELLO.read_text().splitlines() if line.strip()]
    assert len(lines) == 13
