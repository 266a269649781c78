"""What a caller may ask of an entity: filters, full text, order and pages, checked against an allow-list, then SQL.

Identifiers never reach SQL as text: a name is looked up in the spec and its Column object is used. Values are always
bound. A cursor is opaque and belongs to one question; it carries no authority (row-level security does).
Above it: `storage.entities`.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ARRAY, Column, ColumnElement, and_, any_, bindparam, func, or_, tuple_

from storage.errors import FieldNotAllowedError, InvalidFilterError, InvalidValueError
from storage.registry import EntitySpec, Field, Operator
from storage.values import check_text, converter, operand, shown

MAX_FILTERS = 20
MAX_VALUES = 100
"""Of one `in`."""
MAX_TEXT = 1_000
"""Characters of a full-text question."""
MAX_LIMIT = 100
_MAX_CURSOR = 20_000
"""Above what a varchar(500) and its key take when every character is escaped."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition. `in` takes a list, `is_null` a boolean, `contains` on json a fragment that must be inside.

    `ne` also finds rows without a value. `contains` ignores case, `starts_with` does not.
    """

    field: str
    op: Operator
    value: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question to one entity; all filters must hold."""

    where: Sequence[Filter] = ()
    text: str | None = None
    """Full text, in the words of a search engine: `landing page -draft "exact words"`."""
    fields: Sequence[str] | None = None
    """None: those that the entity shows in listings. `id` and `_version` always come along."""
    order_by: str | None = None
    """A column, `-` in front for descending; None: newest key first, with full text too (a rank has no pages)."""
    limit: int = 20
    cursor: str | None = None
    """`next_cursor` of the page before, to the same question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A filter whose names and value have been checked."""

    field: Field
    op: Operator
    operand: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """By one column, if any, and then by the key; both in the same direction."""

    field: Field | None
    descending: bool


def parse_where(spec: EntitySpec[Any], where: Sequence[Filter]) -> list[Condition]:
    """Check every filter.

    Raises:
        FieldNotAllowedError: a field that is not readable; lists those that are.
        InvalidFilterError: an operator or a value that does not fit the field; lists what does.
    """
    if len(where) > MAX_FILTERS:
        raise InvalidFilterError(f"{len(where)} filters are too many; at most {MAX_FILTERS}")
    return [_parse(spec, given, f"where[{index}]") for index, given in enumerate(where)]


def parse_order(spec: EntitySpec[Any], order_by: str | None) -> Order:
    """Check what to sort by.

    Raises:
        FieldNotAllowedError: the column does not exist or cannot be sorted by; lists those that can.
    """
    if order_by is None:
        return Order(field=None, descending=True)
    name = order_by.removeprefix("-")
    descending = name != order_by
    if len(spec.key) == 1 and name == spec.key[0].name:
        return Order(field=None, descending=descending)
    return Order(field=spec.field(name, "sortable"), descending=descending)


def finds(spec: EntitySpec[Any], text: str) -> ColumnElement[bool]:
    """Return the full-text condition; `simple` is the configuration that the column was made with.

    Raises:
        FieldNotAllowedError: the entity has no full-text column.
        InvalidFilterError: the text is too long, or not storable as text.
    """
    if spec.search is None:
        raise FieldNotAllowedError(spec.name, "text", "searchable", ())
    if len(text) > MAX_TEXT:
        raise InvalidFilterError(f"text is {len(text)} characters long; at most {MAX_TEXT}")
    try:
        question = check_text(text, "text")
    except InvalidValueError as error:
        raise InvalidFilterError(str(error)) from error
    return spec.search.op("@@", is_comparison=True)(func.websearch_to_tsquery("simple", question))


def check_limit(limit: int) -> int:
    """Return `limit`.

    Raises:
        InvalidFilterError: it is not from 1 to 100.
    """
    if isinstance(limit, bool) or not 1 <= limit <= MAX_LIMIT:
        raise InvalidFilterError(f"limit is {shown(limit)}; it goes from 1 to {MAX_LIMIT}")
    return limit


def matches(condition: Condition) -> ColumnElement[bool]:
    """Return the condition in SQL. The column stands bare, so that its index can serve."""
    column = condition.field.column
    build = _SQL[condition.op]
    return build(condition.field, column, condition.operand)


def ordering(spec: EntitySpec[Any], order: Order) -> list[ColumnElement[Any]]:
    """Return ORDER BY. NULLs lie where Postgres puts them (last ascending, first descending), as its indexes do."""
    columns = [*([order.field.column] if order.field else []), *spec.key]
    return [column.desc() if order.descending else column.asc() for column in columns]


