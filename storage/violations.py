"""What Postgres refuses, said once in our words: which column, and what would be right.

A refused statement ends its transaction. The messages name columns and constraints only: Postgres' own quote the row.
Above it: `storage.entities`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg
from sqlalchemy import ForeignKeyConstraint, UniqueConstraint
from sqlalchemy.exc import DBAPIError

from storage.errors import EntityConflictError, InvalidValueError, StorageError
from storage.policy import RULES
from storage.registry import EntitySpec

_LOCK_NOT_AVAILABLE: Final = "55P03"
_PROGRAM_LIMIT_EXCEEDED: Final = "54000"
_DATA_EXCEPTION: Final = "22"
"""A class of states: https://www.postgresql.org/docs/current/errcodes-appendix.html."""


@contextmanager
def translated(spec: EntitySpec[Any]) -> Generator[None]:
    """Turn what Postgres refuses inside the block into our errors; anything else passes as it is.

    Raises:
        EntityConflictError: a unique or foreign key, or a lock that somebody else holds.
        InvalidValueError: a CHECK, a NOT NULL, or a value that does not fit.
    """
    try:
        yield
    except DBAPIError as error:
        refusal = _refusal(spec, error)
        if refusal is None:
            raise
        # `from None`: the cause holds the statement with its values, and whoever logs this error would log them.
        raise refusal from None


def _refusal(spec: EntitySpec[Any], error: DBAPIError) -> StorageError | None:
    cause = error.orig.__cause__ if error.orig is not None else None
    if not isinstance(cause, asyncpg.PostgresError):
        return None
    if cause.table_name not in {None, "", spec.name}:
        return None  # what the caller's session had pending is flushed first, and its faults are not this write's
    constraint, column = cause.constraint_name or "", cause.column_name
    where = f"{spec.name}.{column}" if column else spec.name
    state: str = cause.sqlstate or ""
    match cause:
        case asyncpg.UniqueViolationError():
            return EntityConflictError(spec.name, _unique(spec, constraint))
        case asyncpg.ForeignKeyViolationError():
            return EntityConflictError(spec.name, _foreign(spec, constraint))
        case asyncpg.CheckViolationError():
            return InvalidValueError(spec.name, RULES.get(constraint) or f"the rule {constraint!r} is broken")
        case asyncpg.NotNullViolationError():
            return InvalidValueError(where, "must not be null")
        case _ if state == _LOCK_NOT_AVAILABLE:
            return EntityConflictError(spec.name, "another change of the same row is still under way; try again later")
        case _ if state == _PROGRAM_LIMIT_EXCEEDED:
            return InvalidValueError(where, "a value is too large to be stored; shorten it")
        case _ if state.startswith(_DATA_EXCEPTION):
            return InvalidValueError(where, "a value does not fit its column; see the entity's description")
        case _:
            return None


def _unique(spec: EntitySpec[Any], name: str) -> str:
    columns = [column for column in _unique_columns(spec, name) if column != spec.owner.name]
    if not columns:
        return "you already have one, and there can be only one; change that one instead"
    return f"another row has the same {_quoted(columns)}; change that one, or choose another value"


def _unique_columns(spec: EntitySpec[Any], name: str) -> list[str]:
    """Return what a unique constraint, a unique index or the primary key of this name is on."""
    for constraint in spec.table.constraints:
        if isinstance(constraint, UniqueConstraint) and constraint.name == name:
            return list(constraint.columns.keys())
    for index in spec.table.indexes:
        if index.name == name:
            return list(index.columns.keys())
    return [column.name for column in spec.key]


def _foreign(spec: EntitySpec[Any], name: str) -> str:
    for constraint in spec.table.constraints:
        if isinstance(constraint, ForeignKeyConstraint) and constraint.name == name:
            columns = [column for column in constraint.column_keys if column != spec.owner.name]
            return f"{_quoted(columns)} names no {constraint.referred_table.name} row; send the id of one, or null"
    return f"the foreign key {name!r} refuses the row"


def _quoted(names: list[str]) -> str:
    return " and ".join(repr(name) for name in names)
