"""What an operation is: one function behind three doors (agent tool, MCP tool, command).

An operation is a plain async function whose first parameter is `Context`; the rest is its input, and the input schema
is derived from the signature. `perform` is the only way to run one: it validates, runs, and leaves one audit row for an
operation that changes something, all in the caller's transaction.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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

Effect = Literal["none", "db"]
"""none: read-only, may run again and in parallel. db: commits together with its own record, exactly once."""


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
    """The database's clock, with time zone."""
    zone: ZoneInfo
    door: str = "agent"
    """Who asks, for the audit trail: agent, mcp, cli, python."""
    session_id: int | None = None
    execution_id: int | None = None
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

    @property
    def spec(self) -> ToolSpec:
        """The operation as a model sees it."""
        schema = self.arguments.model_json_schema()
        schema.pop("title", None)
        return ToolSpec(name=self.name, description=self.description, input_schema=schema)


def operation(*, effect: Effect) -> Callable[[Function], Operation]:
    """Make an operation of an async function `(ctx: Context, ...) -> Json`.

    The docstring is what a model reads; parameters are described with `Annotated[..., Field(description=...)]`.
    """

    def wrap(function: Function) -> Operation:
        hints = get_type_hints(function, include_extras=True)
        fields: dict[str, Any] = {}
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
        name = function.__name__
        arguments = create_model(name, __config__=ConfigDict(extra="forbid", str_strip_whitespace=True), **fields)
        return Operation(
            name=name,
            description=inspect.cleandoc(function.__doc__ or ""),
            effect=effect,
            arguments=arguments,
            function=function,
        )

    return wrap


def parse_arguments(operation: Operation, arguments: Json) -> BaseModel:
    """Return the validated input.

    Raises:
        ToolArgumentsError: it does not fit; the text says where and what would be right.
    """
    try:
        return operation.arguments.model_validate(arguments)
    except ValidationError as error:
        raise ToolArgumentsError(operation.name, _problems(error, operation)) from error


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
    check_json(arguments, operation.name)
    parsed = parse_arguments(operation, arguments)
    values = {name: getattr(parsed, name) for name in operation.arguments.model_fields}
    result = await operation.function(ctx, **values)
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
