"""A whole system on a test database, with a model of the test's choice."""

import base64
import secrets

from runtime.local import Local, compose
from runtime.models.offline import OfflineModel
from runtime.ports import Model
from runtime.registry import NOTHING, Registry
from runtime.settings import RuntimeSettings
from storage.crypto import Keyring
from storage.tenancy import Database


def system_on(
    database: Database,
    user_id: int,
    model: Model | None = None,
    *,
    timezone: str = "UTC",
    registry: Registry = NOTHING,
) -> Local:
    """Return a system that acts as `user_id` on `database`; the offline model unless another is given."""
    keyring = Keyring.parse(base64.b64encode(secrets.token_bytes(32)).decode())
    settings = RuntimeSettings(model="offline", timezone=timezone)
    return compose(
        database=database,
        user_id=user_id,
        model=model or OfflineModel(),
        keyring=keyring,
        settings=settings,
        registry=registry,
    )
