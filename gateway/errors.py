"""Errors of the gateway, and what a process exits with.

GatewayError
├── PortTakenError       something else listens there
├── MessageFileError     the file of messages cannot be read
├── ArgumentError        an argument of a command does not mean anything
├── SettingError         a setting, or the file of settings, cannot be read
├── DemoFailedError      a step of the demo was not found in Postgres
└── CheckFailedError     a check said no
"""

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from runtime.errors import AppError, DuplicateNameError, ModelUnavailableError, NotAuthorisedError, ToolArgumentsError
from runtime.services.mcp_errors import ToolServerUnavailableError
from storage.backup_errors import (
    BackupExistsError,
    BackupUnreadableError,
    DatabaseNotEmptyError,
    DumpProgramsNotFoundError,
)
from storage.credentials import ApiKeyFormatError, PasswordRefusedError
from storage.crypto import KeyringError
from storage.embedded import EmbeddedServerError
from storage.errors import (
    DatabaseNotReadyError,
    DatabaseUnavailableError,
    EntityConflictError,
    EntityNotFoundError,
    FieldNotAllowedError,
    InvalidFilterError,
    InvalidValueError,
    UnknownEntityError,
)


class GatewayError(Exception):
    """Base of every error that the gateway raises on purpose."""


class PortTakenError(GatewayError):
    """Something else listens there."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"something else listens on {host}:{port}; choose another port with --port")
        self.host = host
        self.port = port


class MessageFileError(GatewayError):
    """The file of messages cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"cannot read messages from {str(path)!r}: {reason}; give a UTF-8 text file, one message a line"
        )
        self.path = path
        self.reason = reason


class ArgumentError(GatewayError):
    """An argument of a command does not mean anything."""

    def __init__(self, name: str, value: str, legal: str) -> None:
        super().__init__(f"{name} {value!r} is not understood; give {legal}")
        self.name = name
        self.value = value
        self.legal = legal


class SettingError(GatewayError):
    """A setting, or the file of settings, cannot be read. Values are not quoted: they may be secrets."""

    def __init__(self, problems: Sequence[str], path: Path) -> None:
        super().__init__(f"{'; '.join(problems)}; settings come from the environment and from {str(path)!r}")
        self.problems = tuple(problems)
        self.path = path


class DemoFailedError(GatewayError):
    """A step of the demo was not found in Postgres."""


class CheckFailedError(GatewayError):
    """A check said no."""


class ExitCode(IntEnum):
    """What `agency` exits with; documented in the README."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_AUTHORISED = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    INTERRUPTED = 130


_CODES: tuple[tuple[tuple[type[BaseException], ...], ExitCode], ...] = (
    (
        (
            MessageFileError,
            ArgumentError,
            SettingError,
            KeyringError,
            PasswordRefusedError,
            ToolArgumentsError,
            AppError,
            DuplicateNameError,
            InvalidValueError,
            InvalidFilterError,
            FieldNotAllowedError,
            UnknownEntityError,
            BackupUnreadableError,
        ),
        ExitCode.USAGE,
    ),
    ((EntityNotFoundError,), ExitCode.NOT_FOUND),
    ((NotAuthorisedError, ApiKeyFormatError), ExitCode.NOT_AUTHORISED),
    ((EntityConflictError, PortTakenError, BackupExistsError, DatabaseNotEmptyError), ExitCode.CONFLICT),
    (
        (
            DatabaseUnavailableError,
            DatabaseNotReadyError,
            EmbeddedServerError,
            ModelUnavailableError,
            DumpProgramsNotFoundError,
            ToolServerUnavailableError,
        ),
        ExitCode.UNAVAILABLE,
    ),
)


def exit_code_of(error: BaseException) -> ExitCode:
    """Return what a process ends with after this error."""
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    return ExitCode.FAILURE
