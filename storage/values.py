"""Values at the edge of the entity layer: what a caller sends becomes what a column holds, and back.

In: JSON values (and their Python equivalents: datetime, Decimal, UUID), checked so strictly that Postgres has nothing
left to refuse. Out: JSON values; times are ISO 8601 in UTC with `Z`, decimals and uuids are strings (floats round).
Above it: `storage.filters`, `storage.entities`.
"""

import math
import re
import reprlib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, cast
from uuid import UUID

from sqlalchemy.dialects.postgresql import JSONB

from storage.errors import InvalidValueError
from storage.registry import Field, Kind

MAX_JSON_DEPTH = 64
BIGINT = 2**63 - 1
_DECIMAL_DIGITS = 100
"""Of a decimal column without precision, on either side of the point; Postgres itself takes 131,072."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""NUL, which Postgres text cannot hold, and lone surrogates, which UTF-8 cannot."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def stored(field: Field, value: object, where: str) -> Any:
    """Return `value` as the column takes it; `where` names it in errors.

    Raises:
        InvalidValueError: of another type, outside the range or the closed list, or not storable at all.
    """
    if value is None:
        if not field.nullable:
            raise InvalidValueError(where, "must not be null")
        return None
    parsed = operand(field, value, where)
    if field.max_length is not None and len(parsed) > field.max_length:
        raise InvalidValueError(where, f"is {len(parsed)} characters long; at most {field.max_length} fit")
    if isinstance(parsed, Decimal):
        _check_precision(field, parsed, where)
    if field.kind == "json":
        _check_shape(field, parsed, where)
    return parsed


def operand(field: Field, value: object, where: str) -> Any:
    """Return `value` as it can be compared with the column: like `stored`, but longer or finer than what fits.

    Raises:
        InvalidValueError: of another type, or outside the range or the closed list.
    """
    parse = _PARSERS.get(field.kind)
    if parse is None:
        raise InvalidValueError(where, f"a {field.kind} column takes no value")
    return parse(field, value, where)


def check_text(text: str, where: str) -> str:
    """Return `text`.

    Raises:
        InvalidValueError: it holds NUL or a lone surrogate.
    """
    found = _UNSTORABLE.search(text)
    if found is not None:
        character = f"U+{ord(found[0]):04X}"
        raise InvalidValueError(where, f"holds {character} at position {found.start()}, which cannot be stored")
    return text


def check_json(value: object, where: str, depth: int = 1) -> None:
    """Raise InvalidValueError unless `value` comes back from a jsonb column as it is."""
    if depth > MAX_JSON_DEPTH:
        raise InvalidValueError(where[:200], f"is nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, dict):
        for key, item in cast("dict[object, object]", value).items():
            check_json(item, f"{where}.{_json_key(key, where)}", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            check_json(item, f"{where}[{index}]", depth + 1)
    else:
        _check_json_scalar(value, where)


def _check_json_scalar(value: object, where: str) -> None:
    match value:
        case None | bool():
            return
        case str():
            check_text(value, where)
        case int():
            if not -BIGINT - 1 <= value <= BIGINT:
                raise InvalidValueError(where, "is an integer beyond 64 bits; send it as a string")
        case float():
            if not math.isfinite(value):
                raise InvalidValueError(where, f"is {value}, which JSON does not know; send null or a string")
        case _:
            raise InvalidValueError(where, f"is {shown(value)}, not a JSON value")


def converter(field: Field) -> Callable[[Any], Any] | None:
    """Return what makes the column's values JSON values; None: they are already."""
    if field.kind == "json" and not isinstance(field.column.type, JSONB):
        return _whole_text
    return _CONVERTERS.get(field.kind)


