"""The entities: every table that the generic layer serves, generated from the columns and `storage.policy`.

Names are wire names: the table's (`agencyTasks`, `cf_tasks`) and the columns' (`dueDate`). `spec_of(Model)` is for code
that knows its table, `spec_named("agencyTasks")` for callers who send a name. A policy that names a column which does
not exist fails at import. Above it: `storage.entities`, `storage.entity_inputs`.
"""

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Table,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB, TSVECTOR
from sqlalchemy.sql.sqltypes import BigInteger
from sqlalchemy.types import TypeEngine

import storage.models  # noqa: F401  # pyright: ignore[reportUnusedImport] -- fills the metadata
from storage.base import Base
from storage.errors import FieldNotAllowedError, UnknownEntityError
from storage.ids import Prefix
from storage.policy import NOT_ENTITIES, POLICIES, Policy

Kind = Literal["integer", "decimal", "text", "boolean", "timestamp", "uuid", "json", "bytes", "search"]
"""What a column holds. `bytes` and `search` never leave the database."""

Operator = Literal["eq", "ne", "lt", "lte", "gt", "gte", "in", "is_null", "contains", "starts_with"]

Shape = Literal["any", "object", "list"]
"""What a json column holds at its top."""

_ORDERED: tuple[Operator, ...] = ("eq", "ne", "lt", "lte", "gt", "gte", "in", "is_null")
_NAMED: tuple[Operator, ...] = ("eq", "ne", "in", "is_null")
_OPERATORS: Mapping[Kind, tuple[Operator, ...]] = MappingProxyType(
    {
        "integer": _ORDERED,
        "decimal": _ORDERED,
        "timestamp": _ORDERED,
        "text": (*_NAMED, "contains", "starts_with"),
        "uuid": _NAMED,
        "boolean": ("eq", "ne", "is_null"),
        "json": ("contains", "is_null"),
        "bytes": (),
        "search": (),
    }
)

_ID_PREFIXES: Mapping[str, Prefix] = MappingProxyType(
    {
        "cf_swarms": "swm",
        "cf_agents": "agt",
        "cf_tasks": "tsk",
        "cf_task_assignments": "asg",
        "cf_memory_store": "mem",
        "cf_neural_patterns": "pat",
        "cf_session_history": "his",
    }
)
"""The tables whose keys we make."""

RowT = TypeVar("RowT", bound=Base)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column, as the entity layer sees it."""

    name: str
    column: Column[Any]
    kind: Kind
    operators: tuple[Operator, ...]
    """What it may be filtered by."""
    nullable: bool
    required: bool
    """A new row must name it: NOT NULL and without default."""
    choices: tuple[str, ...] = ()
    """The closed list of a text; empty: open."""
    max_length: int | None = None
    """Characters."""
    low: int | None = None
    high: int | None = None
    precision: int | None = None
    scale: int | None = None
    shape: Shape = "any"
    references: str | None = None
    """The table whose `id` it holds."""

    @property
    def sortable(self) -> bool:
        """Unlimited texts are not: a cursor carries the value that it stands at."""
        return self.kind not in {"json", "bytes", "search"} and (self.kind != "text" or self.max_length is not None)

    @property
    def groupable(self) -> bool:
        """Whether its values are names of groups rather than measurements."""
        return self.kind in {"integer", "boolean", "uuid"} or (self.kind == "text" and self.max_length is not None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EntitySpec(Generic[RowT]):
    """What the generic layer knows of one table."""

    model: type[RowT]
    table: Table
    name: str
    """The table's name."""
    label: str
    owner: Column[Any]
    key: tuple[Column[Any], ...]
    """The primary key. One column is the wire's `id`; two or more are joined by colons, as in `12:3`."""
    fields: Mapping[str, Field]
    """Every readable or writable column, in the table's order."""
    readable: tuple[str, ...]
    shown: tuple[str, ...]
    writable: tuple[str, ...]
    redacted: tuple[str, ...]
    search: Column[Any] | None
    """The full-text column."""
    creates: bool
    removes: bool
    id_prefix: Prefix | None
    """Not None: we make the key of a new row."""
    visible: ColumnElement[bool] | None
    """What a row must satisfy to exist for readers and writers."""

    @property
    def changes(self) -> bool:
        """Whether any column of a row may be changed."""
        return bool(self.writable)

    def field(self, name: str, use: Literal["readable", "writable", "sortable", "groupable"] = "readable") -> Field:
        """Return the column `name`.

        Raises:
            FieldNotAllowedError: it does not exist or not for this use; lists those that do.
        """
        legal = self.names(use)
        if name not in legal:
            raise FieldNotAllowedError(self.name, name[:80], use, legal)
        return self.fields[name]

    def names(self, use: Literal["readable", "writable", "sortable", "groupable"]) -> tuple[str, ...]:
        """Return the columns for this use, in the table's order."""
        match use:
            case "readable":
                return self.readable
            case "writable":
                return self.writable
            case "sortable":
                return tuple(name for name in self.readable if self.fields[name].sortable)
            case "groupable":
                return tuple(name for name in self.readable if self.fields[name].groupable)


