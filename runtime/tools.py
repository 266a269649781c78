"""Tools of your own: a function, made a tool by `@tool`, and what may become of one call.

A tool says what kind of effect it has, because that decides what a crash does to it (see `Effect`). The default is the
strictest: an effect outside, at most once.
"""

import inspect
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast, get_type_hints
from zoneinfo import ZoneInfo

import anyio
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from runtime.errors import RuntimeFault, ToolError
from runtime.events import ToolCall, ToolReturned
from runtime.journal import ToolCommit
from runtime.operation import TOOL_TIMEOUT_S, Context, Effect, Operation, arguments_of, perform, values_of
from runtime.ports import Json
from storage.errors import InvalidValueError, StorageError
from storage.models.agents import ToolState
from storage.tenancy import STATEMENT_LIMIT_S, limit_statements, was_cut_off
from storage.values import check_json

logger = logging.getLogger(__name__)

LONGEST_RESULT = 256 * 1024
"""Characters of JSON that a row keeps of one result."""

SHOWN_TO_MODEL = 20_000
"""Characters of a result that the model reads; the row has the rest."""


class ToolDefinitionError(RuntimeFault):
    """The function cannot be a tool as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalContext:
    """What an external tool may want to know; it has no transaction of ours."""

    key: str
    """The same for every attempt at one call, and for no other call: hand it to the service as its idempotency key."""
    user_id: int
    execution_id: int
    now: datetime
    zone: ZoneInfo


def tool(
    *, effect: Effect = "external", honours_key: bool = False, timeout_s: float = TOOL_TIMEOUT_S
) -> Callable[[Callable[..., Awaitable[Any]]], Operation]:
    """Make a tool of an async function; its name, docstring and annotations are what a model sees.

    A first parameter annotated `Context` (effect none or db) or `ExternalContext` (external) is filled in by us and
    hidden from the model. `honours_key`: after a crash the tool may run again, under the same `ExternalContext.key`.

    Raises:
        ToolDefinitionError: the function is not async, has no docstring, or asks for the other kind of context.
    """

    def wrap(function: Callable[..., Awaitable[Any]]) -> Operation:
        name = function.__name__
        if not inspect.iscoroutinefunction(function):
            raise ToolDefinitionError(f"tool {name!r} is not async; write 'async def {name}'")
        if not function.__doc__:
            raise ToolDefinitionError(f"tool {name!r} has no docstring; a model would not know when to use it")
        parameters = list(inspect.signature(function).parameters.values())
        wanted = ExternalContext if effect == "external" else Context
        takes_context = bool(parameters) and get_type_hints(function).get(parameters[0].name) in (
            Context,
            ExternalContext,
        )
        if takes_context and get_type_hints(function)[parameters[0].name] is not wanted:
            raise ToolDefinitionError(f"tool {name!r} with effect {effect!r} takes {wanted.__name__}, if any")

        async def call(ctx: Context | ExternalContext, **values: Any) -> Json:
            returned = await (function(ctx, **values) if takes_context else function(**values))
            plain: Any = to_jsonable_python(returned, inf_nan_mode="constants")
            return cast("Json", plain) if isinstance(plain, dict) else {"result": plain}  # JSON has text keys

        return Operation(
            name=name,
            description=inspect.cleandoc(function.__doc__),
            effect=effect,
            arguments=arguments_of(function, parameters[1:] if takes_context else parameters),
            function=call,
            honours_key=honours_key,
            timeout_s=timeout_s,
        )

    return wrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """What became of one call."""

    result: Json
    text: str
    """What the model reads."""
    is_error: bool = False
    state: ToolState | None = None

    @property
    def is_too_long(self) -> bool:
        """Whether a row cannot keep it."""
        return len(self.text) > LONGEST_RESULT

    @property
    def complaint(self) -> str:
        """What to tell the model about a result that is too long."""
        return f"the result has {len(self.text):,} characters and {LONGEST_RESULT:,} fit; ask for less"

    def write(self, commit: ToolCommit, call: ToolCall, *, duration_s: float) -> None:
        """Settle a tool's commit with this."""
        shown = self.text
        if len(shown) > SHOWN_TO_MODEL:
            shown = (
                f"{shown[:SHOWN_TO_MODEL]}…(+{len(shown) - SHOWN_TO_MODEL} characters; the row of this call has them)"
            )
        commit.returned = ToolReturned(call_id=call.id, name=call.name, content=shown, is_error=self.is_error)
        commit.result = None if self.is_error else self._kept()
        commit.state = self.state
        commit.duration_ms = round(duration_s * 1000)

    def _kept(self) -> Json:
        if not self.is_too_long:
            return self.result
        return {"truncated": True, "characters": len(self.text), "preview": self.text[:SHOWN_TO_MODEL]}


def succeeded(result: Json) -> Returned:
    """Return an outcome with a result.

    Raises:
        ToolError: it is nothing that can be kept as JSON.
    """
    try:
        check_json(result, "the result")
        text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    except (InvalidValueError, ValueError, TypeError) as error:
        raise ToolError(f"the tool returned something that cannot be stored: {error}") from error
    return Returned(result=result, text=text)


def failed(reason: str) -> Returned:
    """Return a refusal or a failure, in words for the model."""
    return Returned(result={}, text=reason[:SHOWN_TO_MODEL], is_error=True)


def unknown(reason: str) -> Returned:
    """Return the honest answer when nobody can tell whether the effect took place."""
    text = f"unknown: {reason}, so nobody knows whether it took effect; look before you try again, or ask a person"
    return Returned(result={}, text=text, is_error=True, state="unknown")


async def inside(operation: Operation, ctx: Context, arguments: Json) -> Returned:
    """Perform an operation in a savepoint of the caller's transaction: a refusal or a failure undoes its effect."""
    try:
        async with ctx.db.begin_nested():
            if operation.timeout_s < STATEMENT_LIMIT_S:
                await limit_statements(ctx.db, operation.timeout_s)
            returned = succeeded(await perform(operation, ctx, arguments))
            if returned.is_too_long:
                raise ToolError(returned.complaint)  # noqa: TRY301 -- leaves the savepoint, which undoes the effect
    except (ToolError, StorageError) as error:
        return failed(str(error))
    except Exception as error:
        logger.warning("a tool failed", extra={"tool": operation.name}, exc_info=True)
        return failed(late(operation) if was_cut_off(error) else f"{operation.name} failed: {type(error).__name__}")
    return returned


def late(operation: Operation) -> str:
    """Return what to tell about a tool that took too long."""
    return f"{operation.name} did not return within {operation.timeout_s:g} s"


async def outside(operation: Operation, context: ExternalContext, parsed: BaseModel) -> Returned:
    """Run an external tool once; whatever it does is an outcome, and nothing is raised but cancellation."""
    try:
        with anyio.fail_after(operation.timeout_s):
            return succeeded(await operation.function(context, **values_of(parsed)))
    except TimeoutError:
        return unknown(late(operation))
    except ToolError as error:
        return failed(str(error))
    except Exception as error:
        logger.warning("a tool failed", extra={"tool": operation.name}, exc_info=True)
        return failed(f"{operation.name} failed: {type(error).__name__}: {error}")
