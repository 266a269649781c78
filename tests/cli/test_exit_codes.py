"""What a process exits with, and that the README says the same."""

import re
from pathlib import Path

import pytest

from gateway.errors import (
    ArgumentError,
    CheckFailedError,
    ExitCode,
    GatewayError,
    MessageFileError,
    PortTakenError,
    SettingError,
    exit_code_of,
)
from runtime.errors import ModelUnavailableError, NotAuthorisedError, ToolArgumentsError
from storage.credentials import ApiKeyFormatError, PasswordRefusedError
from storage.crypto import KeyringError
from storage.embedded import NotStartedError
from storage.errors import (
    DatabaseNotReadyError,
    DatabaseUnavailableError,
    EntityConflictError,
    EntityNotFoundError,
    InvalidValueError,
    VersionConflictError,
)

README = Path(__file__).parents[2] / "README.md"

CASES: list[tuple[Exception, ExitCode]] = [
    (GatewayError("x"), ExitCode.FAILURE),
    (CheckFailedError("x"), ExitCode.FAILURE),
    (ZeroDivisionError(), ExitCode.FAILURE),
    (ArgumentError("--due", "soon", "a date"), ExitCode.USAGE),
    (SettingError(["x"], README), ExitCode.USAGE),
    (MessageFileError(README, "x"), ExitCode.USAGE),
    (KeyringError("AGENCY_SECRET_KEYS", "x"), ExitCode.USAGE),
    (PasswordRefusedError("is empty"), ExitCode.USAGE),
    (ToolArgumentsError("create_task", ["x"]), ExitCode.USAGE),
    (InvalidValueError("users", "x"), ExitCode.USAGE),
    (EntityNotFoundError("apiKeys", "ak_x"), ExitCode.NOT_FOUND),
    (NotAuthorisedError("x"), ExitCode.NOT_AUTHORISED),
    (ApiKeyFormatError(), ExitCode.NOT_AUTHORISED),
    (EntityConflictError("users", "x"), ExitCode.CONFLICT),
    (VersionConflictError("agencyTasks", 1, expected="a", actual="b"), ExitCode.CONFLICT),
    (PortTakenError("127.0.0.1", 1), ExitCode.CONFLICT),
    (DatabaseUnavailableError("here", "x"), ExitCode.UNAVAILABLE),
    (DatabaseNotReadyError("x", "y"), ExitCode.UNAVAILABLE),
    (NotStartedError(), ExitCode.UNAVAILABLE),
    (ModelUnavailableError("x"), ExitCode.UNAVAILABLE),
]


@pytest.mark.parametrize(("error", "code"), CASES, ids=[type(error).__name__ for error, _ in CASES])
def test_the_kind_of_error_decides_the_exit_code(error: Exception, code: ExitCode) -> None:
    assert exit_code_of(error) is code


def test_the_readme_lists_the_exit_codes() -> None:
    text = " ".join(README.read_text(encoding="utf-8").split())
    (listed,) = re.findall(r"Exit codes: ([^.]*)\.", text)
    told = {int(number): words for number, words in re.findall(r"(\d) ([a-z ]+)", listed)}
    assert told.keys() == {code for code in ExitCode if code is not ExitCode.INTERRUPTED}
    assert all(word in told[code] for code, word in {3: "found", 4: "authorised", 5: "conflict"}.items())
