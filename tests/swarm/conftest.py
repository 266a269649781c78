"""A system on the test's own database, for swarms."""

import pytest

from runtime.local import Local
from runtime.models.offline import OfflineModel
from runtime.testing import system_on
from storage.tenancy import Database


@pytest.fixture
def local(database: Database, alice: int) -> Local:
    """Alice's system, driven by the offline model."""
    return system_on(database, alice, OfflineModel())