def instant(value: datetime) -> str:
    """Return the time as ISO 8601 in UTC: `2026-11-20T09:00:00Z`."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def shown(value: object) -> str:
    """Return a short word for a value that was refused."""
    match value:
        case int() if value.bit_length() > 128:
            return f"an integer of {value.bit_length()} bits"
        case None | bool() | int() | float() | str():
            return reprlib.repr(value)
        case dict():
            return "an object"
        case list() | tuple() | set():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def _json_key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise InvalidValueError(where, f"has the key {shown(key)}; keys of a JSON object are strings")
    return check_text(key, f"{where} (a key)")[:80]


def _integer(field: Field, value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValueError(where, f"expects an integer such as 12, got {shown(value)}")
    low, high = field.low, field.high
    if low is not None and high is not None and not low <= value <= high:
        raise InvalidValueError(where, f"expects an integer from {low} to {high}, got {shown(value)}")
    return value


def _decimal(_field: Field, value: object, where: str) -> Decimal:
    wrong = InvalidValueError(where, f'expects a decimal such as 0.75 or "0.75", got {shown(value)}')
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise wrong
    if isinstance(value, int) and value.bit_length() > 400:
        raise wrong  # turning it into decimal digits is quadratic, and it has more than 100 of them anyway
    if isinstance(value, str) and len(value) > 2 * _DECIMAL_DIGITS:
        raise wrong
    try:
        # A float is meant as it prints: 0.1 is a tenth.
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        raise wrong from None
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or number.adjusted() >= _DECIMAL_DIGITS or exponent < -_DECIMAL_DIGITS:
        raise wrong
    return number


def _text(field: Field, value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(where, f"expects a text, got {shown(value)}")
    if field.choices and value not in field.choices:
        raise InvalidValueError(where, f"is {shown(value)}; legal: {', '.join(field.choices)}")
    return check_text(value, where)


def _boolean(_field: Field, value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidValueError(where, f"expects true or false, got {shown(value)}")
    return value


def _timestamp(_field: Field, value: object, where: str) -> datetime:
    expected = f"expects a time with its zone such as 2026-11-20T09:00:00Z, got {shown(value)}"
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(cast("str", value))
    except (TypeError, ValueError):
        raise InvalidValueError(where, expected) from None
    if time.tzinfo is None:
        raise InvalidValueError(where, expected)
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidValueError(where, expected) from None


def _uuid(_field: Field, value: object, where: str) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(cast("str", value))
    except (AttributeError, TypeError, ValueError):
        raise InvalidValueError(where, f"expects a UUID, got {shown(value)}") from None


def _json(_field: Field, value: object, where: str) -> object:
    check_json(value, where)
    return value


def _check_precision(field: Field, number: Decimal, where: str) -> None:
    """Refuse what Postgres would round or overflow."""
    if field.precision is None or field.scale is None:
        return
    whole = field.precision - field.scale
    exponent = number.normalize().as_tuple().exponent
    if number and (number.adjusted() >= whole or (isinstance(exponent, int) and exponent < -field.scale)):
        raise InvalidValueError(
            where, f"expects at most {whole} digits before the point and {field.scale} after it, got {number}"
        )


def _check_shape(field: Field, value: object, where: str) -> None:
    wanted = {"object": dict, "list": list}.get(field.shape)
    if wanted is not None and not isinstance(value, wanted):
        kind = {"object": "a JSON object", "list": "a JSON array"}[field.shape]
        raise InvalidValueError(where, f"expects {kind}, got {shown(value)}")


def _whole_text(value: Any) -> Any:
    r"""Replace lone surrogates, which plain json (unlike jsonb) keeps as `\ud800` and no encoder of UTF-8 takes."""
    match value:
        case str():
            return _SURROGATE.sub("\ufffd", value)
        case dict():
            pairs = cast("dict[str, Any]", value).items()
            return {_whole_text(key): _whole_text(item) for key, item in pairs}
        case list():
            return [_whole_text(item) for item in cast("list[Any]", value)]
        case _:
            return value


def _plain_decimal(value: Decimal) -> str:
    return format(value, "f")


_PARSERS: dict[Kind, Callable[[Field, object, str], Any]] = {
    "integer": _integer,
    "decimal": _decimal,
    "text": _text,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "uuid": _uuid,
    "json": _json,
}

_CONVERTERS: dict[Kind, Callable[[Any], Any]] = {"decimal": _plain_decimal, "timestamp": instant, "uuid": str}