def spec_of(model: type[RowT]) -> EntitySpec[RowT]:
    """Return the spec of a table that the code knows; a model that is no entity is a bug and raises KeyError."""
    # The registry is keyed by the class itself, so the type parameter is the key's.
    return typing.cast("EntitySpec[RowT]", _BY_MODEL[model])


def spec_named(name: str) -> EntitySpec[Any]:
    """Return the spec of the table `name`.

    Raises:
        UnknownEntityError: no entity has this name; lists all.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownEntityError(name[:80], _BY_NAME) from None


def all_specs() -> tuple[EntitySpec[Any], ...]:
    """Return every entity, by name."""
    return tuple(_BY_NAME.values())


def build_spec(model: type[RowT], policy: Policy) -> EntitySpec[RowT]:
    """Return what `policy` makes of the table of `model`.

    Raises:
        TypeError: the policy names a column that is not there, or opens one that must stay shut.
    """
    table = _table_of(model)
    shapes = _json_shapes(model)
    fields = {column.name: _field(column, shapes) for column in table.columns}
    owner = model.owner_column
    if owner is None:
        raise TypeError(f"{table.name} has no owner, so it cannot be an entity")
    _check_policy(table, policy, fields, owner)
    readable = tuple(
        name for name, field in fields.items() if field.kind not in {"bytes", "search"} and name not in policy.redacted
    )
    search = [field.column for field in fields.values() if field.kind == "search"]
    return EntitySpec(
        model=model,
        table=table,
        name=table.name,
        label=policy.label,
        owner=table.columns[owner],
        key=tuple(table.primary_key.columns),
        fields=MappingProxyType({name: field for name, field in fields.items() if name in readable}),
        readable=readable,
        shown=policy.shown,
        writable=tuple(name for name in fields if name in policy.writable),
        redacted=tuple(name for name in fields if name in policy.redacted),
        search=search[0] if search else None,
        creates=policy.creates,
        removes=policy.removes,
        id_prefix=_ID_PREFIXES.get(table.name),
        visible=policy.visible(table) if policy.visible else None,
    )


def _table_of(model: type[Base]) -> Table:
    # `__table__` is typed as any FromClause, because a model might map a join; ours map tables.
    return typing.cast("Table", model.__table__)


def _check_policy(table: Table, policy: Policy, fields: Mapping[str, Field], owner: str) -> None:
    """Fail at import on a line that says something impossible."""
    named = {policy.label, *policy.shown, *policy.writable, *policy.redacted}
    if unknown := sorted(named - fields.keys()):
        raise TypeError(f"the policy of {table.name} names columns that do not exist: {', '.join(unknown)}")
    shut = {owner, *table.primary_key.columns.keys(), *policy.redacted}
    shut |= {name for name, field in fields.items() if field.kind in {"bytes", "search"}}
    needed = {policy.label, *policy.shown, *table.primary_key.columns.keys()}
    opened = (shut & set(policy.writable)) | (set(policy.redacted) & needed)
    if opened:
        raise TypeError(f"the policy of {table.name} opens keys, owners or secrets: {', '.join(sorted(opened))}")
    required = {name for name, field in fields.items() if field.required} - {owner, *table.primary_key.columns.keys()}
    if policy.creates and (missing := sorted(required - set(policy.writable))):
        raise TypeError(f"rows of {table.name} cannot be created without: {', '.join(missing)}")


def _field(column: Column[Any], shapes: Mapping[str, Shape]) -> Field:
    kind = _kind(column.type)
    choices = _choices(column)
    length = column.type.length if isinstance(column.type, String) else None
    low, high = _range(column.type)
    numeric = column.type if isinstance(column.type, Numeric) else None
    generated = column.server_default is not None or column.identity is not None or column.computed is not None
    return Field(
        name=column.name,
        column=column,
        kind=kind,
        operators=_operators(kind, column, choices),
        nullable=bool(column.nullable),
        required=not (column.nullable or generated),
        choices=choices,
        max_length=length,
        low=low,
        high=high,
        precision=numeric.precision if numeric is not None else None,
        scale=numeric.scale if numeric is not None else None,
        shape=shapes.get(column.name, "any"),
        references=_referenced(column),
    )


def _kind(type_: TypeEngine[Any]) -> Kind:
    kinds: tuple[tuple[type[TypeEngine[Any]], Kind], ...] = (
        (Boolean, "boolean"),
        (Integer, "integer"),
        (Numeric, "decimal"),
        (DateTime, "timestamp"),
        (Uuid, "uuid"),
        (LargeBinary, "bytes"),
        (TSVECTOR, "search"),
        (JSON, "json"),
        (String, "text"),
    )
    for sql_type, kind in kinds:
        if isinstance(type_, sql_type):
            return kind
    raise TypeError(f"the entity layer has no kind for the column type {type_!r}")


def _operators(kind: Kind, column: Column[Any], choices: tuple[str, ...]) -> tuple[Operator, ...]:
    if choices:
        return _NAMED
    if kind == "json" and not isinstance(column.type, JSONB):
        return ("is_null",)  # plain json knows no containment, and a cast would read the whole table
    return _OPERATORS[kind]


def _range(type_: TypeEngine[Any]) -> tuple[int | None, int | None]:
    if not isinstance(type_, Integer):
        return None, None
    bits = 16 if isinstance(type_, SmallInteger) else 64 if isinstance(type_, BigInteger) else 32
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _choices(column: Column[Any]) -> tuple[str, ...]:
    """Return the closed list that the column's CHECK holds it to: what the database accepts, in its words."""
    for constraint in column.table.constraints:
        if isinstance(constraint, CheckConstraint):
            found = re.fullmatch(rf"\"{re.escape(column.name)}\" IN \((.*)\)", str(constraint.sqltext))
            if found:
                return tuple(re.findall(r"'([^']*)'", found[1]))
    return ()