def after(spec: EntitySpec[Any], order: Order, position: "Position") -> ColumnElement[bool]:
    """Return the condition for rows behind `position` in this order."""
    beyond_key = _beyond(spec.key, position.key, descending=order.descending)
    if order.field is None:
        return beyond_key
    column = order.field.column
    if not order.field.nullable:
        return _beyond((column, *spec.key), (position.value, *position.key), descending=order.descending)
    if position.value is None:
        rest = and_(column.is_(None), beyond_key)
        return or_(rest, column.is_not(None)) if order.descending else rest
    beyond = column < position.value if order.descending else column > position.value
    rest = or_(beyond, and_(column == position.value, beyond_key))
    return rest if order.descending else or_(rest, column.is_(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a page ended: the sort column's value (None: NULL, or sorted by the key alone) and the key."""

    value: Any
    key: tuple[Any, ...]


def question_digest(
    spec: EntitySpec[Any], conditions: Sequence[Condition], text: str | None, order: Order, *, tenant: int
) -> str:
    """Return what ties a cursor to its question; the limit and the fields may change between pages."""
    asked = [
        tenant,
        spec.name,
        [(condition.field.name, condition.op, condition.operand) for condition in conditions],
        text,
        order.field.name if order.field else None,
        order.descending,
    ]
    return hashlib.sha256(json.dumps(asked, default=str, sort_keys=True).encode()).hexdigest()[:16]


def write_cursor(digest: str, order: Order, position: Position) -> str:
    """Return the cursor for what follows `position`."""
    value = position.value
    if order.field is not None and value is not None:
        convert = converter(order.field)
        value = convert(value) if convert else value
    packed = json.dumps([digest, value, list(position.key)], separators=(",", ":"))
    return base64.urlsafe_b64encode(packed.encode()).decode().rstrip("=")


def read_cursor(spec: EntitySpec[Any], cursor: str, digest: str, order: Order) -> Position:
    """Return where the cursor stands.

    Raises:
        InvalidFilterError: it is no cursor of ours, or one of another question.
    """
    wrong = InvalidFilterError("this is no cursor of this listing; take next_cursor of the page before, unchanged")
    try:
        found_digest, value, key = _unpack(cursor)
        if found_digest != digest:
            raise InvalidFilterError(
                "the cursor belongs to another listing; repeat the same entity, filters, text and order_by, "
                "or begin again without cursor"
            )
        parts = zip(spec.key, cast("list[object]", key), strict=True)
        typed = tuple(operand(spec.fields[column.name], part, "cursor") for column, part in parts)
        if order.field is not None and value is not None:
            value = operand(order.field, value, "cursor")
    except (InvalidValueError, ValueError, TypeError) as error:
        raise wrong from error
    return Position(value=value, key=typed)


def _unpack(cursor: str) -> tuple[Any, Any, Any]:
    if len(cursor) > _MAX_CURSOR:
        raise ValueError("too long")
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        unpacked = json.loads(base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True))
    except (binascii.Error, RecursionError) as error:
        raise ValueError("not packed by us") from error
    digest, value, key = unpacked
    return digest, value, key


def _beyond(columns: Sequence[Column[Any]], values: Sequence[Any], *, descending: bool) -> ColumnElement[bool]:
    """Compare as rows, which one index scan can answer."""
    if len(columns) == 1:
        return columns[0] < values[0] if descending else columns[0] > values[0]
    left = tuple_(*columns)
    right = tuple_(*values, types=[column.type for column in columns])
    return left < right if descending else left > right


def _parse(spec: EntitySpec[Any], given: Filter, where: str) -> Condition:
    field = spec.field(given.field)
    if given.op not in field.operators:
        raise InvalidFilterError(f"{where}: {field.name} has no operator {shown(given.op)}", field.operators)
    try:
        value = _parse_value(field, given, f"{where} ({field.name} {given.op})")
    except InvalidValueError as error:
        raise InvalidFilterError(str(error)) from error
    return Condition(field=field, op=given.op, operand=value)


def _parse_value(field: Field, given: Filter, where: str) -> Any:
    value = given.value
    match given.op:
        case "is_null":
            if not isinstance(value, bool):
                raise InvalidValueError(where, f"expects true or false, got {shown(value)}")
            return value
        case "in":
            return _parse_list(field, value, where)
        case "contains" | "starts_with" if field.kind == "text":
            return _parse_fragment(value, where)
        case _ if value is None:
            raise InvalidValueError(where, "null compares with nothing; use is_null")
        case _:
            return operand(field, value, where)


def _parse_list(field: Field, value: object, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidValueError(where, f"expects a list, got {shown(value)}")
    items = cast("Sequence[object]", value)
    if not 1 <= len(items) <= MAX_VALUES:
        raise InvalidValueError(where, f"expects 1 to {MAX_VALUES} values, got {len(items)}")
    if any(item is None for item in items):
        raise InvalidValueError(where, "null compares with nothing; use is_null")
    return [operand(field, item, where) for item in items]


def _parse_fragment(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidValueError(where, f"expects a text that is not empty, got {shown(value)}")
    return check_text(value, where)


def _not_equal(field: Field, column: Column[Any], value: Any) -> ColumnElement[bool]:
    return column.is_distinct_from(value) if field.nullable else column != value


def _is_null(_field: Field, column: Column[Any], value: Any) -> ColumnElement[bool]:
    return column.is_(None) if value else column.is_not(None)


def _among(_field: Field, column: Column[Any], value: Any) -> ColumnElement[bool]:
    # One array parameter: IN (...) would be another statement for every number of values.
    return column == any_(bindparam(None, value, type_=ARRAY(column.type), unique=True))


def _contains(field: Field, column: Column[Any], value: Any) -> ColumnElement[bool]:
    if field.kind == "json":
        return column.op("@>", is_comparison=True)(bindparam(None, value, type_=column.type, unique=True))
    return column.icontains(value, autoescape=True)


_SQL: dict[Operator, Callable[[Field, Column[Any], Any], ColumnElement[bool]]] = {
    "eq": lambda _field, column, value: column == value,
    "ne": _not_equal,
    "lt": lambda _field, column, value: column < value,
    "lte": lambda _field, column, value: column <= value,
    "gt": lambda _field, column, value: column > value,
    "gte": lambda _field, column, value: column >= value,
    "in": _among,
    "is_null": _is_null,
    "contains": _contains,
    "starts_with": lambda _field, column, value: column.startswith(value, autoescape=True),
}
