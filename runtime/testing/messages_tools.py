"""What the Messages API refuses about tools, in the words of its 400s.

Three kinds: a client's own tool (`input_schema`), the same with `strict` (only part of JSON Schema, and only so much of
it), and the provider's own, by `type`, whose schema and description are not ours to send.
"""

import re
from collections.abc import Iterator
from typing import Any, cast

from runtime.ports import Json

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_OWN = {
    "bash_20250124": "bash",
    "memory_20250818": "memory",
    "text_editor_20250124": "str_replace_editor",
    "text_editor_20250429": "str_replace_based_edit_tool",
    "text_editor_20250728": "str_replace_based_edit_tool",
}
"""The provider's tools that run at the client, and the only name each may have."""
_OWN_FIELDS = frozenset(
    {"type", "name", "cache_control", "strict", "allowed_callers", "defer_loading", "input_examples", "max_characters"}
)
_CUSTOM_FIELDS = frozenset(
    {
        "allowed_callers",
        "cache_control",
        "defer_loading",
        "description",
        "eager_input_streaming",
        "input_examples",
        "input_schema",
        "name",
        "strict",
        "type",
    }
)

_COMMON = frozenset({"type", "title", "description", "default", "enum", "const", "anyOf", "allOf", "$ref", "$defs"})
_KEYWORDS = {
    "object": frozenset({"properties", "required", "additionalProperties", "definitions"}),
    "array": frozenset({"items", "minItems"}),
    "string": frozenset({"format", "pattern"}),
}
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"},
)
_MOST_TOOLS, _MOST_OPTIONAL, _MOST_UNIONS = 20, 24, 16


def tool_problems(tools: list[Json]) -> Iterator[str]:
    """Yield the message of every 400 that these tools deserve."""
    for index, tool in enumerate(tools):
        kind = tool.get("type", "custom")
        if kind == "custom":
            yield from _custom_problems(f"tools.{index}.custom", tool)
        elif kind in _OWN:
            yield from _own_problems(f"tools.{index}.{kind}", tool)
        else:
            known = ", ".join(map(repr, ["custom", *_OWN]))
            found = f"Input tag {kind!r} found using 'type'"
            yield f"tools.{index}: {found} does not match any of the expected tags: {known}"
    names = [tool["name"] for tool in tools]
    if len(set(names)) != len(names):
        yield "tools: Tool names must be unique."
    yield from _budget_problems([tool for tool in tools if tool.get("strict")])


def _own_problems(path: str, tool: Json) -> Iterator[str]:
    if tool.get("name") != _OWN[tool["type"]]:
        yield f"{path}.name: Input should be {_OWN[tool['type']]!r}"
    for name in sorted(tool.keys() - _OWN_FIELDS):
        yield f"{path}.{name}: Extra inputs are not permitted"


def _custom_problems(path: str, tool: Json) -> Iterator[str]:
    for name in sorted(tool.keys() - _CUSTOM_FIELDS):
        yield f"{path}.{name}: Extra inputs are not permitted"
    if not _NAME.fullmatch(tool.get("name", "")):
        yield f"{path}.name: String should match pattern '^{_NAME.pattern}$'"
    schema = tool.get("input_schema", {})
    if schema.get("type") != "object":
        yield f"{path}.input_schema.type: Input should be 'object'"
    if tool.get("strict"):
        for problem in _schema_problems(schema, schema, ()):
            yield f"{path}: {problem}"


def _schema_problems(schema: Json, root: Json, inside: tuple[str, ...]) -> Iterator[str]:
    """Yield what does not compile in a strict schema; `inside` is the way through `$ref`s."""
    if "$ref" in schema:
        yield from _reference_problems(schema["$ref"], root, inside)
        return
    kind = schema.get("type")
    if kind is None and not schema.keys() & {"anyOf", "allOf", "enum", "const"}:
        yield "Schema must have a 'type', 'anyOf', 'allOf', '$ref', 'enum' or 'const' field"
    unknown = sorted(schema.keys() - _COMMON - _KEYWORDS.get(str(kind), frozenset()))
    if unknown:
        yield f"For {kind!r} type, {_properties(unknown)} not supported"
    yield from _value_problems(schema, kind)
    for part in _parts(schema):
        yield from _schema_problems(part, root, inside)


def _value_problems(schema: Json, kind: Any) -> Iterator[str]:
    if kind == "object" and schema.get("additionalProperties") is not False:
        yield "For 'object' type, 'additionalProperties' must be explicitly set to false"
    if schema.get("minItems", 0) not in (0, 1):
        yield "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    if schema.get("format", "date") not in _FORMATS:
        yield f"String format {schema['format']!r} is not supported"
    if any(isinstance(value, dict | list) for value in schema.get("enum", ())):
        yield "Complex types in 'enum' are not supported"


def _reference_problems(reference: str, root: Json, inside: tuple[str, ...]) -> Iterator[str]:
    if reference in inside:
        way = " -> ".join(name.rpartition("/")[2] for name in (*inside, reference))
        yield f"Invalid schema: Circular reference detected in schema definitions: {way}."
        return
    found = _resolved(reference, root)
    if found is None:
        yield f"Invalid schema: cannot resolve {reference!r}"
    else:
        yield from _schema_problems(found, root, (*inside, reference))


def _resolved(reference: str, root: Json) -> Json | None:
    definitions = {**root.get("definitions", {}), **root.get("$defs", {})}
    return definitions.get(reference.removeprefix("#/$defs/").removeprefix("#/definitions/"))


def _parts(schema: Json) -> list[Json]:
    items = [schema["items"]] if "items" in schema else []
    return [*schema.get("properties", {}).values(), *items, *schema.get("anyOf", ()), *schema.get("allOf", ())]


def _properties(names: list[str]) -> str:
    return f"property '{names[0]}' is" if len(names) == 1 else f"properties {', '.join(names)} are"


def _budget_problems(tools: list[Json]) -> Iterator[str]:
    if len(tools) > _MOST_TOOLS:
        yield (
            f"Too many strict tools ({len(tools)}). The maximum number of strict tools supported is {_MOST_TOOLS}. Try "
            "reducing the number of tools marked as strict."
        )
    schemas = [found for tool in tools for found in _all_schemas(tool["input_schema"], tool["input_schema"])]
    optional = sum(len(schema.get("properties", {}).keys() - set(schema.get("required", ()))) for schema in schemas)
    if optional > _MOST_OPTIONAL:
        yield (
            f"Schemas contains too many optional parameters ({optional}), which would make grammar compilation "
            f"inefficient. Reduce the number of optional parameters in your tool schemas (limit: {_MOST_OPTIONAL})."
        )
    unions = sum("anyOf" in schema or isinstance(schema.get("type"), list) for schema in schemas)
    if unions > _MOST_UNIONS:
        yield (
            f"Schemas contains too many parameters with union types ({unions} parameters with type arrays or anyOf). "
            "This causes exponential compilation cost. Reduce the number of nullable or union-typed parameters "
            f"(limit: {_MOST_UNIONS} parameters with unions)."
        )


def _all_schemas(schema: Json, root: Json) -> Iterator[Json]:
    """Yield a schema and those inside it; a definition as often as it is used."""
    if "$ref" in schema:
        found = _resolved(cast("str", schema["$ref"]), root)  # JSON Schema says so
        yield from _all_schemas(found or {}, root)
        return
    yield schema
    for part in _parts(schema):
        yield from _all_schemas(part, root)
