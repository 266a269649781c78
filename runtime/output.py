"""Answers in a form that the agent's definition asks for: one JSON value that fits a JSON Schema."""

import json
from typing import Any

from runtime.ports import Json
from runtime.services.mcp_schema import problems_of, schema_problem
from storage.errors import InvalidValueError
from storage.values import check_json

_MOST_PROBLEMS = 3
"""In what the model is told."""


def in_words(schema: Json | None) -> str:
    """Return what an agent's instructions say about its schema; nothing without one."""
    if schema is None:
        return ""
    shown = json.dumps(schema, ensure_ascii=False, sort_keys=True)
    return f"\n\nYour last text is one JSON value and nothing else, no fence either. It fits this JSON Schema:\n{shown}"


def check_schema(schema: Json) -> None:
    """Raise InvalidValueError unless answers can be held against this schema."""
    check_json(schema, "outputSchema")
    problem = schema_problem(schema)
    if problem is not None:
        raise InvalidValueError("outputSchema", problem.removeprefix("its input schema "))


def misfit(schema: Json | None, text: str) -> str | None:
    """Return why a text is no answer of this form, in words for the model; None: it is one."""
    if schema is None:
        return None
    try:
        value: Any = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON ({error})"
    problems = problems_of(schema, value)[:_MOST_PROBLEMS]
    return "; ".join(_told(problem) for problem in problems) or None


def _told(problem: Any) -> str:
    """Return a problem as pydantic's details have it: `loc`, and a `type` that carries the words."""
    path = "/".join(str(part) for part in problem["loc"]) or "the value"
    return f"{path}: {problem['type'].context['reason']}"


def _refuse(constant: str) -> Any:
    message = f"{constant} is no number of JSON"
    raise ValueError(message)
