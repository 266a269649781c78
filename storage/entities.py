"""Generic access to every entity: five verbs and an aggregate, for one tenant inside one transaction.

The caller owns the transaction: nothing here commits, and a write that Postgres refuses ends it. Rows come back as
plain dicts with wire names (column names), always with `id` and `_version`; code that knows its table uses SQLAlchemy.
`_version` is the row's xmin: opaque, another one after every transaction that changed the row, and apart from any
column (cf_memory_store has a `version` of its own). Above it: operations and doors. Below it: `storage.filters`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, func, insert, null, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningInsert

from storage.cascades import cascade_counts
from storage.errors import (
    EntityConflictError,
    EntityNotFoundError,
    FieldNotAllowedError,
    InvalidFilterError,
    InvalidValueError,
    StorageError,
    VerbNotAllowedError,
    VersionConflictError,
)
from storage.filters import (
    MAX_LIMIT,
    Filter,
    Position,
    Query,
    after,
    check_limit,
    finds,
    matches,
    ordering,
    parse_order,
    parse_where,
    question_digest,
    read_cursor,
    write_cursor,
)
from storage.idempotency import Claim, Outcome, argument_hash, claim, settle
from storage.ids import new_id
from storage.registry import EntitySpec, Field
from storage.values import converter, operand, shown, stored
from storage.views import View, fields_of, version_of, view_of
from storage.violations import translated

Metric = Literal["count", "sum", "avg", "min", "max"]

_MEASURED = {"sum": {"integer", "decimal"}, "avg": {"integer", "decimal"}}
_COMPARED = {"integer", "decimal", "timestamp"}
_MAX_GROUP_BY = 3
_XMIN = re.compile("[0-9]{1,10}")
_INTEGER_KEY = re.compile("0|-?[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some rows of a listing, in its order."""

    items: list[dict[str, Any]]
    next_cursor: str | None
    """None: there are no more."""

    @property
    def returned(self) -> int:
        """How many rows this page has."""
        return len(self.items)

    @property
    def truncated(self) -> bool:
        """Whether there are more rows behind this page."""
        return self.next_cursor is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """A figure over the rows of one entity."""

    metric: Metric
    field: str | None = None
    """`count` needs none; with one it counts the rows that have a value there."""
    group_by: Sequence[str] = ()
    where: Sequence[Filter] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One item per group, the largest value first: `{"group": {"status": "todo"}, "value": 3}`."""

    items: list[dict[str, Any]]
    truncated: bool
    """There are more than 100 groups."""


class EntityStore:
    """Generic access for one tenant inside one transaction.

    The caller owns the transaction: nothing here commits.
    """

    def __init__(self, db: AsyncSession, user_id: int) -> None:
        self._db = db
        self._user_id = user_id

    async def get(self, spec: EntitySpec[Any], key: int | str, fields: Sequence[str] | None = None) -> dict[str, Any]:
        """Return one row; `fields=None`: everything readable.

        Raises:
            EntityNotFoundError: no such row for this tenant, whatever the reason.
            FieldNotAllowedError: a field is not readable.
        """
        view = view_of(spec, fields_of(spec, fields, spec.readable))
        parts = _key_values(spec, key)
        parameters = {f"key_{at}": part for at, part in enumerate(parts)} | {"tenant": self._user_id}
        row = (await self._db.execute(_get_statement(spec, view), parameters)).one_or_none()
        if row is None:
            raise _not_found(spec, key)
        return view.render(row)

    async def find(self, spec: EntitySpec[Any], query: Query) -> Page:
        """Return a page of rows.

        Raises:
            FieldNotAllowedError: a field is not readable, sortable or searchable.
            InvalidFilterError: an operator, a value, the limit or the cursor does not fit.
        """
        limit = check_limit(query.limit)
        conditions = parse_where(spec, query.where)
        order = parse_order(spec, query.order_by)
        view = view_of(spec, fields_of(spec, query.fields, spec.shown))
        digest = question_digest(spec, conditions, query.text, order, tenant=self._user_id)
        statement = _rows(spec, view).where(spec.owner == self._user_id, *map(matches, conditions))
        if query.text is not None:
            statement = statement.where(finds(spec, query.text))
        if query.cursor is not None:
            statement = statement.where(after(spec, order, read_cursor(spec, query.cursor, digest, order)))
        if order.field is not None:
            statement = statement.add_columns(order.field.column)
        rows = (await self._db.execute(statement.order_by(*ordering(spec, order)).limit(limit + 1))).all()
        next_cursor = None
        if len(rows) > limit:
            last = rows[limit - 1]
            position = Position(value=last[-1] if order.field else None, key=tuple(last[: view.key_width]))
            next_cursor = write_cursor(digest, order, position)
        return Page(items=[view.render(row) for row in rows[:limit]], next_cursor=next_cursor)

    async def add(
        self, spec: EntitySpec[Any], values: Mapping[str, object], *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Add one row and return it.

        With a key, the same call twice adds one row, and both answers show it as it is then.

        Raises:
            VerbNotAllowedError: rows of this entity are not added generically.
            FieldNotAllowedError: a field is not writable.
            InvalidValueError: a value is missing or cannot be stored.
            EntityConflictError: a constraint refuses the row, or the key was used with other values.
        """
        if not spec.creates:
            raise VerbNotAllowedError(spec.name, "add")
        row = _checked(spec, values)
        for name in spec.writable:
            if spec.fields[name].required and name not in row:
                raise InvalidValueError(f"{spec.name}.{name}", "is required")
        if idempotency_key is None:
            return await self._insert(spec, row)
        call = Claim(
            user_id=self._user_id,
            operation=f"add {spec.name}",
            key=idempotency_key,
            argument_hash=argument_hash(row),
        )
        earlier = await claim(self._db, call)
        if earlier is not None and earlier.row_id is not None:
            return await self._made_before(spec, earlier.row_id)
        made = await self._insert(spec, row)
        await settle(self._db, call, Outcome(entity=spec.name, row_id=str(made["id"])))
        return made

    async def change(
        self, spec: EntitySpec[Any], key: int | str, patch: Mapping[str, object], *, expected_version: str | None = None
    ) -> dict[str, Any]:
        """Change the columns in `patch` (a json column as a whole) and return the row.

        Raises:
            EntityNotFoundError: no such row for this tenant.
            VersionConflictError: the row is not at `expected_version` any more.
            FieldNotAllowedError: a field is not writable.
            InvalidValueError: the patch is empty, or a value cannot be stored.
            EntityConflictError: a constraint refuses the change.
        """
        values = _checked(spec, patch)
        if not values:
            raise InvalidValueError(spec.name, f"the patch is empty; writable: {', '.join(spec.writable) or 'none'}")
        chosen = self._chosen(spec, key)
        if expected_version is not None:
            if not _XMIN.fullmatch(expected_version):
                raise await self._version_conflict(spec, key, expected_version)
            chosen = and_(chosen, version_of(spec) == expected_version)
        view = view_of(spec, spec.readable)
        # To SQLAlchemy None in a json column is JSON's null.
        bound = {name: null() if value is None else value for name, value in values.items()}
        with translated(spec):
            changed = await self._db.execute(update(spec.table).where(chosen).values(bound).returning(*view.columns))
        row = changed.one_or_none()
        if row is not None:
            return view.render(row)
        if expected_version is not None:
            raise await self._version_conflict(spec, key, expected_version)
        raise _not_found(spec, key)

    async def remove(self, spec: EntitySpec[Any], key: int | str) -> None:
        """Remove one row and what `removal_preview` counts.

        Raises:
            VerbNotAllowedError: rows of this entity are not removed generically.
            EntityNotFoundError: no such row for this tenant.
            EntityConflictError: a constraint refuses the removal.
        """
        if not spec.removes:
            raise VerbNotAllowedError(spec.name, "remove")
        with translated(spec):
            gone = await self._db.execute(delete(spec.table).where(self._chosen(spec, key)).returning(spec.key[0]))
        if gone.one_or_none() is None:
            raise _not_found(spec, key)

    async def removal_preview(self, spec: EntitySpec[Any], key: int | str) -> dict[str, int]:
        """Return table → how many rows `remove` would take, the row itself included.

        Raises:
            VerbNotAllowedError: rows of this entity are not removed generically.
            EntityNotFoundError: no such row for this tenant.
        """
        if not spec.removes:
            raise VerbNotAllowedError(spec.name, "remove")
        counted = await self._db.execute(cascade_counts(spec.table, self._chosen(spec, key)))
        counts: dict[str, int] = dict(counted.mappings().one())
        if not counts[spec.name]:
            raise _not_found(spec, key)
        return {table: count for table, count in counts.items() if count}

    async def aggregate(self, spec: EntitySpec[Any], question: Aggregate) -> Figures:
        """Return a figure per group, of at most 100 groups.

        Raises:
            FieldNotAllowedError: a field cannot be measured or grouped by.
            InvalidFilterError: the metric lacks its field, or a filter does not fit.
        """
        measured = _measured(spec, question)
        if len(question.group_by) > _MAX_GROUP_BY:
            raise InvalidFilterError(f"{len(question.group_by)} columns to group by are too many; at most 3")
        groups = [spec.field(name, "groupable") for name in dict.fromkeys(question.group_by)]
        columns = [group.column for group in groups]
        value = _figure(question.metric, measured).label("value")
        statement = select(*columns, value).select_from(spec.table).where(spec.owner == self._user_id)
        statement = statement.where(*map(matches, parse_where(spec, question.where)), *_visible(spec))
        if question.text is not None:
            statement = statement.where(finds(spec, question.text))
        if groups:
            statement = statement.group_by(*columns).order_by(value.desc().nulls_last(), *columns)
        rows = (await self._db.execute(statement.limit(MAX_LIMIT + 1))).all()
        items = [_item(groups, question.metric, measured, row) for row in rows[:MAX_LIMIT]]
        return Figures(items=items, truncated=len(rows) > MAX_LIMIT)

    async def _insert(self, spec: EntitySpec[Any], values: dict[str, Any]) -> dict[str, Any]:
        view = view_of(spec, spec.readable)
        # To SQLAlchemy None in a json column is JSON's null; left out, it is the column's NULL.
        row = {
            name: value for name, value in values.items() if not (value is None and spec.fields[name].kind == "json")
        }
        row[spec.owner.name] = self._user_id
        if spec.id_prefix is not None:
            row["id"] = new_id(spec.id_prefix)
        with translated(spec):
            added = await self._db.execute(_insert_statement(spec, view), row)
        return view.render(added.one())

    async def _made_before(self, spec: EntitySpec[Any], row_id: str) -> dict[str, Any]:
        try:
            return await self.get(spec, row_id)
        except EntityNotFoundError as error:
            raise EntityConflictError(
                spec.name, f"this idempotency key made row {row_id!r}, which is gone; use a new key for a new row"
            ) from error

    async def _version_conflict(self, spec: EntitySpec[Any], key: int | str, expected: str) -> StorageError:
        found = await self._db.execute(select(version_of(spec)).where(self._chosen(spec, key)))
        actual = found.scalar_one_or_none()
        if actual is None:
            return _not_found(spec, key)
        return VersionConflictError(spec.name, key, expected=expected[:20], actual=actual)

    def _chosen(self, spec: EntitySpec[Any], key: int | str) -> ColumnElement[bool]:
        parts = zip(spec.key, _key_values(spec, key), strict=True)
        return and_(*(column == part for column, part in parts), spec.owner == self._user_id, *_visible(spec))


