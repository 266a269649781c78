"""Calling a function agent: what its signature takes, how its input is written down, how it is run."""

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic_core import PydanticSerializationError, to_jsonable_python

from storage.errors import InvalidValueError
from storage.values import check_json
from swarm.errors import DefinitionError, SubmitError


# What an async function without a body compiles to, with and without docstring; `pass` and `...` are the same.
async def _documented() -> None:
    """Say something."""


async def _bare() -> None: ...


_EMPTY_BODIES = frozenset({_documented.__code__.co_code, _bare.__code__.co_code})


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """The arguments of one call."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What an async function takes and gives, without the parameter that we inject."""

    name: str
    parameters: inspect.Signature
    injected: str | None
    """The name of the parameter that gets the context; None: it has none."""
    injected_at: int | None
    """Its place among the positional parameters; None: it is keyword-only."""
    output: Any
    """The return annotation; Any where there is none."""
    docstring: str
    has_empty_body: bool

    @classmethod
    def of(cls, function: Callable[..., Awaitable[Any]], name: str, *, injected: type) -> "Signature":
        """Read an async function.

        Raises:
            DefinitionError: it is not async, or an annotation does not resolve.
        """
        if not inspect.iscoroutinefunction(function):
            raise DefinitionError(name, "is not an async function", "write 'async def'")
        try:
            hints = get_type_hints(function, include_extras=True)
        except NameError as error:
            raise DefinitionError(
                name, f"has an annotation that does not resolve: {error}", "define that type at module level"
            ) from error
        whole = inspect.signature(function)
        found = [key for key in whole.parameters if hints.get(key) is injected]
        if len(found) > 1:
            raise DefinitionError(name, f"takes {injected.__name__} {len(found)} times", "once is enough")
        key = found[0] if found else None
        keyword_only = key is not None and whole.parameters[key].kind is inspect.Parameter.KEYWORD_ONLY
        kept = [parameter for parameter in whole.parameters.values() if parameter.name != key]
        return cls(
            name=name,
            parameters=whole.replace(parameters=kept),
            injected=key,
            injected_at=None if key is None or keyword_only else list(whole.parameters).index(key),
            output=hints.get("return", Any),
            docstring=inspect.getdoc(function) or "",
            has_empty_body=function.__code__.co_code in _EMPTY_BODIES,
        )

    def takes(self, count: int) -> bool:
        """Tell whether it can be called with this many positional arguments."""
        try:
            self.parameters.bind(*[None] * count)
        except TypeError:
            return False
        return True

    def check(self, given: Input) -> None:
        """Refuse arguments that it cannot be called with, or that have no JSON form.

        Raises:
            SubmitError: the message shows the signature.
        """
        try:
            self.parameters.bind(*given.args, **given.kwargs)
        except TypeError as error:
            raise SubmitError(f"{self} does not take these arguments: {error}") from error
        self.written(given)

    def written(self, given: Input) -> str:
        """Return the arguments by name, as one JSON object.

        Raises:
            SubmitError: one of them has no JSON form.
        """
        bound = self.parameters.bind(*given.args, **given.kwargs)
        try:
            values = to_jsonable_python(bound.arguments)
            check_json(values, self.name)
        except (PydanticSerializationError, InvalidValueError) as error:
            raise SubmitError(f"an argument of {self} cannot be written down as JSON: {error}") from error
        return json.dumps(values, ensure_ascii=False)

    def prepare(self, given: Input, context: object) -> Input:
        """Return the arguments with the context in its place."""
        if self.injected is None:
            return given
        if self.injected_at is None:
            return Input(args=given.args, kwargs={**given.kwargs, self.injected: context})
        bound = self.parameters.bind(*given.args, **given.kwargs)
        bound.apply_defaults()
        args = [*bound.args[: self.injected_at], context, *bound.args[self.injected_at :]]
        return Input(args=tuple(args), kwargs=bound.kwargs)

    def __str__(self) -> str:
        return f"{self.name}{self.parameters}"


def artefacts(text: str, results: Sequence[tuple[str, Any]]) -> str:
    """Return what a model is asked, with the results that it builds on, each under the task that it answers."""
    parts = [f"Result of {description!r}:\n{_shown(output)}" for description, output in results]
    return "\n\n".join([text, *parts])


def _shown(output: Any) -> str:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, indent=1)
