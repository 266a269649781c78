"""How a command runs: logging to stderr, one line for an error of ours, and an exit code that says what kind it was."""

import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from tomllib import TOMLDecodeError
from typing import Any, NoReturn, cast

import anyio
import structlog
from pydantic import ValidationError

from gateway.errors import ExitCode, GatewayError, SettingError, exit_code_of
from runtime.errors import RuntimeFault
from runtime.settings import RuntimeSettings
from storage.errors import StorageError
from storage.settings import StorageSettings, config_file

OURS = (GatewayError, RuntimeFault, StorageError)
"""Errors that are told in one line; any other is a fault of the program and keeps its traceback."""


def run(command: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Run an async command to its end and exit with its code."""
    configure_logging()
    try:
        anyio.run(command, *arguments)
    except OURS as error:
        _fail(error)
    except (ValidationError, TOMLDecodeError) as error:
        _fail(_setting_error(error))
    except BaseExceptionGroup as group:
        causes = list(_leaves(group))
        if len(causes) == 1 and isinstance(causes[0], OURS):
            _fail(causes[0])
        raise
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def _setting_error(error: ValidationError | TOMLDecodeError) -> SettingError:
    """Return what is wrong with the settings; a model that is none of the settings' keeps its traceback."""
    if isinstance(error, TOMLDecodeError):
        return SettingError([f"the file of settings is no TOML: {error}"], config_file())
    if error.title not in {StorageSettings.__name__, RuntimeSettings.__name__}:
        raise error
    problems = [f"{_setting_name(found['loc'])}: {_in_a_sentence(found['msg'])}" for found in error.errors()]
    return SettingError(problems, config_file())


def _setting_name(path: tuple[int | str, ...]) -> str:
    """Return what the setting is called in the environment; settings that are not ours are declared under that name."""
    name = str(path[0])
    return name if name.isupper() else f"AGENCY_{name.upper()}"


def _fail(error: BaseException) -> NoReturn:
    print(f"agency: {error}", file=sys.stderr)  # noqa: T201 -- the one line of a failed command
    sys.exit(exit_code_of(error))


def _in_a_sentence(message: str) -> str:
    """Return pydantic's message without its heading and capital, with the values in it as they are."""
    plain = message.removeprefix("Value error, ")
    return plain[:1].lower() + plain[1:]


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", error))  # as above
        else:
            yield error


def configure_logging() -> None:
    """Send logs to stderr: readable in a terminal, JSON elsewhere. stdout belongs to data."""
    shared: list[Any] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