def _not_found(spec: EntitySpec[Any], key: object) -> EntityNotFoundError:
    short = isinstance(key, int) and key.bit_length() <= 64
    return EntityNotFoundError(spec.name, key if short else str(shown(key) if isinstance(key, int) else key)[:80])


def _key_values(spec: EntitySpec[Any], key: int | str) -> list[Any]:
    """Return the key's columns; a malformed key is a row that does not exist."""
    parts: Sequence[int | str] = key.split(":") if len(spec.key) > 1 and isinstance(key, str) else [key]
    if len(parts) != len(spec.key):
        raise _not_found(spec, key)
    try:
        fields = [spec.fields[column.name] for column in spec.key]
        return [_key_part(field, part) for field, part in zip(fields, parts, strict=True)]
    except InvalidValueError:
        raise _not_found(spec, key) from None


def _key_part(field: Field, part: int | str) -> Any:
    if field.kind == "integer" and isinstance(part, str) and _INTEGER_KEY.fullmatch(part):
        return operand(field, int(part), "id")
    return operand(field, part, "id")


def _checked(spec: EntitySpec[Any], values: Mapping[str, object]) -> dict[str, Any]:
    return {name: stored(spec.field(name, "writable"), value, f"{spec.name}.{name}") for name, value in values.items()}


