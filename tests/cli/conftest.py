"""The commands of a user whose embedded server runs already."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def keep_running(kept_running: None) -> None:
    """For every test here: `tests/cli/test_db.py` sees to starts and stops in a directory of its own."""
