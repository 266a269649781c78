# ruff: noqa: S608 -- every name in these statements comes from the metadata
"""Rows of any table, made from the metadata: minimal, valid, with the parents they need.

The connection must have entered a door or taken a role by `enter`; nothing here commits.
"""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from types import MappingProxyType
from typing import Any

from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Table
from sqlalchemy.dialects.postgresql import JSON

import storage.models
from storage.base import Base
from storage.engine import RawConnection
from storage.security import owner_columns

assert storage.models.__all__, "importing the models fills the metadata"

OWNERS: Mapping[str, str] = MappingProxyType(owner_columns())
"""Tenant table → its owner column."""

TABLES: Mapping[str, Table] = MappingProxyType({name: Base.metadata.tables[name] for name in OWNERS})

Values = dict[str, Any]

_numbers = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A foreign key to another row of the tenant."""

    name: str
    """Of the constraint."""
    table: str
    column: str
    target: str
    optional: bool
    composite: bool
    """False: it names the target without its owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A database with two tenants, and the connection of the owner of its tables."""

    connection: RawConnection
    alice: int
    bob: int


async def enter(connection: RawConnection, role: str, user_id: int | None = None) -> None:
    """Take a role, and a tenant or none, until the transaction ends."""
    await connection.execute(
        "SELECT set_config('role', $1, true), set_config('app.user_id', $2, true)",
        role,
        "" if user_id is None else str(user_id),
    )


def links_of(table: str) -> list[Link]:
    """Return the foreign keys of a table, but for that of the owner itself."""
    owner = OWNERS[table]
    found: list[Link] = []
    for key in sorted(TABLES[table].foreign_key_constraints, key=lambda key: str(key.name)):
        columns = [column.name for column in key.columns]
        if columns != [owner]:
            found.append(_link(table, key, next(name for name in columns if name != owner), len(columns) > 1))
    return found


def _link(table: str, key: ForeignKeyConstraint, column: str, composite: bool) -> Link:  # noqa: FBT001 -- private
    return Link(
        name=str(key.name),
        table=table,
        column=column,
        target=key.referred_table.name,
        optional=(key.ondelete or "").startswith("SET NULL"),
        composite=composite,
    )


def key_of(table: str) -> list[str]:
    """Return the columns of the primary key."""
    return [column.name for column in TABLES[table].primary_key]


def _listed(column: Column[Any]) -> str | None:
    """Return the first value of the column's closed list."""
    for constraint in column.table.constraints:
        if isinstance(constraint, CheckConstraint):
            match = re.match(rf"\"{column.name}\" IN \('([^']*)'", str(constraint.sqltext))
            if match:
                return match.group(1)
    return None


_MAKERS: Mapping[type, Callable[[int], Any]] = MappingProxyType(
    {
        int: lambda number: number,
        bool: lambda number: bool(number % 2),
        str: lambda number: f"text {number}",
        bytes: lambda number: f"bytes {number}".encode(),
        datetime: lambda _: datetime(2100, 1, 1, tzinfo=UTC),
        Decimal: lambda _: Decimal("0.5"),
        uuid.UUID: lambda _: uuid.uuid4(),
    }
)


def made_up(column: Column[Any]) -> Any:
    """Return a new legal value of the column, as asyncpg takes it."""
    if listed := _listed(column):
        return listed
    if isinstance(column.type, JSON):  # jsonb too
        return json.dumps({})
    return _MAKERS[column.type.python_type](next(_numbers))


def is_required(column: Column[Any]) -> bool:
    """Whether an INSERT must give the column."""
    given_by_database = column.server_default is not None or column.identity is not None or column.computed is not None
    return not column.nullable and not given_by_database


class Rows:
    """The rows of one tenant; a row that others point to is made once and shared."""

    def __init__(self, connection: RawConnection, owner: int) -> None:
        self._connection = connection
        self.owner = owner
        self._made: dict[str, Values] = {}

    async def values(self, table: str, **given: Any) -> Values:
        """Return what an INSERT of one row needs, having made its parents."""
        found: Values = {OWNERS[table]: self.owner} if table != "users" else {}
        for link in links_of(table):
            if not link.optional and not TABLES[table].columns[link.column].nullable:
                found[link.column] = (await self.one(link.target))["id"]
        for column in TABLES[table].columns:
            if column.name not in found and is_required(column):
                found[column.name] = made_up(column)
        return found | given

    async def add(self, table: str, **given: Any) -> Values:
        """Insert a row and return its key and owner."""
        return await insert(self._connection, table, await self.values(table, **given))

    async def one(self, table: str) -> Values:
        """Return the key of a row of this table, adding one when there is none yet."""
        if table == "users":
            return {"id": self.owner}
        if table not in self._made:
            self._made[table] = await self.add(table)
        return self._made[table]

    async def fill(self) -> None:
        """Have a row in every tenant table, every link pointing somewhere."""
        for table in TABLES:
            await self.one(table)
        for table in TABLES:
            for link in links_of(table):
                if TABLES[table].columns[link.column].nullable:
                    await self._point(link)

    async def _point(self, link: Link) -> None:
        row, target = await self.one(link.table), await self.one(link.target)
        await self._connection.execute(
            f'UPDATE "{link.table}" SET "{link.column}" = $1 WHERE {matches(row, after=1)}',
            target["id"],
            *row.values(),
        )


def matches(key: Mapping[str, Any], *, after: int = 0) -> str:
    """Return the condition on a key whose arguments follow `after` others."""
    return " AND ".join(f'"{name}" = ${number}' for number, name in enumerate(key, after + 1))


async def insert(connection: RawConnection, table: str, values: Values) -> Values:
    """Insert a row and return its key."""
    columns = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    statement = f'INSERT INTO "{table}" ({columns}) VALUES ({places})'
    key = ", ".join(f'"{name}"' for name in key_of(table))
    row = await connection.fetchrow(f"{statement} RETURNING {key}", *values.values())
    assert row is not None
    return dict(row)
