"""Tools of your own: a function, made a tool by `@tool`, and what may become of one call.

A tool says what kind of effect it has, because that decides what a crash does to it (see `Effect`). The default is the
strictest: an effect outside, at most once.
"""

import inspect
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import wraps
from typing import Any, cast, get_type_hints
from zoneinfo import ZoneInfo

import anyio
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from runtime.errors import RuntimeFault, ToolError
from runtime.events import CallWaits, ToolCall, ToolReturned, WaitsFor
from runtime.journal_port import Settled, ToolOutcome
from runtime.labels import NOTHING_READ, Integrity, Label, Tier, default_label
from runtime.operation import (
    DEFAULT_TIERS,
    TOOL_TIMEOUT_S,
    Audited,
    Context,
    Effect,
    Operation,
    Unknown,
    arguments_of,
    run_operation,
    values_of,
)
from runtime.ports import Json
from storage.errors import InvalidValueError, StorageError
from storage.tenancy import STATEMENT_LIMIT_S, is_transient, limit_statements, was_cut_off
from storage.values import check_json

logger = logging.getLogger(__name__)

LONGEST_RESULT = 256 * 1024
"""Characters of JSON that a row keeps of one result; a longer one is kept as a blob."""

LARGEST_BLOB = 16 * 1024 * 1024
"""Characters of JSON beyond which a result is refused, or cut when its effect cannot be undone."""

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
    *,
    effect: Effect = "external",
    honours_key: bool = False,
    timeout_s: float = TOOL_TIMEOUT_S,
    on_unknown: Unknown = "ask_model",
    reconcile: Callable[..., Awaitable[Any]] | None = None,
    asks: str | None = None,
    tier: Tier | None = None,
    returns: Label | None = None,
) -> Callable[[Callable[..., Awaitable[Any]]], Operation]:
    """Make a tool of an async function; its name, docstring and annotations are what a model sees.

    A first parameter annotated `Context` (effect none or db) or `ExternalContext` (external, outbox) is filled in by us
    and hidden from the model.

    Args:
        effect: What kind of effect it has; the default is the strictest.
        honours_key: After a crash the tool may run again, under the same `ExternalContext.key`.
        timeout_s: How long one call may take.
        on_unknown: What to do when a worker died, or gave up waiting, in the middle of an external call.
        reconcile: Decides that instead: an async function with the tool's own parameters that looks whether the call
            took effect and returns its result, or None when it did not and may run.
        asks: Why a person has to allow each call before it runs.
        tier: What it does as far as trust is concerned; the default is the strictest that fits the effect.
        returns: How far a result is trusted, and who may see it. The default trusts it like the words of the staff,
            because you wrote the tool; say `Label(Integrity.EXTERNAL, …)` for one that brings in what others wrote.
            After T1 and T4 only the tenant may see it. `Context.saw` says it by row.

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
        wanted = ExternalContext if effect in ("external", "outbox") else Context
        takes_context = bool(parameters) and get_type_hints(function).get(parameters[0].name) in (
            Context,
            ExternalContext,
        )
        if takes_context and get_type_hints(function)[parameters[0].name] is not wanted:
            raise ToolDefinitionError(f"tool {name!r} with effect {effect!r} takes {wanted.__name__}, if any")

        @wraps(function)
        async def call(ctx: Context | ExternalContext, **values: Any) -> Json | WaitsFor:
            returned = await (function(ctx, **values) if takes_context else function(**values))
            if isinstance(returned, WaitsFor):
                return returned
            return as_result(returned)

        return Operation(
            name=name,
            description=inspect.cleandoc(function.__doc__),
            effect=effect,
            arguments=arguments_of(function, parameters[1:] if takes_context else parameters),
            function=call,
            honours_key=honours_key,
            timeout_s=timeout_s,
            on_unknown=on_unknown,
            reconcile=reconcile,
            asks=asks,
            declared_tier=tier,
            declared_label=returns or _vouched_for(effect, tier or DEFAULT_TIERS[effect]),
        )

    return wrap


def _vouched_for(effect: Effect, tier: Tier) -> Label:
    """Return the label of what a program's own tool returns: whoever wrote the tool answers for it.

    Otherwise a program's first call outside would make every later one ask a person.
    """
    return Label(Integrity.STAFF, default_label(effect, tier).confidentiality)


def as_result(returned: object) -> Json:
    """Return what a tool returned as the JSON object that a row keeps."""
    plain: Any = to_jsonable_python(returned, inf_nan_mode="constants")
    return cast("Json", plain) if isinstance(plain, dict) else {"result": plain}  # JSON has text keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """What became of one call."""

    result: Json
    text: str
    """What the model reads."""
    is_error: bool = False
    state: ToolOutcome | None = None
    is_refusal: bool = False
    """The tool itself said no: asking again gives the same answer."""
    label: Label = NOTHING_READ
    """Of what the result tells; words of ours have nothing to hide."""

    def settled(self, call: ToolCall, *, duration_s: float) -> Settled:
        """Return what a commit says about the call."""
        shown = self.text
        if len(shown) > SHOWN_TO_MODEL:
            shown = (
                f"{shown[:SHOWN_TO_MODEL]}…(+{len(shown) - SHOWN_TO_MODEL} characters; the row of this call has them)"
            )
        event = ToolReturned(call_id=call.id, name=call.name, content=shown, is_error=self.is_error)
        is_long = len(self.text) > LONGEST_RESULT and not self.is_error
        return Settled(
            call=call,
            event=event,
            state=self.state or ("error" if self.is_error else "done"),
            result=None if self.is_error else self._preview() if is_long else self.result,
            duration_ms=round(duration_s * 1000),
            blob=self.text if is_long and len(self.text) <= LARGEST_BLOB else None,
            label=self.label,
        )

    def _preview(self) -> Json:
        return {"truncated": True, "characters": len(self.text), "preview": self.text[:SHOWN_TO_MODEL]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effected:
    """What a tool inside our database came to; its transaction is still open."""

    outcome: Returned | WaitsFor
    audited: Audited | None

    def settled(self, call: ToolCall, *, duration_s: float) -> Settled:
        """Return what the commit says about the call."""
        if isinstance(self.outcome, WaitsFor):
            return Settled(call=call, event=CallWaits(call_id=call.id, waits_for=self.outcome), state="started")
        return self.outcome.settled(call, duration_s=duration_s)


class UndoneError(Exception):
    """Leaves a tool's transaction so that its effect is rolled back; `returned` is what to record instead."""

    def __init__(self, returned: Returned) -> None:
        super().__init__(returned.text)
        self.returned = returned


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


