"""Checks arguments against a JSON Schema that somebody else wrote, in bounded time.

A schema from outside may be made to hang whoever applies it: by a regular expression that backtracks for ever, by
references that multiply, by an address to fetch. Python's `re` cannot be interrupted, so patterns run in the engine of
pydantic, which is linear; what that engine does not know (look-around) is left to the server that owns the schema, as
are `patternProperties` and what depends on them.
"""

import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend, validator_for  # pyright: ignore[reportUnknownVariableType] -- untyped upstream
from pydantic import AfterValidator, BaseModel, RootModel
from pydantic import ValidationError as PydanticError
from pydantic_core import InitErrorDetails, PydanticCustomError, SchemaValidator, core_schema
from pydantic_core import SchemaError as PatternError
from pydantic_core import ValidationError as PatternMismatch
from referencing import Registry
from referencing.exceptions import Unresolvable

from runtime.ports import Json

MOST_CHECKS = 100_000
"""Keywords that are applied to one set of arguments; a tenth of a second, where honest schemas need some hundred."""

_MOST_PROBLEMS = 10
_LONGEST_PROBLEM = 300
"""Characters; the library quotes the whole value."""

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooCostlyError(Exception):
    """The schema asks for more checks than one set of arguments is worth."""


_left: ContextVar[list[int]] = ContextVar("checks_left")
"""One number: how many keywords may still be applied."""


def arguments_model(name: str, schema: Json) -> type[BaseModel]:
    """Return an input model that takes exactly what `schema` takes; its one field `root` is the object.

    The schema has passed `schema_problem`.
    """

    def check(arguments: Json) -> Json:
        problems = problems_of(schema, arguments)
        if problems:
            raise PydanticError.from_exception_data(name, problems)
        return arguments

    class Arguments(RootModel[Annotated[Json, AfterValidator(check)]]):
        """What the schema takes."""

    Arguments.__name__ = name
    return Arguments


def schema_problem(schema: Json) -> str | None:
    """Return why nothing can be checked against this schema; None when it can."""
    kind = _bounded(validator_for(schema, default=Draft202012Validator))
    try:
        kind.check_schema(schema, format_checker=None)
        problems_of(schema, {}, refuse=True)
    except SchemaError as error:
        return f"its input schema is no JSON Schema: {error.message[:_LONGEST_PROBLEM]}"
    except (_TooCostlyError, RecursionError, Unresolvable):
        return "its input schema refers to itself without end, or to what it does not hold"
    return None


def problems_of(schema: Json, arguments: Json, *, refuse: bool = False) -> list[InitErrorDetails]:
    """Return what is wrong with arguments, each with its path; at most ten. `refuse` raises when it cannot be said."""
    kind = _bounded(validator_for(schema, default=Draft202012Validator))
    # An empty registry: a reference is followed within the schema, and never fetched.
    nowhere: Registry[Any] = Registry()
    validator = kind(schema, registry=nowhere)
    token = _left.set([MOST_CHECKS])
    try:
        found = list(islice(cast("Iterator[ValidationError]", validator.iter_errors(arguments)), _MOST_PROBLEMS))
        return [_problem(list(error.absolute_path), error.message) for error in found]
    except (_TooCostlyError, RecursionError, Unresolvable):
        if refuse:
            raise
        return [_problem([], "the tool's schema cannot be applied to so much; send less")]
    finally:
        _left.reset(token)


def _problem(path: list[str | int], message: str) -> InitErrorDetails:
    reason = message if len(message) <= _LONGEST_PROBLEM else message[: _LONGEST_PROBLEM - 1] + "…"
    kind = PydanticCustomError("json_schema", "{reason}", {"reason": reason})
    return InitErrorDetails(type=kind, loc=tuple(path), input=None)


@lru_cache(maxsize=16)
def _bounded(kind: Any) -> Any:
    """Return the validator of a draft with every keyword counted and the dangerous ones replaced."""
    keywords: dict[str, Keyword] = dict(kind.VALIDATORS)
    ours: dict[str, Keyword] = {
        "pattern": _pattern,
        "patternProperties": _left_to_the_server,
        "unevaluatedProperties": _left_to_the_server,
        "additionalProperties": _additional_properties(keywords["additionalProperties"]),
        "uniqueItems": _unique_items,
    }
    replaced = {name: ours[name] for name in ours if name in keywords}
    counted = {name: _counted(keyword) for name, keyword in (keywords | replaced).items()}
    return cast("Any", extend)(kind, counted)


def _counted(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        left = _left.get(None)
        if left is not None:
            left[0] -= 1
            if left[0] < 0:
                raise _TooCostlyError
        yield from keyword(validator, value, instance, schema) or ()

    return check


def _left_to_the_server(_validator: Any, _value: Any, _instance: Any, _schema: Any) -> None:
    return None


def _additional_properties(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        return None if "patternProperties" in schema else keyword(validator, value, instance, schema)

    return check


def _pattern(_validator: Any, pattern: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, str) or not isinstance(pattern, str):
        return
    engine = _engine(pattern)
    if engine is None:
        return
    try:
        engine.validate_python(instance)
    except PatternMismatch:
        yield ValidationError(f"{instance[:100]!r} does not match {pattern!r}")


@lru_cache(maxsize=256)
def _engine(pattern: str) -> SchemaValidator | None:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except PatternError:
        return None


def _unique_items(validator: Any, wanted: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """Compare as JSON texts: the library compares each pair of objects."""
    if wanted is True and validator.is_type(instance, "array"):
        items = cast("list[Any]", instance)
        if len({json.dumps(item, sort_keys=True) for item in items}) < len(items):
            yield ValidationError("has non-unique elements")
