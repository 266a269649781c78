"""What an operation is: one function behind three doors (agent tool, MCP tool, command).

An operation is a plain async function whose first parameter is `Context`; the rest is its input, and the input schema
is derived from the signature. `perform` is the only way to run one: it validates, runs, and leaves one audit row for an
operation that changes something, all in the caller's transaction.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_type_hints
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from sqlalchemy.ext.asyncio import AsyncSession

from runtime.errors import ToolArgumentsError
from runtime.ports import Json, ToolSpec
from storage.jobs import Jobs
from storage.models.audit import AuditLog
from storage.values import check_json

Effect = Literal["none", "db", "external"]
"""none: read-only, may run again. db: commits together with its own record, exactly once. external: outside our
database, at most once; or, for a tool that honours a key, again under the same key after a crash."""

TOOL_TIMEOUT_S = 30.0
"""How long a tool may take unless it says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The chat that an operation runs in."""

    id: int
    webhook_id: int
    participant_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the caller of an operation is, and where: never chosen by a model.

    The caller owns the transaction of `db`.
    """

    db: AsyncSession
    jobs: Jobs
    user_id: int
    now: datetime
    """With time zone; inside an execution the database's clock, behind the other doors the machine's."""
    zone: ZoneInfo
    door: str = "agent"
    """Who asks, for the audit trail: agent, mcp, cli, python."""
    session_id: int | None = None
    execution_id: int | None = None
    agent_name: str | None = None
    """Who performs it, when that is an agent."""
    conversation: Conversation | None = None


Function = Callable[..., Awaitable[Json]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A function with a name, a schema and an effect."""

    name: str
    description: str
    effect: Effect
    arguments: type[BaseModel]
    function: Function
    honours_key: bool = False
    """An external tool that does nothing twice under the same idempotency key."""
    timeout_s: float = TOOL_TIMEOUT_S
    api_type: str | None = None
    """The provider's own name of a tool that it defines, such as `memory_20250818`."""
    spec: ToolSpec = field(init=False)
    """The operation as a model sees it; made once, because every request of every model call carries it."""

    def __post_init__(self) -> None:
        schema = self.arguments.model_json_schema()
        schema.pop("title", None)
        spec = ToolSpec(name=self.name, description=self.description, input_schema=schema, api_type=self.api_type)
        object.__setattr__(self, "spec", spec)  # the way to complete a frozen dataclass


def operation(*, effect: Effect, api_type: str | None = None) -> Callable[[Function], Operation]:
    """Make an operation of an async function `(ctx: Context, ...) -> Json`.

    The docstring is what a model reads; parameters are described with `Annotated[..., Field(description=...)]`.
    """

    def wrap(function: Function) -> Operation:
        return Operation(
            name=function.__name__,
            description=inspect.cleandoc(function.__doc__ or ""),
            effect=effect,
            arguments=arguments_of(function, list(inspect.signature(function).parameters.values())[1:]),
            function=function,
            api_type=api_type,
        )

    return wrap


def arguments_of(function: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> type[BaseModel]:
    """Return the input model that these parameters of `function` amount to."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in parameters:
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[parameter.name] = (hints.get(parameter.name, Any), default)
    config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    return create_model(function.__name__, __config__=config, **fields)


def parse_arguments(operation: Operation, arguments: Json) -> BaseModel:
    """Return the validated input.

    Raises:
        InvalidValueError: a text in it cannot be stored (NUL, lone surrogate, NaN).
        ToolArgumentsError: it does not fit; the text says where and what would be right.
    """
    check_json(arguments, operation.name)
    try:
        return operation.arguments.model_validate(arguments)
    except ValidationError as error:
        raise ToolArgumentsError(operation.name, _problems(error, operation)) from error


def values_of(parsed: BaseModel) -> dict[str, Any]:
    """Return the validated input as keyword arguments."""
    return {name: getattr(parsed, name) for name in type(parsed).model_fields}


def _problems(error: ValidationError, operation: Operation) -> list[str]:
    legal = ", ".join(operation.arguments.model_fields)
    problems: list[str] = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(str(part) for part in detail["loc"])
        hint = f" (legal: {legal})" if detail["type"] == "extra_forbidden" else ""
        problems.append(f"{where}: {detail['msg']}{hint}")
    return problems


async def perform(operation: Operation, ctx: Context, arguments: Json) -> Json:
    """Validate and run an operation in the caller's transaction, and audit it when it changes something.

    Raises:
        InvalidValueError: a text in the arguments cannot be stored (NUL, lone surrogate, NaN).
        ToolArgumentsError: the arguments do not fit.
        ToolError: the operation refused.
        StorageError: so did storage.
    """
    parsed = parse_arguments(operation, arguments)
    result = await operation.function(ctx, **values_of(parsed))
    if operation.effect == "db":
        ctx.db.add(
            AuditLog(
                user_id=ctx.user_id,
                action=operation.name,
                entity_type=ctx.door,
                entity_id=str(result["id"]) if "id" in result else None,
                new_values={"executionId": ctx.execution_id, "arguments": sorted(parsed.model_fields_set)},
            )
        )
        await ctx.db.flush()
    return result
