"""Running tool calls, so that each ends in exactly one recorded result whatever the tool does.

What a crash does to a call follows from the kind of its effect (see `Effect`): this is the one place that knows.
"""

import hashlib
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from itertools import groupby

import anyio
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from runtime import telemetry, tool_outbox
from runtime.errors import ApprovalGoneError, ToolError
from runtime.events import (
    CallApproved,
    CallWaits,
    Event,
    PhaseAdvanced,
    Planned,
    ToolCall,
    ToolReturned,
    WaitsFor,
)
from runtime.journal_port import Answered, Granted, Journal, Settled, ToolCommit
from runtime.operation import Context, Operation, parse_arguments, values_of
from runtime.operations.conversation import ask_about
from runtime.ports import Json
from runtime.running import Running
from runtime.tools import (
    Effected,
    ExternalContext,
    Returned,
    UndoneError,
    as_result,
    failed,
    inside,
    late,
    outside,
    succeeded,
    unknown,
)
from storage.errors import StorageError
from storage.jobs import Jobs

PATIENCE_S = 0.5
"""How much longer than its time limit a tool inside a transaction is waited for."""

LOOKING_AT_ONCE = 4
"""Calls without an effect that run beside each other; each has a connection of its own."""


class ToolCaller:
    """Runs the calls of every execution of a process."""

    def __init__(self, journal: Journal, jobs: Jobs) -> None:
        self._journal = journal
        self._jobs = jobs

    async def run(self, run: Running, calls: Sequence[ToolCall]) -> None:
        """Run calls in the model's order; neighbours without an effect run beside each other."""
        for may_overlap, group in groupby(calls, key=lambda call: _has_no_effect(run, call)):
            batch = list(group)
            if may_overlap and len(batch) > 1:
                await self._look_at_all(run, batch)
                continue
            for call in batch:
                if run.signals.cancel or run.signals.pause:
                    return
                await self._run_one(run, call)

    async def ask(self, run: Running, call: ToolCall, reason: str) -> None:
        """Put a call before a person."""
        run.note(await self._journal.ask_approval(run.claim, call, reason=reason))

    async def take(self, run: Running, call: ToolCall, arrival: Granted | Answered) -> None:
        """Record what has come for a call that waited."""
        match arrival:
            case Granted(approval_id=approval_id, by=by):
                await self._approve(run, call, approval_id, by)
            case Answered():
                returned = Returned(
                    result=arrival.result,
                    text=arrival.text,
                    is_error=arrival.is_error,
                    state=arrival.state,
                    label=arrival.label,
                )
                await self._record(run, call, returned)

    async def _approve(self, run: Running, call: ToolCall, approval_id: int, by: str) -> None:
        approved = CallApproved(call_id=call.id, approval_id=approval_id, by=by)
        await self._journal.note(run.claim, approved)
        run.note(approved)

    async def _run_one(self, run: Running, call: ToolCall) -> None:
        try:
            operation = run.operation(call)
            # `run_operation` reads the arguments of the others, inside their transaction.
            is_inside = operation.effect in ("none", "db")
            parsed = None if is_inside else parse_arguments(operation, call.arguments)
        except (ToolError, StorageError) as error:
            await self._record(run, call, failed(str(error)))
            return
        if reason := run.refuses(call):
            await self._record(run, call, failed(f"not run: {reason}"))
            return
        with telemetry.executing_tool(operation.name, call_id=call.id, effect=operation.effect) as span:
            try:
                settled = await self._perform(run, call, operation, parsed)
            except ApprovalGoneError as error:
                settled = await self._record(run, call, failed(f"not run: {error}"))
            telemetry.mark(span, settled.state, is_error=settled.state in ("error", "unknown"))

    async def _perform(self, run: Running, call: ToolCall, operation: Operation, parsed: BaseModel | None) -> Settled:
        if parsed is None:
            return await self._run_inside(run, call, operation)
        if operation.effect == "outbox":
            return await self._queue(run, call, operation)
        return await self._run_outside(run, call, operation, parsed)

    async def _run_inside(self, run: Running, call: ToolCall, operation: Operation) -> Settled:
        """Run a tool of our database: its effect and its result commit together (T2)."""
        started = time.monotonic()
        try:
            async with self._journal.tool_commit(run.claim, permit=run.permit(call)) as commit:
                effected = await _in_time(operation, inside(operation, self._context(run, commit.db), call.arguments))
                settled = effected.settled(call, duration_s=time.monotonic() - started)
                _settle(commit, settled, effected, run)
        except UndoneError as undone:
            return await self._record(run, call, undone.returned, duration_s=time.monotonic() - started)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _IN_FAILED_TRANSACTION:
                raise
            reason = f"{operation.name} failed: it went on after an error of the database; let such errors through"
            return await self._record(run, call, failed(reason))
        _note(run, commit)
        return settled

    async def _look_at_all(self, run: Running, calls: Sequence[ToolCall]) -> None:
        """Run calls without an effect beside each other and record their results together, in the model's order."""
        found: dict[str, Settled] = {}
        limiter = anyio.CapacityLimiter(LOOKING_AT_ONCE)

        async def look(call: ToolCall) -> None:
            async with limiter:
                found[call.id] = await self._look(run, call)

        async with anyio.create_task_group() as tasks:
            for call in calls:
                tasks.start_soon(look, call)
        async with self._journal.tool_commit(run.claim) as commit:
            commit.settled.extend(found[call.id] for call in calls)
        _note(run, commit)

    async def _look(self, run: Running, call: ToolCall) -> Settled:
        operation = run.operation(call)
        started = time.monotonic()
        with telemetry.executing_tool(operation.name, call_id=call.id, effect=operation.effect) as span:
            try:
                async with self._journal.looking(run.claim) as db:
                    effected = await _in_time(operation, inside(operation, self._context(run, db), call.arguments))
                settled = effected.settled(call, duration_s=time.monotonic() - started)
            except UndoneError as undone:
                settled = undone.returned.settled(call, duration_s=time.monotonic() - started)
            telemetry.mark(span, settled.state, is_error=settled.state == "error")
        return settled

    async def _queue(self, run: Running, call: ToolCall, operation: Operation) -> Settled:
        """Queue what is to be sent: the row that will send it and the result commit together."""
        async with self._journal.tool_commit(run.claim, permit=run.permit(call)) as commit:
            queued = await tool_outbox.queue(commit.db, self._jobs, run.claim, call)
            returned = succeeded({"queued": True, "id": queued})
            commit.settled.append(returned.settled(call, duration_s=0))
        del operation
        _note(run, commit)
        return commit.settled[0]

    async def _run_outside(self, run: Running, call: ToolCall, operation: Operation, parsed: BaseModel) -> Settled:
        """Run a tool with an effect elsewhere, with no transaction open, after recording that it begins.

        A worker that died in between leaves `started` behind. Then a tool that honours its key runs again under the
        same one; of any other nobody knows what became of it, and it is never tried blindly.
        """
        key = call_key(run.claim.execution_id, call)
        context = external_context(run, key)
        is_first = await self._journal.start_call(run.claim, call, key, permit=run.permit(call))
        if not is_first and not operation.honours_key:
            return await self._clear_up(run, call, operation, parsed, "a worker died while it ran")
        started = time.monotonic()
        returned = await outside(operation, context, parsed)
        if returned.state == "unknown" and not operation.honours_key:
            return await self._clear_up(run, call, operation, parsed, returned.text, returned)
        return await self._record(run, call, returned, duration_s=time.monotonic() - started)

    async def _clear_up(
        self,
        run: Running,
        call: ToolCall,
        operation: Operation,
        parsed: BaseModel,
        reason: str,
        told: Returned | None = None,
    ) -> Settled:
        """Do about a call of unknown outcome what its tool says."""
        context = external_context(run, call_key(run.claim.execution_id, call))
        if operation.reconcile is not None:
            return await self._reconcile(run, call, operation, parsed, reason)
        if operation.on_unknown == "retry":
            return await self._record(run, call, await outside(operation, context, parsed))
        if operation.on_unknown == "ask_person":
            question = (
                f"Did {call.name} take effect? {reason}, so nobody knows. Arguments: {call.arguments}. "
                "Look, and answer what became of it; the agent reads your answer as the result."
            )
            return await self._ask_person(run, call, question)
        return await self._record(run, call, told or unknown(reason))

    async def _reconcile(
        self, run: Running, call: ToolCall, operation: Operation, parsed: BaseModel, reason: str
    ) -> Settled:
        """Look whether the call took effect; run it when it certainly did not."""
        assert operation.reconcile is not None  # noqa: S101 -- the caller has looked
        context = external_context(run, call_key(run.claim.execution_id, call))
        try:
            with anyio.fail_after(operation.timeout_s):
                found = await operation.reconcile(**values_of(parsed))
            if found is not None:
                returned = replace(succeeded(as_result(found)), label=operation.label)
                return await self._record(run, call, returned)
        except Exception as error:  # noqa: BLE001 -- whatever it raises, nobody knows more than before
            returned = replace(unknown(f"{reason}, and looking failed: {error}"), label=operation.label)
            return await self._record(run, call, returned)
        return await self._record(run, call, await outside(operation, context, parsed))

    async def _ask_person(self, run: Running, call: ToolCall, question: str) -> Settled:
        async with self._journal.tool_commit(run.claim) as commit:
            card_id = await ask_about(self._context(run, commit.db), question)
            waits = CallWaits(call_id=call.id, waits_for=WaitsFor(kind="answer", id=card_id))
            commit.settled.append(Settled(call=call, event=waits, state="started"))
        _note(run, commit)
        return commit.settled[0]

    async def _record(self, run: Running, call: ToolCall, returned: Returned, *, duration_s: float = 0) -> Settled:
        """Commit a result that has no effect beside it (T2)."""
        async with self._journal.tool_commit(run.claim) as commit:
            commit.settled.append(returned.settled(call, duration_s=duration_s))
        _note(run, commit)
        return commit.settled[0]

    def _context(self, run: Running, db: AsyncSession) -> Context:
        return Context(
            db=db,
            jobs=self._jobs,
            user_id=run.claim.user_id,
            now=run.claim.now,
            zone=run.zone,
            session_id=run.claim.session_id,
            execution_id=run.claim.execution_id,
            agent_name=run.claim.agent_name,
            conversation=run.scene.conversation,
            label=run.label_of_reply,
            allowance=run.allowance,
        )


