"""Which tools the provider can hold a model to: `strict` compiles their schemas into a grammar. Pure.

Only part of JSON Schema compiles, and only so much of it per request; beyond that the API refuses the whole request
(https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations). What does not
qualify is sent without the mark: our own check of arguments knows every keyword, and stays in either case.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from runtime.ports import Json, ToolSpec

MAX_TOOLS, MAX_OPTIONAL, MAX_UNIONS = 20, 24, 16
"""What one request may hold: strict tools, and over all of them optional parameters and parameters with a union."""

_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"},
)
_ANYWHERE = frozenset({"title", "description", "default", "$defs"})
_PER_TYPE = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems"}),
    "string": frozenset({"format"}),
    "integer": frozenset[str](),
    "number": frozenset[str](),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}


class _UnsuitableError(Exception):
    """The schema has something that does not compile."""


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a schema takes of a request's allowance."""

    optional: int = 0
    unions: int = 0

    def __add__(self, other: "_Cost") -> "_Cost":
        return _Cost(self.optional + other.optional, self.unions + other.unions)


def strict_tools(specs: Sequence[ToolSpec]) -> frozenset[str]:
    """Return the names of the tools to mark: those that qualify, in their order, as long as the allowance lasts."""
    chosen: list[str] = []
    spent = _Cost()
    for spec in specs:
        cost = _cost_of(spec)
        if cost is None or len(chosen) == MAX_TOOLS:
            continue
        total = spent + cost
        if total.optional <= MAX_OPTIONAL and total.unions <= MAX_UNIONS:
            chosen.append(spec.name)
            spent = total
    return frozenset(chosen)


def _cost_of(spec: ToolSpec) -> _Cost | None:
    """Return what the tool's schema costs; None when it does not qualify."""
    if spec.api_type is not None or spec.input_schema.get("type") != "object":
        return None
    try:
        return sum(_Walk(spec.input_schema).costs(spec.input_schema, ()), start=_Cost())
    except _UnsuitableError:
        return None


class _Walk:
    """Goes through one schema; a definition counts every time it is used."""

    def __init__(self, root: Json) -> None:
        self._definitions = cast("Json", root.get("$defs", {}))  # JSON Schema says so

    def costs(self, schema: Any, inside: tuple[str, ...]) -> Iterator[_Cost]:
        """Yield what each part costs; `inside` names the definitions around it.

        Raises:
            _UnsuitableError: something in it does not compile.
        """
        match schema:
            case {"$ref": str(reference)}:
                yield from self._referred(schema, reference, inside)
            case {"anyOf": [*variants]}:
                _require(schema.keys() <= _ANYWHERE | {"anyOf"})
                yield _Cost(unions=1)
                for variant in variants:
                    yield from self.costs(variant, inside)
            case {"enum": [*values]}:
                _require(schema.keys() <= _ANYWHERE | {"enum", "type"} and all(map(_is_plain, values)))
            case {"const": value}:
                _require(schema.keys() <= _ANYWHERE | {"const", "type"} and _is_plain(value))
            case {"type": str(kind)}:
                _require(kind in _PER_TYPE and schema.keys() <= _ANYWHERE | {"type"} | _PER_TYPE[kind])
                yield from self._of_type(kind, schema, inside)
            case _:
                # Without a type, or with several in a list.
                raise _UnsuitableError

    def _referred(self, schema: Json, reference: str, inside: tuple[str, ...]) -> Iterator[_Cost]:
        name = reference.removeprefix("#/$defs/")
        _require(len(schema) == 1 and name in self._definitions and name not in inside)
        yield from self.costs(self._definitions[name], (*inside, name))

    def _of_type(self, kind: str, schema: Json, inside: tuple[str, ...]) -> Iterator[_Cost]:
        match kind:
            case "object":
                _require(schema.get("additionalProperties") is False)
                properties = cast("Json", schema.get("properties", {}))  # JSON Schema says so
                yield _Cost(optional=len(properties.keys() - set(schema.get("required", ()))))
                for part in properties.values():
                    yield from self.costs(part, inside)
            case "array":
                _require("items" in schema and schema.get("minItems", 0) in (0, 1))
                yield from self.costs(schema["items"], inside)
            case "string":
                _require(schema.get("format") is None or schema["format"] in _FORMATS)
            case _:
                pass


def _require(holds: bool) -> None:  # noqa: FBT001 -- reads as the sentence it is
    if not holds:
        raise _UnsuitableError


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
