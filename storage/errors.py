"""Errors of the storage layer.

StorageError
├── DatabaseUnavailableError   no server answers at the configured address
├── DatabaseNotReadyError      the server answers, but its schema or its roles are not as this release needs them
├── UnknownEntityError         no entity has this name
├── EntityNotFoundError        the row does not exist, or belongs to another tenant
├── EntityConflictError        a constraint refused the write
│   └── VersionConflictError   somebody else changed the row in the meantime
├── FieldNotAllowedError       the field is not readable, writable, searchable or known
├── InvalidFilterError         the operator, the value or the cursor of a filter is wrong
├── InvalidValueError          the value cannot be stored as it is
├── VerbNotAllowedError        the entity's rows are added or removed by an operation of their own
├── CryptoError                secrets at rest; its tree is in storage.crypto
├── CredentialError            passwords and keys; its tree is in storage.credentials
├── BackupError                saving and restoring; its tree is in storage.backup_errors
└── EmbeddedServerError        the server that we run ourselves; its tree is in storage.embedded.errors
"""

from collections.abc import Iterable
from typing import Literal


class StorageError(Exception):
    """Base of every error that storage raises on purpose."""


class DatabaseUnavailableError(StorageError):
    """No server answers."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            f"no PostgreSQL answers at {where}: {reason}; check DATABASE_URL, or unset it for the embedded one"
        )
        self.where = where
        self.reason = reason


class DatabaseNotReadyError(StorageError):
    """The server answers, but is not as this release needs it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"the database is not ready: {problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class UnknownEntityError(StorageError):
    """No entity has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(f"no entity {name!r}; known: {', '.join(self.known)}")


class EntityNotFoundError(StorageError):
    """The row does not exist, or belongs to another tenant: the two look the same."""

    def __init__(self, entity: str, key: object) -> None:
        super().__init__(f"no {entity} row {key!r}")
        self.entity = entity
        self.key = key


class EntityConflictError(StorageError):
    """A constraint refused the write."""

    def __init__(self, entity: str, reason: str) -> None:
        super().__init__(f"{entity}: {reason}")
        self.entity = entity
        self.reason = reason


class VersionConflictError(EntityConflictError):
    """Somebody else changed the row in the meantime."""

    def __init__(self, entity: str, key: object, *, expected: str, actual: str) -> None:
        super().__init__(
            entity, f"row {key!r} has version {actual!r}, not {expected!r}; read it again and repeat the change"
        )
        self.key = key
        self.expected = expected
        self.actual = actual


class FieldNotAllowedError(StorageError):
    """The field is not readable, writable, searchable or known."""

    def __init__(self, entity: str, field: str, use: str, legal: Iterable[str]) -> None:
        self.entity = entity
        self.field = field
        self.use = use
        self.legal = tuple(legal)
        known = ", ".join(self.legal) or "none"
        super().__init__(f"{entity} has no {use} field {field!r}; {use}: {known}")


class InvalidFilterError(StorageError):
    """The operator, the value or the cursor of a filter is wrong."""

    def __init__(self, reason: str, legal: Iterable[str] = ()) -> None:
        self.reason = reason
        self.legal = tuple(legal)
        super().__init__(f"{reason}; legal: {', '.join(self.legal)}" if self.legal else reason)


class InvalidValueError(StorageError):
    """The value cannot be stored as it is."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


class VerbNotAllowedError(StorageError):
    """The entity's rows are not added or removed this way; an operation of their own does it."""

    def __init__(self, entity: str, verb: Literal["add", "remove"]) -> None:
        done = {"add": "added", "remove": "removed"}[verb]
        super().__init__(f"{entity} rows cannot be {done} generically; use the operation made for them")
        self.entity = entity
        self.verb = verb