_IN_FAILED_TRANSACTION = "25P02"


async def _in_time(operation: Operation, effect: Awaitable[Effected]) -> Effected:
    """Wait for a tool inside a transaction a little longer than the server lets a statement take.

    Raises:
        UndoneError: it took too long. Not the TimeoutError itself, which a commit may raise as well.
    """
    try:
        with anyio.fail_after(operation.timeout_s + PATIENCE_S):
            return await effect
    except TimeoutError:
        raise UndoneError(failed(late(operation))) from None


def call_key(execution_id: int, call: ToolCall) -> str:
    """Return the idempotency key of a call: the same for every attempt at it, and for no other call."""
    return hashlib.sha256(f"{execution_id}:{call.id}".encode()).hexdigest()


def external_context(run: Running, key: str) -> ExternalContext:
    """Return what an external tool may want to know."""
    return ExternalContext(
        key=key, user_id=run.claim.user_id, execution_id=run.claim.execution_id, now=run.claim.now, zone=run.zone
    )


def _has_no_effect(run: Running, call: ToolCall) -> bool:
    operation = run.tools.get(call.name)
    if operation is None or operation.effect != "none":
        return False
    return run.permit(call) is None and run.refuses(call) is None


def _settle(commit: ToolCommit, settled: Settled, effected: Effected, run: Running) -> None:
    commit.settled.append(settled)
    if effected.audited is not None:
        commit.audits.append(effected.audited)
    if isinstance(settled.event, ToolReturned):
        commit.facts.extend(_facts(settled.call, settled.result, run.events))


def _note(run: Running, commit: ToolCommit) -> None:
    run.note(*commit.events, labels=commit.labels)
    run.signals = commit.signals


def _facts(call: ToolCall, result: Json, events: Sequence[Event]) -> list[Event]:
    """Return what a call of ours says about the course of the execution."""
    match call.name:
        case "plan":
            return [Planned(goal=result["goal"], phases=tuple(result["phases"]))]
        case "advance_phase":
            index = 1
            for event in reversed(events):
                if isinstance(event, Planned):
                    break
                index += isinstance(event, PhaseAdvanced)
            return [PhaseAdvanced(index=index, name=result["current"])]
        case _:
            return []
