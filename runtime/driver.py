"""The one driver: it performs the steps that `decide` returns and records what happened. Only it touches the world."""

import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import assert_never
from zoneinfo import ZoneInfo

import anyio
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from runtime import requests
from runtime.agents import Agent, UnknownAgentError, agent_named
from runtime.decide import Limits, decide
from runtime.errors import (
    LeaseLostError,
    ModelReplyInvalidError,
    ModelRequestError,
    ModelUnavailableError,
    ToolError,
    UnknownToolError,
)
from runtime.events import (
    Event,
    ExecutionEnded,
    ModelReplied,
    PhaseAdvanced,
    Planned,
    ToolCall,
    UserSpoke,
)
from runtime.journal import Claim, PostgresJournal, ToolCommit, storable
from runtime.operation import Context, Conversation, Operation, parse_arguments
from runtime.ports import Json, Model, ModelRequest
from runtime.prices import cost_micros
from runtime.steps import CallModel, Finish, GiveUp, RunTools, Stop
from runtime.toolbox import in_fixed_order, operation_named
from runtime.tools import ExternalContext, Returned, failed, inside, late, outside, unknown
from storage.errors import StorageError
from storage.jobs import Jobs
from storage.queries import identity, messaging
from storage.tenancy import Database

logger = logging.getLogger(__name__)

MAX_DEATHS = 5
"""Workers that may die over one execution before it is parked as failed."""

INVALID_REPLIES = 3
"""Cut or malformed replies in a row before we wait like after an overload."""

ELSEWHERE_S = 30.0
"""How long an execution rests whose agent only another program knows, before anybody looks at it again."""

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 2.0, 300.0

PATIENCE_S = 0.5
"""How much longer than its time limit a tool inside a transaction is waited for."""

CANCELLED = ExecutionEnded(status="cancelled", text="cancelled on request")

Closing = Callable[[AsyncSession, Claim, ExecutionEnded], Awaitable[None]]
"""What else belongs into the transaction that ends an execution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The execution is over."""

    event: ExecutionEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """The model cannot answer now; go on in `delay_s` seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NotOurs:
    """The execution is over already, waits for another one of its session, or somebody else drives or can drive it."""


Outcome = Ended | Later | NotOurs


@dataclass
class _Run:
    """What the driver knows about the execution it drives."""

    claim: Claim
    agent: Agent
    zone: ZoneInfo
    conversation: Conversation | None
    prompt: str
    """What the channel adds to the agent's instructions."""
    participant_context: str
    events: list[Event] = field(default_factory=list[Event])
    """Of this execution."""
    history: list[Event] = field(default_factory=list[Event])
    """Of the whole session."""


