"""A row as callers see it: a dict of wire names and JSON values, `id` first and `_version` last.

Above it: `storage.entities`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, column

from storage.registry import EntitySpec
from storage.values import converter

VERSION = "_version"
"""The wire's name of a row's version; no column of ours begins with an underscore."""


def version_of(spec: EntitySpec[Any]) -> ColumnElement[str]:
    """Return the row's version: opaque, another one after every transaction that changed the row."""
    return cast(column("xmin", _selectable=spec.table), Text)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """What to select for a choice of fields, and how to turn the row into a dict."""

    columns: tuple[ColumnElement[Any], ...]
    """The key, the fields, the version; anything selected behind them is ignored."""
    names: tuple[str, ...]
    converters: tuple[tuple[int, Callable[[Any], Any]], ...]
    key_width: int

    def render(self, row: Sequence[Any]) -> dict[str, Any]:
        """Return the row as JSON values."""
        values = list(row)
        for at, convert in self.converters:
            if values[at] is not None:
                values[at] = convert(values[at])
        if self.key_width > 1:
            values[: self.key_width] = [":".join(str(part) for part in values[: self.key_width])]
        return dict(zip(self.names, values, strict=False))


def fields_of(spec: EntitySpec[Any], fields: Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns asked for; None: `default`.

    Raises:
        FieldNotAllowedError: one of them is not readable; lists those that are.
    """
    if fields is None:
        return default
    asked = (name for name in fields if name not in {"id", VERSION})
    return tuple(dict.fromkeys(spec.field(name).name for name in asked))


@lru_cache(maxsize=1024)
def view_of(spec: EntitySpec[Any], fields: tuple[str, ...]) -> View:
    """Return the view with these columns."""
    key = tuple(spec.fields[part.name] for part in spec.key)
    # A key of one column is the wire's `id` already.
    rest = [spec.fields[name] for name in fields if len(key) > 1 or name != "id"]
    selected = [*key, *rest]
    return View(
        columns=(*(field.column for field in selected), version_of(spec).label(VERSION)),
        names=("id", *(field.name for field in rest), VERSION),
        converters=tuple((at, convert) for at, field in enumerate(selected) if (convert := converter(field))),
        key_width=len(key),
    )
