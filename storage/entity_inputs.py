"""Input models of the generic writes, derived from the columns, so that they cannot drift.

They tell a caller, by their JSON schema, what may be sent; `EntityStore` checks the same again with its own words.
Dump them with `by_alias=True, exclude_unset=True`: what was not sent is not written. Above it: doors.
"""

import keyword
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, create_model

from storage.registry import EntitySpec
from storage.registry import Field as Column

_CONFIG = ConfigDict(extra="forbid", field_title_generator=lambda name, _: name)


@cache
def create_model_for(spec: EntitySpec[Any]) -> type[BaseModel]:
    """Return the model of a new row: its writable columns, required where the table has no value of its own."""
    return _model(f"{spec.name}_create", spec, lambda column: column.required)


@cache
def patch_model_for(spec: EntitySpec[Any]) -> type[BaseModel]:
    """Return the model of a change: its writable columns, all of them optional."""
    return _model(f"{spec.name}_patch", spec, lambda _: False)


def _model(name: str, spec: EntitySpec[Any], required: Callable[[Column], bool]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for column_name in spec.writable:
        column = spec.fields[column_name]
        options: dict[str, Any] = {"alias": column_name}
        if column.references:
            options["description"] = f"Id of a {column.references} row."
        if not required(column):
            # The default is only what an unsent field reads as; the schema does not promise it.
            options |= {"default": None, "json_schema_extra": _no_default}
        fields[_attribute(column_name)] = (_annotation(column), Field(**options))
    return create_model(name, __config__=_CONFIG, __doc__=f"Columns of {spec.name}.", **fields)


def _attribute(name: str) -> str:
    """Return the column's name, or another one where Python or pydantic has taken it."""
    taken = keyword.iskeyword(name) or hasattr(BaseModel, name) or name.startswith("_")
    return f"{name.strip('_')}_" if taken else name


def _no_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def _annotation(column: Column) -> Any:
    bare = _bare(column)
    return bare | None if column.nullable else bare


def _bare(column: Column) -> Any:
    match column.kind:
        case "integer":
            return Annotated[int, Field(strict=True, ge=column.low, le=column.high)]
        case "decimal":
            return Annotated[Decimal, Field(max_digits=column.precision, decimal_places=column.scale)]
        case "text":
            limited = Annotated[str, Field(strict=True, max_length=column.max_length)]
            return Literal[column.choices] if column.choices else limited
        case "json":
            return {"any": Any, "object": dict[str, Any], "list": list[Any]}[column.shape]
        case "boolean" | "timestamp" | "uuid":
            return {"boolean": StrictBool, "timestamp": AwareDatetime, "uuid": UUID}[column.kind]
        case "bytes" | "search":
            raise TypeError(f"{column.name} is not writable")
