"""The one driver: it performs the steps that `decide` returns and records what happened. Only it touches the world."""

import json
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, assert_never
from zoneinfo import ZoneInfo

import anyio
from sqlalchemy.ext.asyncio import AsyncSession

from runtime import budget, compaction, telemetry
from runtime.agents import Agent, UnknownAgentError, agent_named
from runtime.decide import Limits, decide
from runtime.definitions import confined, definition_hash, merged_limits
from runtime.errors import (
    LeaseLostError,
    ModelReplyInvalidError,
    ModelRequestError,
    ModelUnavailableError,
    UnknownToolError,
)
from runtime.events import (
    CallWaits,
    Compacted,
    DefinitionChanged,
    Event,
    ExecutionEnded,
    ModelReplied,
    Planned,
    UserSpoke,
)
from runtime.journal import storable
from runtime.journal_port import Arrival, Claim, Journal
from runtime.names import is_of_a_program
from runtime.operation import Operation
from runtime.output import misfit
from runtime.ports import Model, ModelRequest
from runtime.prices import cost_micros
from runtime.running import Running
from runtime.steps import AskApproval, CallModel, Compact, Finish, GiveUp, RunTools, Step, Stop, Wait
from runtime.streaming import DeltaWriter, Feed
from runtime.tool_calls import ToolCaller
from runtime.toolbox import in_fixed_order, operation_named
from storage.jobs import Jobs

logger = logging.getLogger(__name__)

MAX_DEATHS = 5
"""Workers that may die over one execution before it is parked as failed."""

INVALID_REPLIES = 3
"""Cut or malformed replies in a row before we wait like after an overload."""

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 2.0, 300.0

CONTEXT_TOKENS = 160_000
"""Of a window of 200,000: beyond it the older part of a session is summed up."""

CANCELLED = ExecutionEnded(status="cancelled", text="cancelled on request")

Closing = Callable[[AsyncSession, Claim, ExecutionEnded], Awaitable[None]]
"""What else belongs into the transaction that ends an execution."""


class ToolSource(Protocol):
    """Tools that are not code here: those of other MCP servers."""

    async def operations(self, user_id: int, names: Sequence[str]) -> Mapping[str, Operation]:
        """Return what these names mean to a tenant, by the name that a model uses; names of other kinds are left out.

        Raises:
            UnknownToolError: there is no such tool.
        """
        ...


class AgentSource(Protocol):
    """Agents that are not code here: those that are rows."""

    async def __call__(self, user_id: int, name: str) -> Agent | None:
        """Return a tenant's agent; None: it has none of this name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The execution is over."""

    event: ExecutionEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """The model cannot answer now; go on in `delay_s` seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The execution waits for somebody, or a person has paused it; whoever answers wakes it up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotOurs:
    """The execution is over already, waits for another one of its session, or somebody else drives or can drive it."""


Outcome = Ended | Later | Held | NotOurs


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a program knows how to run."""

    agents: Callable[[str], Agent] = agent_named
    tools: Callable[[str], Operation] = operation_named
    agent_source: AgentSource | None = None
    tool_source: ToolSource | None = None


@dataclass(slots=True)
class _ModelCalls:
    """The model calls under way in this process, by execution, so that they can be broken off."""

    scopes: dict[int, anyio.CancelScope] = field(default_factory=dict[int, anyio.CancelScope])
    interrupted: set[int] = field(default_factory=set[int])


class _BrokenOffError(Exception):
    """A model call was ended before it had a reply."""


_Asked = TypeVar("_Asked")


