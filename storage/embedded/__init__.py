"""A real PostgreSQL without an administrator: started by the first process that needs it, stopped by the last."""

from storage.embedded.errors import (
    BinariesNotFoundError,
    DirectoryUnusableError,
    EmbeddedServerError,
    NotStartedError,
    ServerFailedError,
    ServerTimeoutError,
)
from storage.embedded.server import EmbeddedServer, ServerStatus

__all__ = [
    "BinariesNotFoundError",
    "DirectoryUnusableError",
    "EmbeddedServer",
    "EmbeddedServerError",
    "NotStartedError",
    "ServerFailedError",
    "ServerStatus",
    "ServerTimeoutError",
]