def _visible(spec: EntitySpec[Any]) -> Sequence[ColumnElement[bool]]:
    return () if spec.visible is None else (spec.visible,)


def _rows(spec: EntitySpec[Any], view: View) -> Select[Any]:
    return select(*view.columns).where(*_visible(spec))


@lru_cache(maxsize=1024)
def _get_statement(spec: EntitySpec[Any], view: View) -> Select[Any]:
    """Build once: making a statement costs more than running a cached one."""
    key = (column == bindparam(f"key_{at}") for at, column in enumerate(spec.key))
    return _rows(spec, view).where(*key, spec.owner == bindparam("tenant"))


@lru_cache(maxsize=256)
def _insert_statement(spec: EntitySpec[Any], view: View) -> ReturningInsert[Any]:
    return insert(spec.table).returning(*view.columns)


def _measured(spec: EntitySpec[Any], question: Aggregate) -> Field | None:
    if question.field is None:
        if question.metric == "count":
            return None
        raise InvalidFilterError(f"{question.metric} needs a field")
    if question.metric == "count":
        return spec.field(question.field)
    kinds = _MEASURED.get(question.metric, _COMPARED)
    legal = tuple(name for name in spec.readable if spec.fields[name].kind in kinds)
    if question.field not in legal:
        raise FieldNotAllowedError(spec.name, question.field[:80], question.metric, legal)
    return spec.fields[question.field]


def _figure(metric: Metric, measured: Field | None) -> ColumnElement[Any]:
    if measured is None:
        return func.count()
    functions = {"count": func.count, "sum": func.sum, "avg": func.avg, "min": func.min, "max": func.max}
    return functions[metric](measured.column)


def _item(groups: Sequence[Field], metric: Metric, measured: Field | None, row: Sequence[Any]) -> dict[str, Any]:
    named = {group.name: _wire(group, value) for group, value in zip(groups, row, strict=False)}
    return {"group": named, "value": _wire_figure(metric, measured, row[-1])}


def _wire(field: Field, value: Any) -> Any:
    convert = converter(field)
    return value if value is None or convert is None else convert(value)


def _wire_figure(metric: Metric, measured: Field | None, value: Any) -> Any:
    """Sums of integers stay integers (Postgres makes them numeric); averages are decimals, hence strings."""
    if isinstance(value, Decimal) and measured is not None:
        return int(value) if measured.kind == "integer" and metric == "sum" else format(value, "f")
    return value if measured is None or metric == "count" else _wire(measured, value)