class Driver:
    """Drives executions to their ends, one call each; one instance serves a whole process."""

    def __init__(
        self,
        *,
        journal: Journal,
        model: Model,
        jobs: Jobs,
        closing: Closing,
        known: Known | None = None,
        deltas: DeltaWriter | None = None,
        default_zone: str = "UTC",
        context_tokens: int = CONTEXT_TOKENS,
    ) -> None:
        self._journal = journal
        self._model = model
        self._jobs = jobs
        self._closing = closing
        self._known = known or Known()
        self._deltas = deltas
        self._default_zone = default_zone
        self._context_tokens = context_tokens
        self._caller = ToolCaller(journal, jobs)
        self._calls = _ModelCalls()

    def varied(
        self,
        *,
        agents: Callable[[str], Agent] | None = None,
        tools: Callable[[str], Operation] | None = None,
        journal: Journal | None = None,
        closing: Closing | None = None,
    ) -> "Driver":
        """Return a driver on the same system that differs in this."""
        known = replace(self._known, agents=agents or self._known.agents, tools=tools or self._known.tools)
        other = Driver(
            journal=journal or self._journal,
            model=self._model,
            jobs=self._jobs,
            closing=closing or self._closing,
            known=known,
            deltas=self._deltas,
            default_zone=self._default_zone,
            context_tokens=self._context_tokens,
        )
        other._calls = self._calls
        return other

    async def can_run(self, user_id: int, agent_name: str) -> bool:
        """Tell whether to claim an execution of this agent, or to leave it to a program that has the code.

        An agent or a tool that nobody can have counts as known: somebody has to say so in the execution.
        """
        try:
            agent = await self._agent_named(user_id, agent_name)
        except UnknownAgentError as error:
            return not error.is_of_another_program
        try:
            for name in filter(is_of_a_program, agent.tools):
                self._known.tools(name)
        except UnknownToolError:
            return False
        return True

    def interrupt(self, execution_ids: Iterable[int]) -> None:
        """Break off the model calls of these executions, because somebody wants them cancelled."""
        for execution_id in execution_ids:
            if scope := self._calls.scopes.get(execution_id):
                self._calls.interrupted.add(execution_id)
                scope.cancel()

    async def run(self, user_id: int, execution_id: int) -> Outcome:
        """Claim an execution and drive it until it ends, or until somebody or something has to be waited for."""
        claim = await self._journal.claim(user_id, execution_id)
        if claim is None:
            return NotOurs()
        try:
            with telemetry.invoking_agent(
                claim.agent_name, session_id=claim.session_id, execution_id=execution_id
            ) as span:
                outcome = await self._drive(claim)
                word = outcome.event.status if isinstance(outcome, Ended) else type(outcome).__name__.lower()
                telemetry.mark(span, word, is_error=word == "failed")
                return outcome
        except LeaseLostError:
            logger.warning("another worker has taken over", extra={"executionId": execution_id})
            # Or a commit went through although its answer was lost; then the lease is ours still, and nobody's now.
            await self._journal.release(claim)
            return NotOurs()
        except BaseException as error:
            # Given back whatever happened, so that nobody has to wait until it lapses.
            blames = isinstance(error, Exception)
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await self._journal.release(claim, delay_s=FIRST_BACKOFF_S if blames else 0, blames=blames)
            raise
        finally:
            self._journal.forget(claim)

    async def _drive(self, claim: Claim) -> Outcome:
        try:
            run = await self._prepare(claim)
        except UnknownAgentError as error:
            if claim.cancel_requested:
                return await self._end_unprepared(claim, CANCELLED)
            if error.is_of_another_program:
                # Without a delay: whoever has the agent is not to wait because we do not.
                await self._journal.release(claim)
                return NotOurs()
            return await self._fail_unprepared(claim, str(error))
        except UnknownToolError as error:
            if is_of_a_program(error.name):
                await self._journal.release(claim)
                return NotOurs()
            return await self._fail_unprepared(claim, str(error))
        if claim.attempt > MAX_DEATHS:
            reason = f"parked: {claim.attempt - 1} workers failed over it; look at its last step, then run it again"
            return await self._fail(claim, run.events, reason)
        if claim.cancel_requested:
            return await self._end(claim, run.events, CANCELLED)
        outcome = None
        while outcome is None:
            outcome = await self._step(run)
        return outcome

    async def _step(self, run: Running) -> Outcome | None:
        """Perform the next step; an outcome when the execution cannot go on now."""
        if run.signals.cancel:
            return await self._end(run.claim, run.events, CANCELLED)
        if run.signals.pause:
            return await self._hold(run, ())
        return await self._perform(run, decide(run.events, run.limits, spent=run.spent, asks=run.asks))

    async def _perform(self, run: Running, step: Step) -> Outcome | None:
        match step:
            case CallModel():
                return await self._call_model(run)
            case RunTools(calls=calls):
                return await self._caller.run(run, calls)
            case AskApproval(call=call, reason=reason):
                return await self._caller.ask(run, call, reason)
            case Wait(waits=waits):
                return await self._hold(run, waits)
            case Compact():
                return await self._compact(run)
            case Finish(text=text):
                return await self._finish(run, text)
            case GiveUp(reason=reason):
                return await self._fail(run.claim, run.events, reason)
            case Stop(reason=reason):
                return await self._end(run.claim, run.events, ExecutionEnded(status="cancelled", text=reason))
            case _ as unreachable:
                assert_never(unreachable)

    # --- before the first step ---

    async def _prepare(self, claim: Claim) -> Running:
        agent = confined(await self._agent_named(claim.user_id, claim.agent_name), claim.limits)
        telemetry.tell_model(agent.model or self._model.name)
        scene = await self._journal.scene(claim)
        run = Running(
            claim=claim,
            agent=agent,
            scene=scene,
            zone=ZoneInfo(scene.zone or self._default_zone),
            tools=await self._tools_of(claim, agent),
            limits=self._limits(claim, agent),
            cost_micros=claim.cost_micros,
        )
        defined = definition_hash(agent, scene.prompt, [operation.spec for operation in run.tools.values()])
        is_changed = not claim.is_new and claim.definition_hash not in (None, defined)
        if claim.is_new:
            await self._journal.begin(claim, _opening(run), definition_hash=defined, seconds=run.limits.seconds)
        elif is_changed:
            await self._journal.note(claim, DefinitionChanged(definition_hash=defined), definition_hash=defined)
        recorded = await self._journal.read(claim)
        run.load(recorded)
        run.next_seq = claim.next_seq + claim.is_new + is_changed
        return run

    async def _agent_named(self, user_id: int, name: str) -> Agent:
        try:
            return self._known.agents(name)
        except UnknownAgentError:
            source = self._known.agent_source
            found = None if source is None else await source(user_id, name)
            if found is None:
                raise
            return found

    async def _tools_of(self, claim: Claim, agent: Agent) -> Mapping[str, Operation]:
        """Return the agent's tools in the order of its requests: ours, then those of other servers."""
        ours = [name for name in agent.tools if "/" not in name]
        operations = [self._known.tools(name) for name in in_fixed_order(ours)]
        found = {operation.name: operation for operation in operations}
        others = [name for name in agent.tools if "/" in name]
        if others and self._known.tool_source is None:
            raise UnknownToolError(others[0], agent.tools)
        if others and self._known.tool_source is not None:
            found |= await self._known.tool_source.operations(claim.user_id, others)
        return found

    def _limits(self, claim: Claim, agent: Agent) -> Limits:
        of_agent = agent.limits or Limits(iterations=claim.max_iterations)
        iterations = min(of_agent.iterations, claim.max_iterations)
        limits = replace(of_agent, iterations=iterations, context_tokens=self._context_tokens)
        return merged_limits(limits, claim.limits)

    async def _fail_unprepared(self, claim: Claim, reason: str) -> Ended:
        return await self._end_unprepared(claim, ExecutionEnded(status="failed", text=reason))

    async def _end_unprepared(self, claim: Claim, ended: ExecutionEnded) -> Ended:
        recorded = await self._journal.read(claim)
        events = [entry.event for entry in recorded if entry.execution_id == claim.execution_id]
        return await self._end(claim, events, ended)

    # --- the model ---

    def _request(self, run: Running) -> ModelRequest:
        """Build the request; whatever changes from call to call stays out of system and tools, for the prompt cache."""
        must_plan = run.agent.plan == "required" and not run.is_planned
        offered = [
            operation.spec
            for operation in run.tools.values()
            if not must_plan or operation.name == "plan" or operation.effect == "none"
        ]
        return ModelRequest(
            system=f"{run.agent.instructions}\n\n{run.scene.prompt}".strip(),
            messages=run.transcript.messages,
            tools=offered,
            model=run.agent.model,
        )

    async def _call_model(self, run: Running) -> Outcome | None:
        """Ask the model and record its reply (T1); an outcome when the execution cannot go on now."""
        request = await self._within_budget(run, self._request(run))
        if isinstance(request, str):
            return await self._fail(run.claim, run.events, request)
        try:
            reply, said = await self._unless_broken_off(run, self._valid_reply, request)
        except ModelUnavailableError as error:
            return await self._wait(run, error)
        except ModelRequestError as error:
            return await self._fail(run.claim, run.events, str(error))
        except _BrokenOffError:
            return await self._broken_off(run)
        cost = cost_micros(reply.model, reply.usage)
        unplanned = not run.is_planned and all(call.name != "plan" for call in reply.calls)
        goal = run.claim.task if unplanned else None
        # A worker that died in the middle of a reply has left what it had said of it.
        said = said or run.claim.attempt > 1
        signals = await self._journal.record_reply(run.claim, reply, cost=cost, goal=goal, said=said)
        run.note(reply, *([] if goal is None else [Planned(goal=goal, phases=("answer",))]))
        run.pay(cost)
        run.signals = signals
        return None

    async def _within_budget(self, run: Running, request: ModelRequest) -> ModelRequest | str:
        """Set aside what the call may use, if anything is limited; or say why there is not enough left."""
        limits = run.limits
        if limits.tokens is None and limits.cost_micros is None:
            return request
        said = json.dumps([request.system, list(request.messages), [spec.input_schema for spec in request.tools]])
        reservation = budget.reserve(
            limits,
            run.spent,
            input_tokens=len(said) // budget.CHARACTERS_PER_TOKEN,
            max_tokens=request.max_tokens,
            price=lambda usage: cost_micros(request.model or self._model.name, usage),
        )
        if reservation is None or isinstance(reservation, str):
            return request if reservation is None else f"the allowance is used up: {reservation}"
        await self._journal.reserve(run.claim, tokens=reservation.tokens, cost_micros=reservation.cost_micros)
        return replace(request, max_tokens=reservation.max_tokens)

    async def _unless_broken_off(
        self, run: Running, ask: Callable[[Running, ModelRequest], Awaitable[_Asked]], request: ModelRequest
    ) -> _Asked:
        """Ask the model in a scope that a person's wish to cancel ends, and the end of the execution's time.

        Raises:
            _BrokenOffError: it was ended.
        """
        seconds, execution_id = run.limits.seconds, run.claim.execution_id
        left_s = math.inf if seconds is None else max(seconds - run.spent.seconds, 0)
        with anyio.move_on_after(left_s) as scope:
            self._calls.scopes[execution_id] = scope
            try:
                return await ask(run, request)
            finally:
                self._calls.scopes.pop(execution_id, None)
        raise _BrokenOffError

    async def _broken_off(self, run: Running) -> Ended:
        """End an execution whose model call was broken off: by a person, or by its own time limit."""
        execution_id = run.claim.execution_id
        if execution_id in self._calls.interrupted:
            self._calls.interrupted.discard(execution_id)
            return await self._end(run.claim, run.events, CANCELLED)
        return await self._fail(run.claim, run.events, f"reached the limit of {run.limits.seconds:g} s")

    async def _valid_reply(self, run: Running, request: ModelRequest) -> tuple[ModelReplied, bool]:
        """Ask again when a reply was cut: no tool has run, so that is safe. Also tell whether live text was written."""
        problem, said = "", False
        for _ in range(INVALID_REPLIES):
            async with self._feeding(run) as feed:
                try:
                    reply = await self._model.reply(request, on_text=feed)
                except ModelReplyInvalidError as error:
                    reply, problem = None, error.reason
                    logger.warning("a model reply did not count", extra={"reason": error.reason})
            said = said or (feed is not None and feed.written)
            if reply is not None:
                return reply, said
        raise ModelUnavailableError(f"{INVALID_REPLIES} replies in a row did not count, the last because {problem}")

    async def _plain_reply(self, run: Running, request: ModelRequest) -> ModelReplied:
        del run
        return await self._model.reply(request)

    @asynccontextmanager
    async def _feeding(self, run: Running) -> AsyncGenerator[Feed | None]:
        claim = run.claim
        if self._deltas is None:
            yield None
            return
        async with self._deltas.writing(
            user_id=claim.user_id, session_id=claim.session_id, epoch=claim.epoch, seq=run.next_seq
        ) as feed:
            yield feed

    async def _wait(self, run: Running, error: ModelUnavailableError) -> Later:
        """Let go of the session; the time to go on is in the row, so no process has to remember it."""
        delay_s = error.retry_after_s or min(FIRST_BACKOFF_S * 2 ** min(run.claim.attempt, 8), LONGEST_BACKOFF_S)
        logger.warning("the model is unavailable", extra={"reason": error.reason, "delay_s": delay_s})
        await self._journal.release(run.claim, delay_s=delay_s)
        return Later(delay_s=delay_s)

    async def _compact(self, run: Running) -> Outcome | None:
        """Have the older part of the session summed up, so that the rest fits the model's window again."""
        history = run.transcript.events
        steps = compaction.cut_at(history)
        if steps == 0:
            reason = "the session no longer fits the model's context window and cannot be summed up; start a new one"
            return await self._fail(run.claim, run.events, reason)
        request = compaction.summary_request(history, steps, model=run.agent.model)
        try:
            reply = await self._unless_broken_off(run, self._plain_reply, request)
        except (ModelUnavailableError, ModelReplyInvalidError) as error:
            return await self._wait(run, ModelUnavailableError(error.reason))
        except ModelRequestError as error:
            return await self._fail(run.claim, run.events, str(error))
        except _BrokenOffError:
            return await self._broken_off(run)
        compacted = Compacted(steps=steps, summary=reply.text, model=reply.model, usage=reply.usage)
        cost = cost_micros(reply.model, reply.usage)
        await self._journal.record_summary(run.claim, compacted, cost=cost)
        run.note(compacted)
        run.pay(cost)
        return None

    # --- waiting and ending ---

    async def _hold(self, run: Running, waits: Sequence[CallWaits]) -> Outcome | None:
        """Take what has come for the calls that wait; without anything, let go until somebody answers."""
        arrivals: Mapping[str, Arrival] = await self._journal.arrivals(run.claim, waits) if waits else {}
        calls = {call.id: call for event in run.events if isinstance(event, ModelReplied) for call in event.calls}
        for call_id, arrival in arrivals.items():
            await self._caller.take(run, calls[call_id], arrival)
        if arrivals:
            return None
        if await self._journal.hold(run.claim, waits, run.events):
            return Held()
        run.signals = replace(run.signals, pause=False)
        return None

    async def _finish(self, run: Running, text: str) -> Outcome | None:
        """End with an answer; one that does not fit the agent's output schema is asked for once more."""
        is_over = any(isinstance(event, ExecutionEnded) for event in run.events)
        problem = None if is_over else misfit(run.agent.output_schema, text)
        if problem is None:
            return await self._end(run.claim, run.events, ExecutionEnded(status="completed", text=text))
        if any(isinstance(event, UserSpoke) and event.origin == "system" for event in run.events):
            return await self._fail(run.claim, run.events, f"the answer does not fit the output schema: {problem}")
        told = UserSpoke(text=f"Your answer does not fit: {problem}. Give the whole answer again.", origin="system")
        await self._journal.note(run.claim, told)
        run.note(told)
        return None

    async def _fail(self, claim: Claim, events: Sequence[Event], reason: str) -> Ended:
        return await self._end(claim, events, ExecutionEnded(status="failed", text=reason))

    async def _end(self, claim: Claim, events: Sequence[Event], ended: ExecutionEnded) -> Ended:
        # The journal keeps a reply as the model wrote it; columns and messages cannot hold every character.
        shown = ended.model_copy(update={"text": storable(ended.text)})
        async with self._journal.ending(claim, shown, events) as db:
            await self._closing(db, claim, shown)
        return Ended(event=shown)


def _opening(run: Running) -> UserSpoke:
    now = run.claim.now.astimezone(run.zone).isoformat(timespec="seconds")
    conversation = run.scene.conversation
    participant = f"\nfrom: {conversation.participant_id}" if conversation else ""
    context = f"now: {now}\ntimezone: {run.zone.key}{participant}"
    return UserSpoke(text=run.claim.task, context=context, origin="participant" if conversation else "staff")
