"""Errors of the MCP server, and the one place where an error becomes words for a client.

ServerError
├── AppUnavailableError       the database is not open yet, or could not be opened
├── ConfirmationError         the token does not confirm this call
├── BadArgumentsError         an argument is unknown or has the wrong form
└── UnknownToolsetError       no toolset has this name

A client reads `code: what failed. what to do next`. What is not in `_EXPLAINED` is a fault of ours: the SDK keeps its
text from the client and logs it.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import ParamSpec, TypeVar

from mcp.server.mcpserver.exceptions import ToolError as Refusal
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from runtime.agents import UnknownAgentError
from runtime.errors import NotAuthorisedError, RuntimeFault, ToolArgumentsError, ToolError
from storage.errors import (
    DatabaseNotReadyError,
    DatabaseUnavailableError,
    EntityConflictError,
    EntityNotFoundError,
    FieldNotAllowedError,
    InvalidFilterError,
    InvalidValueError,
    StorageError,
    UnknownEntityError,
    VerbNotAllowedError,
    VersionConflictError,
)

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")


class ServerError(Exception):
    """Base of every error that the MCP server raises on purpose."""


class AppUnavailableError(ServerError):
    """The database is not open."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ConfirmationError(ServerError):
    """The token does not confirm this call."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the confirmation token {reason}")
        self.reason = reason


class BadArgumentsError(ServerError):
    """An argument is unknown or has the wrong form."""

    def __init__(self, tool: str, problems: Iterable[str]) -> None:
        self.tool = tool
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class UnknownToolsetError(ServerError):
    """No toolset has this name."""

    def __init__(self, names: Iterable[str], known: Iterable[str]) -> None:
        self.names = tuple(sorted(names))
        self.known = tuple(known)
        super().__init__(f"no toolset {', '.join(map(repr, self.names))}; known: {', '.join(self.known)}")


_DESCRIBE = "Call entity_describe(entity={error.entity!r}) to see its fields."

_EXPLAINED: Mapping[type[Exception], tuple[str, str]] = MappingProxyType(
    {
        AppUnavailableError: (
            "unavailable",
            "Nothing was done. Call again in a few seconds; if it stays so, tell the user.",
        ),
        ConfirmationError: (
            "confirmation_refused",
            "Nothing was deleted. Call entity_delete without confirm_token, look at what would go, and use the new "
            "token within 5 minutes.",
        ),
        BadArgumentsError: ("invalid_arguments", "Nothing was done. Correct this and call {error.tool} again."),
        UnknownEntityError: ("unknown_entity", "Use one of these names exactly as written."),
        EntityNotFoundError: ("not_found", "Use entity_find(entity={error.entity!r}) to see the ids that exist."),
        VersionConflictError: ("version_conflict", "Nothing was changed."),
        EntityConflictError: ("conflict", "Nothing was changed."),
        FieldNotAllowedError: ("field_not_allowed", _DESCRIBE),
        VerbNotAllowedError: ("not_allowed", "Call entity_describe() to see what may be done with each entity."),
        InvalidFilterError: ("invalid_filter", "Call entity_describe(entity=...) to see the operators of each field."),
        InvalidValueError: ("invalid_value", "Nothing was changed. Correct the value and call again."),
        DatabaseUnavailableError: ("unavailable", "Call again in a few seconds; if it stays so, tell the user."),
        DatabaseNotReadyError: ("unavailable", "Tell the user; calling again does not help."),
        StorageError: ("refused", "Correct the call and try again."),
        UnknownAgentError: ("unknown_agent", "Use one of these names, or leave agent out."),
        NotAuthorisedError: ("not_authorised", "Tell the user; calling again does not help."),
        ToolArgumentsError: ("invalid_arguments", "Nothing was done. Correct this and call again."),
        ToolError: ("refused", "Nothing was changed."),
    }
)
"""Error → code and what to do next; the entry of the nearest base class holds."""

_BY_STATE: tuple[tuple[str, str, str, str], ...] = (
    ("08", "unavailable", "the connection to the database was lost", "Look whether it took effect, then call again."),
    ("57014", "timeout", "the database took longer than 30 s", "Narrow the question with more filters."),
    ("57P", "unavailable", "the database is restarting", "Look whether it took effect, then call again."),
    ("40", "conflict", "another change got in the way", "Nothing was changed. Call again."),
    ("55P03", "conflict", "another change of the same row is still under way", "Nothing was changed. Call again."),
    (
        "53",
        "unavailable",
        "the database is out of room or connections",
        "Call again later; if it stays, tell the user.",
    ),
    ("22", "invalid_value", "a value cannot be stored as it is", "Nothing was changed. Shorten or correct it."),
)
"""SQLSTATE prefix → code, what failed, what to do next (https://www.postgresql.org/docs/current/errcodes-appendix.html).
The messages of Postgres itself quote rows."""


def explained(error: Exception) -> str | None:
    """Return the error in words for a client; None: it is a fault of ours, whose text stays here."""
    for kind in type(error).__mro__:
        if kind in _EXPLAINED:
            code, remedy = _EXPLAINED[kind]
            what = str(error).rstrip(".")
            return f"{code}: {what}. {remedy.format(error=error)}"
    if isinstance(error, PoolTimeoutError):
        return "unavailable: every database connection is busy. Nothing was done. Call again in a few seconds."
    if isinstance(error, DBAPIError):
        return _explained_state(error)
    if isinstance(error, OSError):
        return "unavailable: the database does not answer. Look whether it took effect, then call again."
    return None


def _explained_state(error: DBAPIError) -> str | None:
    state: str = getattr(error.orig, "sqlstate", None) or ("08" if error.connection_invalidated else "")
    for prefix, code, what, remedy in _BY_STATE:
        if state.startswith(prefix):
            return f"{code}: {what}. {remedy}"
    return None


def reported(function: Callable[ParamsT, Awaitable[ResultT]]) -> Callable[ParamsT, Awaitable[ResultT]]:
    """Turn the errors that a client can do something about into the SDK's ToolError; a crash stays a crash."""

    @functools.wraps(function)
    async def door(*args: ParamsT.args, **kwargs: ParamsT.kwargs) -> ResultT:
        try:
            return await function(*args, **kwargs)
        except (ServerError, StorageError, RuntimeFault, SQLAlchemyError, OSError) as error:
            text = explained(error)
            if text is None:
                raise
            # `from None`: a database error carries the statement with its values, and the SDK logs causes.
            raise Refusal(text) from None

    return door
