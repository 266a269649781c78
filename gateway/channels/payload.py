"""Strict reading of what strangers send: what passes here can be stored in Postgres and handed on as plain values."""

import json
import math

from pydantic import JsonValue

from gateway.channels.errors import PoisonError

MAX_DEPTH = 64
"""Deepest nesting of a JSON body. The object itself is level 1."""
MAX_ADDRESS_CHARS = 255
"""Width of the columns that hold senders, recipients and participants."""


def parse_object(raw_body: bytes) -> dict[str, JsonValue]:
    r"""Parse a JSON object that jsonb can hold.

    Raises:
        PoisonError: bad UTF-8, bad JSON, not an object, `\u0000`, a lone surrogate, NaN, Infinity or a number beyond a
            double, or nested too deeply.
    """
    payload = _parse_json(_decode(raw_body))
    if not isinstance(payload, dict):
        raise PoisonError("not_an_object", f"the body is a JSON {type(payload).__name__}; expected an object")
    _refuse_unstorable(payload)
    return payload


def text_field(data: dict[str, JsonValue], name: str, *, max_chars: int | None = None) -> str:
    """Return a text of a payload; '' when it is absent or null.

    Raises:
        PoisonError: another type, or longer than `max_chars`.
    """
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PoisonError("field", f"{name!r} is a {type(value).__name__}; expected a string")
    if max_chars is not None and len(value) > max_chars:
        raise PoisonError("field", f"{name!r} has {len(value)} characters; at most {max_chars} are allowed")
    return value


def address_field(data: dict[str, JsonValue], name: str) -> str:
    """Return who a message is from or to, without surrounding blanks.

    Raises:
        PoisonError: another type, or longer than 255 characters.
    """
    return text_field(data, name, max_chars=MAX_ADDRESS_CHARS).strip()


def _decode(raw_body: bytes) -> str:
    try:
        return raw_body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PoisonError("not_utf8", f"the body is not UTF-8: bad byte at offset {error.start}") from None


def _parse_json(text: str) -> JsonValue:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise PoisonError("not_json", f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # Python refuses integers of more than 4300 digits
        raise PoisonError("number", "the body holds a number with too many digits") from None
    except RecursionError:
        raise _too_deep() from None


def _refuse_unstorable(payload: JsonValue) -> None:
    """Walk without recursion: the depth is the sender's choice."""
    rest: list[tuple[JsonValue, int]] = [(payload, 1)]
    while rest:
        value, depth = rest.pop()
        match value:
            case str():
                _refuse_text(value)
            case float() if not math.isfinite(value):
                # Python reads NaN and Infinity, which are no JSON, and turns 1e400 into the latter.
                raise PoisonError("number", "the body holds NaN, Infinity or a number beyond the range of a double")
            case dict() | list() if depth > MAX_DEPTH:
                raise _too_deep()
            case dict():
                rest.extend((key, depth) for key in value)
                rest.extend((item, depth + 1) for item in value.values())
            case list():
                rest.extend((item, depth + 1) for item in value)
            case _:
                pass


def _refuse_text(text: str) -> None:
    if "\0" in text:
        raise PoisonError("nul", "the body holds a NUL character, which Postgres cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PoisonError("surrogate", "the body holds half of a surrogate pair") from None


def _too_deep() -> PoisonError:
    return PoisonError("too_deep", f"the body is nested more than {MAX_DEPTH} levels deep")