class Driver:
    """Drives executions to their ends, one call each; one instance serves a whole process."""

    def __init__(
        self,
        *,
        database: Database,
        journal: PostgresJournal,
        model: Model,
        jobs: Jobs,
        closing: Closing,
        default_zone: str = "UTC",
        agents: Callable[[str], Agent] = agent_named,
        tools: Callable[[str], Operation] = operation_named,
    ) -> None:
        self._database = database
        self._journal = journal
        self._model = model
        self._jobs = jobs
        self._closing = closing
        self._default_zone = default_zone
        self._agents = agents
        self._tools = tools

    def with_own(self, *, agents: Callable[[str], Agent], tools: Callable[[str], Operation]) -> "Driver":
        """Return a driver on the same system that knows other agents and tools."""
        return Driver(
            database=self._database,
            journal=self._journal,
            model=self._model,
            jobs=self._jobs,
            closing=self._closing,
            default_zone=self._default_zone,
            agents=agents,
            tools=tools,
        )

    async def run(self, user_id: int, execution_id: int) -> Outcome:
        """Claim an execution and drive it until it ends, or until the model has to be waited for."""
        claim = await self._journal.claim(user_id, execution_id)
        if claim is None:
            return NotOurs()
        try:
            return await self._drive(claim)
        except LeaseLostError:
            logger.warning("another worker has taken over", extra={"executionId": execution_id})
            return NotOurs()
        except BaseException as error:
            # The process-wide renewal would keep this lease alive for ever, so it is given back whatever happened.
            blames = isinstance(error, Exception)
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await self._journal.release(claim, delay_s=FIRST_BACKOFF_S if blames else 0, blames=blames)
            raise

    async def _drive(self, claim: Claim) -> Outcome:
        try:
            run = await self._prepare(claim)
        except UnknownAgentError as error:
            if error.is_of_another_program:
                await self._journal.release(claim, delay_s=ELSEWHERE_S)
                return NotOurs()
            recorded = await self._journal.read(claim)
            events = [entry.event for entry in recorded if entry.execution_id == claim.execution_id]
            return await self._fail(claim, events, str(error))
        if claim.attempt > MAX_DEATHS:
            reason = f"parked: {claim.attempt - 1} workers failed over it; look at its last step, then run it again"
            return await self._fail(claim, run.events, reason)
        if claim.cancel_requested:
            return await self._end(claim, run.events, CANCELLED)
        outcome = None
        while outcome is None:
            outcome = await self._step(run)
        return outcome

    async def _step(self, run: _Run) -> Outcome | None:
        """Perform the next step; an outcome when the execution cannot go on now."""
        match decide(run.events, Limits(iterations=run.claim.max_iterations)):
            case CallModel():
                return await self._call_model(run)
            case RunTools(calls=calls):
                for call in calls:
                    await self._run_tool(run, call)
                return None
            case Finish(text=text):
                return await self._end(run.claim, run.events, ExecutionEnded(status="completed", text=text))
            case GiveUp(reason=reason):
                return await self._fail(run.claim, run.events, reason)
            case Stop(reason=reason):
                return await self._end(run.claim, run.events, ExecutionEnded(status="cancelled", text=reason))
            case _ as unreachable:
                assert_never(unreachable)

    async def _prepare(self, claim: Claim) -> _Run:
        agent = self._agents(claim.agent_name)
        async with self._database.begin(claim.user_id) as db:
            zone = ZoneInfo(await identity.timezone_of(db) or self._default_zone)
            row = await messaging.conversation_of_session(db, claim.session_id)
            webhook = await messaging.webhook(db, row.webhook_id) if row else None
        conversation = (
            Conversation(id=row.id, webhook_id=row.webhook_id, participant_id=row.participant_id) if row else None
        )
        run = _Run(
            claim=claim,
            agent=agent,
            zone=zone,
            conversation=conversation,
            prompt=(webhook.system_prompt or "") if webhook else "",
            participant_context=f"\nfrom: {row.participant_id}" if row else "",
        )
        if claim.is_new:
            await self._journal.begin(claim, self._opening(run))
        recorded = await self._journal.read(claim)
        run.history = [entry.event for entry in recorded]
        run.events = [entry.event for entry in recorded if entry.execution_id == claim.execution_id]
        return run

    def _opening(self, run: _Run) -> UserSpoke:
        now = run.claim.now.astimezone(run.zone).isoformat(timespec="seconds")
        context = f"now: {now}\ntimezone: {run.zone.key}{run.participant_context}"
        origin = "participant" if run.conversation else "staff"
        return UserSpoke(text=run.claim.task, context=context, origin=origin)

    def _request(self, run: _Run) -> ModelRequest:
        """Build the request; whatever changes from call to call stays out of system and tools, for the prompt cache."""
        system = f"{run.agent.instructions}\n\n{run.prompt}".strip()
        return ModelRequest(
            system=system,
            messages=requests.messages_of(run.history),
            tools=[self._tools(name).spec for name in in_fixed_order(run.agent.tools)],
            model=run.agent.model,
        )

    async def _call_model(self, run: _Run) -> Outcome | None:
        """Ask the model and record its reply (T1); an outcome when the execution cannot go on now."""
        try:
            reply = await self._valid_reply(self._request(run))
        except ModelUnavailableError as error:
            return await self._wait(run, error)
        except ModelRequestError as error:
            return await self._fail(run.claim, run.events, str(error))
        cost = cost_micros(reply.model, reply.usage)
        cancelled = await self._journal.record_reply(run.claim, reply, cost=cost, task=run.claim.task)
        _note(run, reply)
        if cancelled:
            return await self._end(run.claim, run.events, CANCELLED)
        return None

    async def _valid_reply(self, request: ModelRequest) -> ModelReplied:
        """Ask again when a reply was cut: no tool has run, so that is safe."""
        problem = ""
        for _ in range(INVALID_REPLIES):
            try:
                return await self._model.reply(request)
            except ModelReplyInvalidError as error:
                problem = error.reason
                logger.warning("a model reply did not count", extra={"reason": error.reason})
        raise ModelUnavailableError(f"{INVALID_REPLIES} replies in a row did not count, the last because {problem}")

    async def _wait(self, run: _Run, error: ModelUnavailableError) -> Later:
        """Let go of the session; the time to go on is in the row, so no process has to remember it."""
        delay_s = error.retry_after_s or min(FIRST_BACKOFF_S * 2 ** min(run.claim.attempt, 8), LONGEST_BACKOFF_S)
        logger.warning("the model is unavailable", extra={"reason": error.reason, "delay_s": delay_s})
        await self._journal.release(run.claim, delay_s=delay_s)
        return Later(delay_s=delay_s)

    async def _run_tool(self, run: _Run, call: ToolCall) -> None:
        """Run one call, so that it ends in exactly one recorded result whatever the tool does."""
        try:
            operation = self._allowed(run, call)
            # `perform` reads the arguments of the others, inside their transaction.
            parsed = parse_arguments(operation, call.arguments) if operation.effect == "external" else None
        except (ToolError, StorageError) as error:
            await self._record(run, call, failed(str(error)))
            return
        if parsed is not None:
            await self._run_outside(run, call, operation, parsed)
            return
        try:
            await self._run_inside(run, call, operation)
        except TimeoutError:
            await self._record(run, call, failed(late(operation)))

    async def _run_inside(self, run: _Run, call: ToolCall, operation: Operation) -> None:
        """Run a tool of our database: its effect and its result commit together (T2)."""
        async with self._journal.tool_commit(run.claim, call) as commit:
            started = time.monotonic()
            # A little longer than the server lets a statement take, which is the end that keeps the transaction.
            with anyio.fail_after(operation.timeout_s + PATIENCE_S):
                returned = await inside(operation, self._context(run, commit.db), call.arguments)
            returned.write(commit, call, duration_s=time.monotonic() - started)
            if not returned.is_error:
                commit.facts = _facts(call, returned.result, run.events)
        _note_commit(run, commit)

    async def _run_outside(self, run: _Run, call: ToolCall, operation: Operation, parsed: BaseModel) -> None:
        """Run a tool with an effect elsewhere, with no transaction open, after recording that it begins.

        A worker that died in between leaves `started` behind. Then a tool that honours its key runs again under the
        same one; for any other the outcome is unknown, is recorded as unknown, and is never tried blindly.
        """
        key = hashlib.sha256(f"{run.claim.execution_id}:{call.id}".encode()).hexdigest()
        is_first = await self._journal.start_call(run.claim, call, key)
        if not is_first and not operation.honours_key:
            await self._record(run, call, unknown("a worker died while it ran"))
            return
        started = time.monotonic()
        context = ExternalContext(
            key=key, user_id=run.claim.user_id, execution_id=run.claim.execution_id, now=run.claim.now, zone=run.zone
        )
        returned = await outside(operation, context, parsed)
        await self._record(run, call, returned, duration_s=time.monotonic() - started)

    async def _record(self, run: _Run, call: ToolCall, returned: Returned, *, duration_s: float = 0) -> None:
        """Commit a result that has no effect beside it (T2)."""
        async with self._journal.tool_commit(run.claim, call) as commit:
            returned.write(commit, call, duration_s=duration_s)
        _note_commit(run, commit)

    def _allowed(self, run: _Run, call: ToolCall) -> Operation:
        if call.name not in run.agent.tools:
            raise UnknownToolError(call.name, run.agent.tools)
        return self._tools(call.name)

    def _context(self, run: _Run, db: AsyncSession) -> Context:
        return Context(
            db=db,
            jobs=self._jobs,
            user_id=run.claim.user_id,
            now=run.claim.now,
            zone=run.zone,
            session_id=run.claim.session_id,
            execution_id=run.claim.execution_id,
            agent_name=run.claim.agent_name,
            conversation=run.conversation,
        )

    async def _fail(self, claim: Claim, events: Sequence[Event], reason: str) -> Ended:
        return await self._end(claim, events, ExecutionEnded(status="failed", text=reason))

    async def _end(self, claim: Claim, events: Sequence[Event], ended: ExecutionEnded) -> Ended:
        # The journal keeps a reply as the model wrote it; columns and messages cannot hold every character.
        shown = ended.model_copy(update={"text": storable(ended.text)})
        async with self._journal.ending(claim, shown, events) as db:
            await self._closing(db, claim, shown)
        return Ended(event=shown)


def _note_commit(run: _Run, commit: ToolCommit) -> None:
    assert commit.returned is not None  # noqa: S101 -- settled before it was committed
    _note(run, commit.returned, *commit.facts)


def _note(run: _Run, *events: Event) -> None:
    run.events.extend(events)
    run.history.extend(events)


def _facts(call: ToolCall, result: Json, events: Sequence[Event]) -> list[Planned | PhaseAdvanced]:
    """Return what a call of ours says about the course of the execution."""
    match call.name:
        case "plan":
            return [Planned(goal=result["goal"], phases=tuple(result["phases"]))]
        case "advance_phase":
            since_plan = takewhile(lambda event: not isinstance(event, Planned), reversed(events))
            index = sum(isinstance(event, PhaseAdvanced) for event in since_plan) + 1
            return [PhaseAdvanced(index=index, name=result["current"])]
        case _:
            return []