def _referenced(column: Column[Any]) -> str | None:
    """Return the table whose id the column holds; the owner's part of a composite key does not count."""
    targets = {key.column.table.name for key in column.foreign_keys if key.column.name == "id"}
    return targets.pop() if len(targets) == 1 else None


def _json_shapes(model: type[Base]) -> dict[str, Shape]:
    """Return column → what its annotation (`Mapped[JsonObject]`) promises of a json column."""
    hints = typing.get_type_hints(model)
    return {
        name: shape for attribute, name in _column_names(model) if (shape := _shape(hints.get(attribute))) is not None
    }


def _column_names(model: type[Base]) -> Iterator[tuple[str, str]]:
    for attribute in model.__mapper__.column_attrs:
        yield attribute.key, attribute.columns[0].name


def _shape(hint: object) -> Shape | None:
    inner = get_args(hint)
    origin = get_origin(inner[0]) if inner else None
    return "object" if origin is dict else "list" if origin is list else None


def _build_all() -> dict[type[Base], EntitySpec[Any]]:
    models: dict[str, type[Base]] = {}
    for mapper in Base.registry.mappers:
        models[_table_of(mapper.class_).name] = mapper.class_
    if unknown := sorted({*POLICIES, *NOT_ENTITIES} - models.keys()):
        raise TypeError(f"policies for tables that do not exist: {', '.join(unknown)}")
    return {models[name]: build_spec(models[name], policy) for name, policy in sorted(POLICIES.items())}


_BY_MODEL: Mapping[type[Base], EntitySpec[Any]] = MappingProxyType(_build_all())
_BY_NAME: Mapping[str, EntitySpec[Any]] = MappingProxyType({spec.name: spec for spec in _BY_MODEL.values()})
