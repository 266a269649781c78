"""Definitions of tools that come from other MCP servers: how one is pinned, compared, named and refused.

Everything here comes from outside, and a model will read it: what a person could not see or did not accept stays out.
Pure; `mcp_connections` fetches definitions, `mcp_servers` keeps the pins.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from runtime.ports import Json
from runtime.services.mcp_schema import schema_problem
from storage.errors import InvalidValueError
from storage.values import check_json

LONGEST_DESCRIPTION = 4000
"""Characters of a description that a model reads; more would be instructions rather than a description."""

LARGEST_SCHEMA = 32 * 1024
"""Characters of an input schema as JSON; every request of an agent that has the tool carries them."""

LONGEST_TOOL_NAME = 200

_MODEL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""https://platform.claude.com/docs/en/agents-and-tools/tool-use/implement-tool-use#specifying-client-tools"""
_PROPERTY_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_SHORTENED = re.compile(r"--[0-9a-f]{12}")
_UNSEEN = {"Cc", "Cf", "Co", "Cn", "Cs"}
"""Unicode categories of control, format, private and unassigned characters."""
_SEEN_ANYWAY = {"\n", "\t", "\u200c", "\u200d"}
"""Lines, and the joiners that Persian, Hindi and emoji are written with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A tool as its server describes it; nothing in it is checked."""

    name: str
    description: str
    input_schema: Json
    annotations: Json
    """Under the names of the protocol: readOnlyHint, idempotentHint, destructiveHint, openWorldHint, title."""


class Pin(BaseModel):
    """A definition as a person accepted it: an entry of `mcpServers.pins`, under the tool's name."""

    model_config = ConfigDict(frozen=True)

    hash: str
    """`hash_of` what the server said, before anything was taken out of it."""
    description: str
    """Without characters that a person cannot see, and of limited length."""
    input_schema: Json = Field(alias="inputSchema")
    annotations: Json = Field(default_factory=dict[str, Any])
    read_only: bool = Field(default=False, alias="readOnly")

    @property
    def may_repeat(self) -> bool:
        """Whether the server promised that a second call under the same arguments changes nothing."""
        return self.read_only or self.annotations.get("idempotentHint") is True


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a server has: tools that can be given to an agent, and why others cannot."""

    pins: Mapping[str, Pin]
    left_out: Mapping[str, str]
    """The reason, by the tool's name as it can be shown."""


def canonical(value: object) -> str:
    """Return JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def hash_of(definition: Definition) -> str:
    """Return the SHA-256, hexadecimal, of everything that makes a tool what it is."""
    whole = {
        "name": definition.name,
        "description": definition.description,
        "inputSchema": definition.input_schema,
        "annotations": definition.annotations,
    }
    return hashlib.sha256(canonical(whole).encode()).hexdigest()


def pin_of(definition: Definition) -> Pin:
    """Return the definition as it is kept and shown."""
    return Pin(
        hash=hash_of(definition),
        description=clean(definition.description, LONGEST_DESCRIPTION),
        inputSchema=definition.input_schema,
        annotations=definition.annotations,
        readOnly=definition.annotations.get("readOnlyHint") is True,
    )


def offer_of(server: str, definitions: Iterable[Definition]) -> Offer:
    """Return the pins of what can be given to an agent, and the reasons why the others cannot."""
    pins: dict[str, Pin] = {}
    left_out: dict[str, str] = {}
    taken: set[str] = set()
    for definition in definitions:
        problem = unusable_because(definition)
        name = model_name(server, definition.name)
        if problem is None and name in taken:
            pins.pop(definition.name, None)  # which of the two a call would reach is the server's secret
            problem = "the server has two tools of that name"
        taken.add(name)
        if problem is None:
            pins[definition.name] = pin_of(definition)
        else:
            left_out[clean(definition.name, LONGEST_TOOL_NAME)] = problem
    return Offer(pins=pins, left_out=left_out)


def changed_fields(pin: Pin, definition: Definition) -> list[str]:
    """Return which fields of a tool differ from what was accepted; none when the hashes are equal."""
    if hash_of(definition) == pin.hash:
        return []
    now = pin_of(definition)
    pairs = {
        "description": (pin.description, now.description),
        "inputSchema": (pin.input_schema, now.input_schema),
        "annotations": (pin.annotations, now.annotations),
    }
    # What is cut from a description is part of the hash, but not of what is kept.
    return [name for name, (was, now) in pairs.items() if canonical(was) != canonical(now)] or ["description"]


def model_name(server: str, tool: str) -> str:
    """Return the name under which a model knows a tool: `server__tool`, or a shortened one that ends in a hash.

    A server's name holds no `__` and is at most 32 characters long (`mcp_servers.check_name`), so that no two tools of
    two servers share a name. A plain name never looks like a shortened one.
    """
    plain = f"{server}__{tool}"
    if _MODEL_NAME.fullmatch(plain) and not _SHORTENED.search(tool[-14:]):
        return plain
    digest = hashlib.sha256(tool.encode(errors="surrogatepass")).hexdigest()[:12]
    readable = re.sub(r"[^a-zA-Z0-9_-]+", "_", tool)
    return f"{server}__{readable}"[: 64 - 14] + f"--{digest}"


def unusable_because(definition: Definition) -> str | None:
    """Return why a tool cannot be given to an agent; None when it can."""
    if not definition.name or len(definition.name) > LONGEST_TOOL_NAME or _has_unseen([definition.name]):
        return f"its name is empty, longer than {LONGEST_TOOL_NAME} characters, or holds what cannot be seen"
    try:
        check_json(definition.input_schema, "its input schema")
        check_json(definition.annotations, "its annotations")
    except InvalidValueError as error:
        return str(error)
    if len(canonical(definition.input_schema)) > LARGEST_SCHEMA:
        return f"its input schema is longer than {LARGEST_SCHEMA:,} characters"
    if len(canonical(definition.annotations)) > LONGEST_DESCRIPTION:
        return f"its annotations are longer than {LONGEST_DESCRIPTION:,} characters"
    if _has_unseen(_texts(definition.input_schema)):
        return "its input schema holds characters that a person cannot see and a model can"
    return _api_problem(definition.input_schema) or schema_problem(definition.input_schema)


def clean(text: str, longest: int) -> str:
    """Return a text from outside without characters that cannot be seen, cut to `longest` characters."""
    seen = "".join(character for character in text if not _is_unseen(character))
    return seen if len(seen) <= longest else seen[: longest - 1] + "…"


def _api_problem(schema: Json) -> str | None:
    """Return why the Messages API would refuse a request with this schema, and so the whole agent."""
    if schema.get("type") != "object":
        return "its input schema is not of type 'object'"
    combined = [keyword for keyword in ("oneOf", "anyOf", "allOf") if keyword in schema]
    if combined:
        return f"its input schema has {combined[0]!r} at the top, which the Messages API refuses"
    properties = schema.get("properties", {})
    if isinstance(properties, dict):
        for name in cast("Json", properties):
            if not _PROPERTY_NAME.fullmatch(name):
                return f"the Messages API refuses the property name {name[:80]!r}"
    return None


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN and character not in _SEEN_ANYWAY


def _has_unseen(texts: Iterable[str]) -> bool:
    return any(_is_unseen(character) for text in texts for character in text)


def _texts(value: object) -> Iterator[str]:
    """Yield every text of a JSON value, keys included."""
    match value:
        case str():
            yield value
        case dict():
            for key, item in cast("Json", value).items():
                yield key
                yield from _texts(item)
        case list():
            for item in cast("list[object]", value):
                yield from _texts(item)
        case _:
            return
