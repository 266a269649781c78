"""Running one attempt to its outcome: a function's body, or an execution of the runtime. Writes no row of the swarm."""

import logging
import re
import time
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

import anyio
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from runtime.driver import Driver, Ended, Held, Later, NotOurs
from runtime.events import ExecutionEnded
from storage.errors import InvalidValueError
from storage.queries import executions
from storage.queries.executions import ACTIVE
from storage.tenancy import Database
from storage.values import check_json
from swarm.agents import Ctx, Definition
from swarm.calls import Input

logger = logging.getLogger(__name__)

LONGEST_ERROR = 2_000
"""Characters of an error that a row keeps."""

LOOK_AGAIN_S = 1
"""How often an execution that another process drives is looked at."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_FENCED = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)
"""Models like to put JSON into a code block, told not to or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The agent gave an output that fits."""

    value: Any
    """As awaited."""
    output: Any
    """The same as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulted:
    """The attempt failed, and it was the agent's fault."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Somebody stopped the attempt."""


Outcome = Completed | Faulted | Stopped


@dataclass(eq=False, slots=True, kw_only=True)
class Attempt:
    """One attempt of one agent at one task."""

    id: str
    execution_id: int
    definition: Definition
    output: TypeAdapter[Any]
    given: Input
    """For a function; a model reads its input from the execution's row."""
    ctx: Ctx
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancelled to stop the attempt."""
    started: float = field(default_factory=time.monotonic)

    @property
    def duration_ms(self) -> int:
        """How long it has been under way."""
        return round((time.monotonic() - self.started) * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Runs attempts; one per swarm."""

    database: Database
    user_id: int
    driver: Driver

    async def run(self, attempt: Attempt) -> Outcome:
        """Run an attempt within its time."""
        minutes = attempt.definition.limits.minutes
        outcome: Outcome = Stopped()
        with attempt.scope:
            with anyio.move_on_after(None if minutes is None else minutes * 60) as in_time:
                outcome = await self._perform(attempt)
            if in_time.cancelled_caught:
                outcome = Faulted(error=f"took longer than {minutes:g} minutes")
        return outcome

    async def _perform(self, attempt: Attempt) -> Outcome:
        if attempt.definition.is_model:
            return await self._ask(attempt)
        return await _call(attempt)

    async def _ask(self, attempt: Attempt) -> Outcome:
        """Drive an execution. A crash of the driver is the outcome of this attempt, never the end of the swarm."""
        try:
            ended = await self._drive(attempt.execution_id)
        except Exception as error:
            logger.exception("an execution crashed", extra={"executionId": attempt.execution_id})
            return Faulted(error=storable(f"{type(error).__name__}: {error}"))
        match ended.status:
            case "completed":
                return _answer(attempt, ended.text)
            case "failed":
                return Faulted(error=storable(ended.text))
            case "cancelled":
                return Stopped()
            case _ as unreachable:
                assert_never(unreachable)

    async def _drive(self, execution_id: int) -> ExecutionEnded:
        """Drive an execution to its end, through waits for the model and other processes that take it over."""
        while True:
            match await self.driver.run(self.user_id, execution_id):
                case Ended(event=event):
                    return event
                case Later(delay_s=delay_s):
                    await anyio.sleep(delay_s)
                case Held() | NotOurs():
                    ended = await self._ended(execution_id)
                    if ended is not None:
                        return ended
                    await anyio.sleep(LOOK_AGAIN_S)

    async def _ended(self, execution_id: int) -> ExecutionEnded | None:
        async with self.database.begin(self.user_id) as db:
            row = await executions.execution(db, execution_id)
        if row.status in ACTIVE:
            return None
        status: Literal["completed", "failed", "cancelled"] = (
            "completed" if row.status == "completed" else "failed" if row.status == "failed" else "cancelled"
        )
        text = row.result["text"] if row.status == "completed" and row.result else row.error or ""
        return ExecutionEnded(status=status, text=text)


async def _call(attempt: Attempt) -> Outcome:
    """Run a function agent. Whatever its body raises is the outcome of this attempt, never the end of the swarm."""
    function, signature = attempt.definition.function, attempt.definition.signature
    assert function is not None  # noqa: S101 -- a function agent has one
    assert signature is not None  # noqa: S101 -- as above
    prepared = signature.prepare(attempt.given, attempt.ctx)
    try:
        value = await function(*prepared.args, **prepared.kwargs)
    except Exception as error:
        logger.exception(
            "an agent's function failed", extra={"taskId": attempt.ctx.task_id, "agent": attempt.ctx.agent}
        )
        return Faulted(error=storable(f"{type(error).__name__}: {error}"))
    return _checked(attempt, value)


def _answer(attempt: Attempt, text: str) -> Outcome:
    if attempt.definition.is_text and attempt.output is attempt.definition.output:
        return Completed(value=text, output=text)
    fenced = _FENCED.match(text.strip())
    try:
        value = attempt.output.validate_json(fenced[1] if fenced else text)
    except ValidationError as error:
        return Faulted(error=_misfit(error))
    return _checked(attempt, value)


def _checked(attempt: Attempt, value: Any) -> Outcome:
    try:
        valid = attempt.output.validate_python(value)
        output = attempt.output.dump_python(valid, mode="json")
        check_json(output, "output")
    except ValidationError as error:
        return Faulted(error=_misfit(error))
    except (PydanticSerializationError, InvalidValueError) as error:
        return Faulted(error=storable(f"invalid output: it cannot be written down as JSON: {error}"))
    return Completed(value=valid, output=output)


def _misfit(error: ValidationError) -> str:
    """Say where an output does not fit, without its text."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    problems = [f"{'.'.join(map(str, detail['loc'])) or 'it'}: {detail['msg']}" for detail in details]
    return storable(f"invalid output: {'; '.join(problems)}")


def storable(text: str) -> str:
    """Return an error as a row can hold it."""
    return _UNSTORABLE.sub("�", text)[:LONGEST_ERROR]
