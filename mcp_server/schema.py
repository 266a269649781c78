"""JSON schemas as a client reads them: every byte of `tools/list` is in every prompt, so what says nothing goes."""

from typing import Any, cast

Schema = dict[str, Any]

_NULL = {"type": "null"}

_SILENT = frozenset({"title", "$defs", "maxLength", "minLength"})
"""Keywords that help no caller: lengths are checked all the same, and the refusal names them."""


def input_schema(schema: Schema) -> Schema:
    """Return the schema of a tool's arguments without titles, references and "or null".

    Null is still accepted; not mentioning it is how a client leaves an argument out.
    """
    compact = _compact(schema, schema.get("$defs", {}))
    for described in compact["properties"].values():
        _drop_null(described)
    return compact | {"additionalProperties": False}


def output_schema(schema: Schema) -> Schema:
    """Return the schema of a tool's result without titles and references; clients validate results against it.

    That every property is there goes without saying.
    """
    compact = _compact(schema, schema.get("$defs", {}))
    properties: Schema = compact["properties"]
    for described in properties.values():
        _join_null(described)
    return {"type": "object", "properties": properties}


def _compact(node: Any, definitions: Schema) -> Any:
    """Inline references and drop what says nothing; the keys of `properties` are names, not keywords."""
    if isinstance(node, list):
        return [_compact(item, definitions) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    schema = cast("Schema", node)
    if reference := schema.get("$ref"):
        target = {"description": None} | definitions[reference.rpartition("/")[2]]
        # The docstring of a model is for us.
        del target["description"]
        return _compact(target | {key: value for key, value in schema.items() if key != "$ref"}, definitions)
    return {
        key: {name: _compact(value, definitions) for name, value in child.items()}
        if key == "properties"
        else _compact(child, definitions)
        for key, child in schema.items()
        if key not in _SILENT and not _says_nothing(key, child)
    }


def _says_nothing(key: str, value: Any) -> bool:
    return (key == "default" and value in (None, [])) or (key == "additionalProperties" and value is True)


def _alternatives(schema: Schema) -> list[Schema]:
    return [arm for arm in schema.get("anyOf", []) if arm != _NULL]


def _drop_null(schema: Schema) -> None:
    """Turn `anyOf: [X, null], default: null` into X."""
    if _NULL not in schema.get("anyOf", []):
        return
    arms = _alternatives(schema)
    del schema["anyOf"]
    schema.update(arms[0] if len(arms) == 1 else {"anyOf": arms})


def _join_null(schema: Schema) -> None:
    """Turn `anyOf: [{type: X}, null]` into `type: [X, null]`, which says the same."""
    arms = _alternatives(schema)
    if len(arms) == 1 and arms[0].keys() == {"type"}:
        del schema["anyOf"]
        schema["type"] = [arms[0]["type"], "null"]