async def inside(operation: Operation, ctx: Context, arguments: Json) -> Effected:
    """Perform an operation in the caller's transaction.

    Raises:
        DBAPIError: the database is the reason, and the same call may work in a moment.
        UndoneError: it refused or failed; whatever it has done so far must be rolled back.
    """
    try:
        if operation.timeout_s < STATEMENT_LIMIT_S:
            await limit_statements(ctx.db, operation.timeout_s)
        performed = await run_operation(operation, ctx, arguments)
        if isinstance(performed.result, WaitsFor):
            return Effected(outcome=performed.result, audited=performed.audited)
        returned = replace(succeeded(performed.result), label=performed.label)
        if len(returned.text) > LARGEST_BLOB:
            raise ToolError(_too_long(returned))  # noqa: TRY301 -- leaves the transaction, which undoes the effect
    except (ToolError, StorageError) as error:
        raise UndoneError(replace(failed(str(error)), label=ctx.label_of_result(operation.label))) from error
    except Exception as error:
        if is_transient(error):
            raise
        logger.warning("a tool failed", extra={"tool": operation.name}, exc_info=True)
        reason = late(operation) if was_cut_off(error) else f"{operation.name} failed: {type(error).__name__}"
        raise UndoneError(failed(reason)) from error
    return Effected(outcome=returned, audited=performed.audited)


def _too_long(returned: Returned) -> str:
    return f"the result has {len(returned.text):,} characters and {LARGEST_BLOB:,} fit; ask for less"


def late(operation: Operation) -> str:
    """Return what to tell about a tool that took too long."""
    return f"{operation.name} did not return within {operation.timeout_s:g} s"


async def outside(operation: Operation, context: ExternalContext, parsed: BaseModel) -> Returned:
    """Run an external tool once; whatever it does is an outcome, and nothing is raised but cancellation."""
    try:
        with anyio.fail_after(operation.timeout_s):
            returned = succeeded(plain_result(await operation.function(context, **values_of(parsed))))
            return replace(returned, label=operation.label)
    except TimeoutError as error:
        # A service's own error of this kind says in words why nobody can tell; ours has none.
        return replace(unknown(str(error) or late(operation)), label=operation.label)
    except ToolError as error:
        text = str(error)[:SHOWN_TO_MODEL]
        return Returned(result={}, text=text, is_error=True, is_refusal=True, label=operation.label)
    except Exception as error:
        logger.warning("a tool failed", extra={"tool": operation.name}, exc_info=True)
        return replace(failed(f"{operation.name} failed: {type(error).__name__}: {error}"), label=operation.label)


def plain_result(result: Json | WaitsFor) -> Json:
    """Return the result of a tool that cannot wait: one outside our database has no row to be answered in.

    Raises:
        ToolError: it wants to wait.
    """
    if isinstance(result, WaitsFor):
        raise ToolError("only a tool with effect 'db' can wait for somebody")
    return result
