"""What an operation is: one function behind three doors (agent tool, MCP tool, command).

An operation is a plain async function whose first parameter is `Context`; the rest is its input, and the input schema
is derived from the signature. `perform` is the only way to run one: it validates, runs, and leaves one audit row for an
operation that changes something, all in the caller's transaction.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, Self, cast, get_type_hints
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from sqlalchemy import Table, insert
from sqlalchemy.ext.asyncio import AsyncSession

from runtime.decide import Limits
from runtime.errors import ToolArgumentsError, ToolError
from runtime.events import WaitsFor
from runtime.labels import NOTHING_READ, Label, Tier, default_label
from runtime.ports import Json, ToolSpec
from storage.jobs import Jobs
from storage.models.audit import AuditLog
from storage.models.messaging import BotConversation
from storage.values import check_json

Effect = Literal["none", "db", "external", "outbox"]
"""none: read-only, may run again. db: commits together with its own record, exactly once. external: outside our
database, at most once; or, for a tool that honours a key, again under the same key after a crash. outbox: queued
together with its record and sent afterwards, at least once, always under the same key."""

Unknown = Literal["ask_model", "ask_person", "retry"]
"""What to do about an external call of which nobody knows whether it took effect: tell the model, ask a person, or run
it again (for a tool that may run twice)."""

DEFAULT_TIERS: Mapping[Effect, Tier] = MappingProxyType(
    {"none": Tier.T1, "db": Tier.T2, "external": Tier.T4, "outbox": Tier.T4}
)
"""The strictest tier that fits an effect; a tool that does less says so."""

TOOL_TIMEOUT_S = 30.0
"""How long a tool may take unless it says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The chat that an operation runs in."""

    id: int
    webhook_id: int
    participant_id: str
    client_id: int | None = None
    """The agency's client that the participant speaks for, as far as a person has said so."""

    @classmethod
    def of_row(cls, row: BotConversation) -> Self:
        """Return what operations need of it."""
        client_id = row.context.get("clientId")
        return cls(
            id=row.id,
            webhook_id=row.webhook_id,
            participant_id=row.participant_id,
            client_id=client_id if isinstance(client_id, int) and not isinstance(client_id, bool) else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What an agent at work may pass on to another one."""

    tools: tuple[str, ...]
    """Those that it has itself, by the names that agents know them by."""
    approvals: tuple[str, ...]
    """Those of them that a person has to allow."""
    limits: Limits
    """What is left of its own."""


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
    """The chat that it is done for; then only what its participant may see is read, unless the agent asks for more."""
    allowance: Callable[[], Allowance] | None = None
    """Tells what may be passed on to another agent; None: no agent performs it."""
    label: Label = NOTHING_READ
    """Of what was read before the arguments were written."""
    _read: list[Label] = field(default_factory=list[Label], repr=False, compare=False)

    @property
    def is_tainted(self) -> bool:
        """People outside may have written the arguments, or what led to them."""
        return self.conversation is not None or self.label.is_external

    def saw(self, *labels: Label) -> None:
        """Say what the result tells, label by label of its rows; without that its tool's own label counts."""
        self._read.extend(labels)

    def label_of_result(self, otherwise: Label) -> Label:
        """Return the join of what was seen."""
        return self._read[0].join(*self._read) if self._read else otherwise


Function = Callable[..., Awaitable[Json | WaitsFor]]
"""Returns what the caller reads, or what the call has to wait for."""


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
    on_unknown: Unknown = "ask_model"
    reconcile: Callable[..., Awaitable[Any]] | None = None
    """Looks whether a call of unknown outcome took effect: returns its result, or None when it did not."""
    asks: str | None = None
    """Why a person has to allow each call; None: nobody has to."""
    declared_tier: Tier | None = None
    """None: the strictest that fits the effect."""
    declared_label: Label | None = None
    """Of every result that does not say more; None: the strictest that fits effect and tier."""
    tier: Tier = field(init=False)
    api_type: str | None = None
    """The provider's own name of a tool that it defines, such as `memory_20250818`."""
    input_schema: Json | None = None
    """A schema that is shown as it is, for a tool that brings its own; None: that of `arguments`."""
    spec: ToolSpec = field(init=False)
    """The operation as a model sees it; made once, because every request of every model call carries it."""

    def __post_init__(self) -> None:
        schema = self.input_schema
        if schema is None:
            schema = self.arguments.model_json_schema()
            schema.pop("title", None)
        spec = ToolSpec(name=self.name, description=self.description, input_schema=schema, api_type=self.api_type)
        object.__setattr__(self, "spec", spec)  # the way to complete a frozen dataclass
        object.__setattr__(self, "tier", self.declared_tier or DEFAULT_TIERS[self.effect])

    @property
    def label(self) -> Label:
        """The label of a result that does not say more."""
        return self.declared_label or default_label(self.effect, self.tier)


def operation(
    *, effect: Effect, tier: Tier | None = None, api_type: str | None = None
) -> Callable[[Function], Operation]:
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
            declared_tier=tier,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What the audit trail says about one operation that changed something."""

    action: str
    door: str
    entity_id: str | None
    execution_id: int | None
    arguments: tuple[str, ...]
    """Names only: values may be personal."""

    def values(self) -> Json:
        """Return the columns of its row, but for the tenant."""
        return {
            "action": self.action,
            "entityType": self.door,
            "entityId": self.entity_id,
            "newValues": {"executionId": self.execution_id, "arguments": list(self.arguments)},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """What an operation came to, and the audit row that is still to be written."""

    result: Json | WaitsFor
    audited: Audited | None
    label: Label


async def run_operation(operation: Operation, ctx: Context, arguments: Json) -> Performed:
    """Validate and run an operation in the caller's transaction; the caller writes the audit row in the same one.

    Raises:
        InvalidValueError: a text in the arguments cannot be stored (NUL, lone surrogate, NaN).
        ToolArgumentsError: the arguments do not fit.
        ToolError: the operation refused.
        StorageError: so did storage.
    """
    parsed = parse_arguments(operation, arguments)
    result = await operation.function(ctx, **values_of(parsed))
    label = ctx.label_of_result(operation.label)
    if operation.effect != "db":
        return Performed(result=result, audited=None, label=label)
    about = str(result.id) if isinstance(result, WaitsFor) else str(result["id"]) if "id" in result else None
    audited = Audited(
        action=operation.name,
        door=ctx.door,
        entity_id=about,
        execution_id=ctx.execution_id,
        arguments=tuple(sorted(parsed.model_fields_set)),
    )
    return Performed(result=result, audited=audited, label=label)


async def perform(operation: Operation, ctx: Context, arguments: Json) -> Json:
    """Validate and run an operation in the caller's transaction, and audit it when it changes something.

    Raises:
        InvalidValueError: a text in the arguments cannot be stored (NUL, lone surrogate, NaN).
        ToolArgumentsError: the arguments do not fit.
        ToolError: the operation refused.
        StorageError: so did storage.
    """
    performed = await run_operation(operation, ctx, arguments)
    if performed.audited is not None:
        await ctx.db.execute(_AUDIT, performed.audited.values() | {"userId": ctx.user_id})
    if isinstance(performed.result, WaitsFor):
        raise ToolError(f"{operation.name} waits for somebody, which only an execution can")
    return performed.result


_AUDIT = insert(cast("Table", AuditLog.__table__))
