"""A journal without a database: the same answers as `runtime.journal.PostgresJournal` to every command.

tests/contract runs the same random commands against both and demands equal answers and equal rows; that is what makes
simulated interleavings say something about the real one. Every command is one commit at one instant. Nothing waits for
a lock: of two transactions that overlap the first to commit wins, and the other one meets the fence.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Literal

from anyio.lowlevel import checkpoint
from sqlalchemy.exc import IntegrityError, NoResultFound

from runtime.approvals import Permit, request_hash
from runtime.errors import ApprovalGoneError, LeaseLostError
from runtime.events import (
    CallWaits,
    Compacted,
    Event,
    ExecutionEnded,
    ModelReplied,
    Planned,
    ToolCall,
    ToolReturned,
    Usage,
    UserSpoke,
    WaitsFor,
)
from runtime.journal import LEASE_S, storable
from runtime.journal_port import Answered, Arrival, Claim, Granted, Recorded, Scene, Settled, Signals, ToolCommit
from runtime.labels import BY_STAFF, NOTHING_READ, Label, kept_label, label_of
from runtime.testing.memory_store import (
    APPROVAL_LIFE,
    ApprovalRow,
    AuditRow,
    CallRow,
    ExecutionRow,
    MemoryDb,
    MemoryStore,
    SessionRow,
)

LEASE = timedelta(seconds=LEASE_S)

Fenced = Literal["append", "t1", "t2", "release", "renew"]
"""The writes that compare the epoch, after the statements of the real journal."""


class MemoryJournal:
    """The journal of every session in one store, for one process. See `runtime.journal_port.Journal`."""

    def __init__(self, store: MemoryStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._held: set[tuple[int, int]] = set()

    async def claim(self, user_id: int, execution_id: int) -> Claim | None:
        """Take the lease of an execution's session, if it is free and the execution can go on."""
        await checkpoint()
        store, now = self._store, self._store.now()
        execution = store.executions.get(execution_id)
        if execution is None or execution.user_id != user_id or not self._is_claimable(execution, now):
            return None
        session = store.sessions[execution.session_id]
        if session.status == "paused" and execution.status in ("planning", "executing"):
            session.status = execution.status
        session.lease_owner, session.lease_until = self._owner, now + LEASE
        session.lease_epoch += 1
        execution.attempt += 1
        execution.started_at = execution.started_at or now
        execution.run_after = execution.waiting_for = None
        execution.unsettled_tokens += execution.reserved_tokens
        execution.unsettled_cost_micros += execution.reserved_cost_micros
        execution.reserved_tokens = execution.reserved_cost_micros = 0
        self._held.add((session.id, session.lease_epoch))
        return _claimed(session, execution, now)

    def _is_claimable(self, execution: ExecutionRow, now: datetime) -> bool:
        store = self._store
        is_due = execution.run_after is None or execution.run_after <= now
        can_go_on = not execution.is_over and is_due and not store.is_held(execution)
        return can_go_on and store.is_free(store.sessions[execution.session_id]) and store.is_next(execution)

    async def read(self, claim: Claim) -> list[Recorded]:
        """Return the whole history of the claimed session, that of the sessions it was forked from first."""
        await checkpoint()
        return self._line(claim.session_id, None)

    def _line(self, session_id: int, upto: int | None) -> list[Recorded]:
        session = self._store.sessions[session_id]
        parent = session.parent_session_id
        before = [] if parent is None else self._line(parent, session.parent_seq)
        return before + self._store.steps[session_id][:upto]

    async def scene(self, claim: Claim) -> Scene:
        """Return where the execution takes place."""
        await checkpoint()
        scene = self._store.scenes.get(claim.session_id, Scene(zone=None))
        ancestors = self._ancestors(claim.execution_id)
        if scene.conversation is not None or not ancestors:
            return scene
        origin = self._store.scenes.get(ancestors[-1].session_id, scene)
        read = self._read_in({one.session_id for one in ancestors})
        return Scene(zone=scene.zone, conversation=origin.conversation, inherited=read)

    def _ancestors(self, execution_id: int) -> list[ExecutionRow]:
        """Return the executions that delegated this one, the nearest first."""
        parent = self._store.executions[execution_id].parent_execution_id
        return [] if parent is None else [self._store.executions[parent], *self._ancestors(parent)]

    def _read_in(self, session_ids: Iterable[int]) -> Label:
        """Return the label of everything that is recorded in these sessions."""
        steps = (recorded for session_id in session_ids for recorded in self._store.steps[session_id])
        return NOTHING_READ.join(*(recorded.label for recorded in steps if recorded.label is not None))

    async def begin(
        self, claim: Claim, event: UserSpoke, *, definition_hash: str, seconds: float | None = None
    ) -> None:
        """Record what the execution is about and show it as planning."""
        await checkpoint()
        session, execution = self._append(claim, [event])
        if seconds is not None and execution.started_at is not None:
            execution.deadline = execution.started_at + timedelta(seconds=seconds)
        execution.definition_hash = definition_hash
        execution.status = session.status = "planning"

    async def note(self, claim: Claim, *events: Event, definition_hash: str | None = None) -> None:
        """Append facts."""
        await checkpoint()
        _, execution = self._append(claim, events)
        execution.definition_hash = definition_hash or execution.definition_hash

    async def reserve(self, claim: Claim, *, tokens: int, cost_micros: int) -> None:
        """Set aside what the next model call may cost at most."""
        await checkpoint()
        _, execution = self._append(claim, [])
        execution.reserved_tokens, execution.reserved_cost_micros = tokens, cost_micros

    async def record_reply(
        self, claim: Claim, reply: ModelReplied, *, cost: int | None, goal: str | None, said: bool = False
    ) -> Signals:
        """T1: record a reply, every call it intends, its usage and a longer lease."""
        del said  # there is no live text to forget
        await checkpoint()
        keys = [(claim.execution_id, call.id) for call in reply.calls]
        session = self._fenced(claim, "t1")
        if len(set(keys)) < len(keys) or any(key in self._store.calls for key in keys):
            raise IntegrityError("the id of a call is unique within its execution", None, ValueError(repr(keys)))
        events: list[Event] = [reply] if goal is None else [reply, Planned(goal=goal, phases=("answer",))]
        execution = self._record(session, claim, events, self._store.now())
        _count(session, execution, reply.usage, cost, iterations=1)
        execution.tool_calls += len(keys)
        for key, call in zip(keys, reply.calls, strict=True):
            self._store.calls[key] = CallRow(
                user_id=claim.user_id,
                execution_id=claim.execution_id,
                tool_use_id=call.id,
                tool_name=storable(call.name)[:100],
                parameters=storable(call.arguments),
                lease_epoch=claim.epoch,
            )
        if goal is not None:
            _plan(session, execution, goal)
        return _signals(execution)

    async def record_summary(self, claim: Claim, compacted: Compacted, *, cost: int | None) -> None:
        """Record a summary and what it cost."""
        await checkpoint()
        session = self._fenced(claim, "t1")
        execution = self._record(session, claim, [compacted], self._store.now())
        _count(session, execution, compacted.usage, cost, iterations=0)

    @asynccontextmanager
    async def looking(self, claim: Claim) -> AsyncGenerator[MemoryDb]:
        """Open a transaction that can only read."""
        await checkpoint()
        yield MemoryDb(self._store.kept_by(claim.user_id), read_only=True)

    @asynccontextmanager
    async def tool_commit(self, claim: Claim, *, permit: Permit | None = None) -> AsyncGenerator[ToolCommit]:
        """T2: open the transaction in which tools' effects and their results commit together."""
        await checkpoint()
        opened_at = self._store.now()  # what now() is in a transaction until it ends
        approval = None if permit is None else self._granted(claim, permit)
        db = MemoryDb(self._store.kept_by(claim.user_id))
        commit = ToolCommit(db)
        yield commit
        commit.signals = self._settle(claim, commit, opened_at)
        if approval is not None:
            approval.status = "used"
        db.commit()

    def _settle(self, claim: Claim, commit: ToolCommit, opened_at: datetime) -> Signals:
        session = self._fenced(claim, "t2")
        rows = [self._store.calls.get((claim.execution_id, settled.call.id)) for settled in commit.settled]
        is_unique = len({settled.call.id for settled in commit.settled}) == len(rows)
        if not is_unique or any(row is None or not row.is_open for row in rows):
            raise LeaseLostError(claim.session_id, claim.epoch)
        for row, settled in zip(rows, commit.settled, strict=True):
            if row is not None:
                _write(row, settled, claim.epoch)
        execution = self._record(session, claim, commit.events, opened_at, commit.labels)
        for audit in commit.audits:
            values = audit.values()
            self._store.audits.append(
                AuditRow(
                    user_id=claim.user_id,
                    action=values["action"],
                    entity_type=values["entityType"],
                    entity_id=values["entityId"],
                    new_values=values["newValues"],
                )
            )
        return _signals(execution)

    async def start_call(self, claim: Claim, call: ToolCall, key: str, *, permit: Permit | None = None) -> bool:
        """Record that an external tool is about to act; False: a worker that is gone had recorded that before."""
        await checkpoint()
        session = self._fenced(claim, "append")
        row = self._call(claim, call)
        is_first = row.state in ("pending", "awaiting_approval")
        if is_first:
            if permit is not None:
                self._granted(claim, permit).status = "used"
            row.state, row.idempotency_key, row.lease_epoch = "started", key, claim.epoch
        self._record(session, claim, [], self._store.now())
        return is_first

    async def ask_approval(self, claim: Claim, call: ToolCall, *, reason: str) -> CallWaits:
        """Put a call before a person, and record that it waits for the answer."""
        async with self.tool_commit(claim) as commit:
            self._fenced(claim, "append")
            approval = self._asked(claim, call, reason)
            waits = CallWaits(call_id=call.id, waits_for=WaitsFor(kind="approval", id=approval.id))
            commit.settled.append(Settled(call=call, event=waits, state="awaiting_approval"))
        self._store.approvals[approval.id] = approval
        return waits

    def _asked(self, claim: Claim, call: ToolCall, reason: str) -> ApprovalRow:
        attempt = self._call(claim, call).attempt
        approval = ApprovalRow(
            id=self._store.next_approval_id(),
            user_id=claim.user_id,
            execution_id=claim.execution_id,
            tool_use_id=call.id,
            attempt=attempt,
            tool_name=storable(call.name)[:100],
            request_hash=request_hash(claim.user_id, claim.execution_id, call),
            payload=storable(call.arguments),
            reason=reason,
            expires_at=self._store.now() + APPROVAL_LIFE,
        )
        asked = ((one.execution_id, one.tool_use_id, one.attempt) for one in self._store.approvals.values())
        if (approval.execution_id, approval.tool_use_id, approval.attempt) in asked:
            raise IntegrityError("an attempt at a call is asked about once", None, ValueError(call.id))
        return approval

    async def arrivals(self, claim: Claim, waits: Sequence[CallWaits]) -> Mapping[str, Arrival]:
        """Return what has come for calls that wait, by call id."""
        await checkpoint()
        return self._arrived(claim, waits)

    async def hold(self, claim: Claim, waits: Sequence[CallWaits], events: Sequence[Event]) -> bool:
        """Let go of an execution that waits, or (without `waits`) that a person has paused."""
        del events  # of which only columns are made that show something
        await checkpoint()
        self._fenced(claim, "append")
        execution = self._store.executions[claim.execution_id]
        goes_on = bool(self._arrived(claim, waits)) if waits else execution.paused_at is None
        if goes_on:
            return False
        self._free(self._store.sessions[claim.session_id], "paused")
        first = waits[0].waits_for if waits else None
        execution.waiting_for = None if first is None else {"kind": first.kind, "id": first.id, "calls": len(waits)}
        execution.attempt -= 1
        return True

    @asynccontextmanager
    async def ending(self, claim: Claim, ended: ExecutionEnded, events: Sequence[Event]) -> AsyncGenerator[MemoryDb]:
        """End the execution: status and whatever the caller adds in the block commit together."""
        del events  # as in `hold`
        await checkpoint()
        opened_at = self._store.now()
        self._fenced(claim, "append")
        db = MemoryDb(self._store.kept_by(claim.user_id))
        yield db
        session = self._fenced(claim, "append")
        execution = self._record(session, claim, [ended], opened_at)
        self._free(session, "error" if ended.status == "failed" else None)
        self._settle_what_never_ran(claim, opened_at)
        _end(execution, ended, opened_at, self._store.now())
        db.commit()

    async def release(self, claim: Claim, *, delay_s: float = 0, blames: bool = False) -> None:
        """Give the session back unfinished."""
        await checkpoint()
        session = self._store.sessions[claim.session_id]
        if not self._is_current(session, claim.epoch, "release"):
            return
        session.lease_owner = session.lease_until = None
        execution = self._store.executions[claim.execution_id]
        if not execution.is_over:
            execution.run_after = self._store.now() + timedelta(seconds=delay_s)
            execution.attempt -= 0 if blames else 1

    def forget(self, claim: Claim) -> None:
        """Renew this claim no more: nobody here drives it."""
        self._held.discard((claim.session_id, claim.epoch))

    async def renew_all(self) -> frozenset[int]:
        """Prolong every lease of this process; return the executions that are to be cancelled."""
        await checkpoint()
        now = self._store.now()
        for session_id, epoch in sorted(self._held):
            session = self._store.sessions[session_id]
            is_mine = session.lease_owner == self._owner and self._is_current(session, epoch, "renew")
            if is_mine and session.lease_until is not None and session.lease_until > now:
                session.lease_until = now + LEASE
        return frozenset(
            one.id
            for one in self._store.executions.values()
            if one.status in ("planning", "executing")
            and one.cancel_requested_at is not None
            and self._store.sessions[one.session_id].lease_owner == self._owner
        )

    # --- the fence ---

    def _is_current(self, session: SessionRow, epoch: int, statement: Fenced) -> bool:
        del statement  # tests break the fence of one write at a time
        return session.lease_epoch == epoch

    def _fenced(self, claim: Claim, statement: Fenced) -> SessionRow:
        session = self._store.sessions[claim.session_id]
        if not self._is_current(session, claim.epoch, statement):
            raise LeaseLostError(claim.session_id, claim.epoch)
        return session

    # --- rows ---

    def _append(self, claim: Claim, events: Sequence[Event]) -> tuple[SessionRow, ExecutionRow]:
        session = self._fenced(claim, "append")
        return session, self._record(session, claim, events, self._store.now())

    def _record(
        self,
        session: SessionRow,
        claim: Claim,
        events: Sequence[Event],
        now: datetime,
        labels: Sequence[Label] | None = None,
    ) -> ExecutionRow:
        """Append events and take the lease for as long again; `labels` are what they say themselves, unless given."""
        for event, label in zip(events, labels or map(label_of, events), strict=True):
            kept = kept_label(event, label)
            recorded = Recorded(execution_id=claim.execution_id, event=event, label=kept)
            self._store.steps[session.id].append(recorded)
        session.next_seq += len(events)
        session.lease_until = max(session.lease_until or now, now + LEASE)
        return self._store.executions[claim.execution_id]

    def _call(self, claim: Claim, call: ToolCall) -> CallRow:
        try:
            return self._store.calls[claim.execution_id, call.id]
        except KeyError:
            raise NoResultFound(f"no call {call.id!r} was recorded; record the reply that makes it first") from None

    def _granted(self, claim: Claim, permit: Permit) -> ApprovalRow:
        approval = self._store.approvals.get(permit.approval_id)
        hashed = request_hash(claim.user_id, claim.execution_id, permit.call)
        if (
            approval is None
            or (approval.execution_id, approval.request_hash, approval.status)
            != (claim.execution_id, hashed, "granted")
            or approval.expires_at <= self._store.now()
        ):
            raise ApprovalGoneError(permit.approval_id)
        return approval

    def _free(self, session: SessionRow, status: Literal["paused", "error"] | None) -> None:
        session.lease_owner = session.lease_until = None
        session.status = status or ("complete" if session.context.get("oneTask") else "idle")

    def _settle_what_never_ran(self, claim: Claim, now: datetime) -> None:
        for approval in self._store.approvals.values():
            if approval.execution_id == claim.execution_id and approval.status in ("pending", "granted"):
                approval.status, approval.decided_at = "expired", now
        for call in self._store.calls.values():
            if call.execution_id == claim.execution_id and call.is_open:
                call.state = "cancelled"

    def _arrived(self, claim: Claim, waits: Sequence[CallWaits]) -> dict[str, Arrival]:
        found = ((wait.call_id, self._arrival(claim, wait)) for wait in waits)
        return {call_id: arrival for call_id, arrival in found if arrival is not None}

    def _arrival(self, claim: Claim, wait: CallWaits) -> Arrival | None:
        match wait.waits_for.kind:
            case "approval":
                approval = self._store.approvals.get(wait.waits_for.id)
                asked = (claim.execution_id, wait.call_id)
                is_this = approval is not None and (approval.execution_id, approval.tool_use_id) == asked
                return _decided(approval) if approval is not None and is_this else None
            case "answer":
                call = self._store.calls.get((claim.execution_id, wait.call_id))
                result = call.result if call else None
                return None if result is None else Answered(text=result.get("answer"), result=result, label=BY_STAFF)
            case "execution":
                child = self._store.executions.get(wait.waits_for.id)
                is_mine = child is not None and child.parent_execution_id == claim.execution_id
                if child is None or not is_mine or not child.is_over:
                    return None
                return _reported(child, self._read_in([child.session_id]))


def _claimed(session: SessionRow, execution: ExecutionRow, now: datetime) -> Claim:
    return Claim(
        user_id=execution.user_id,
        session_id=session.id,
        execution_id=execution.id,
        epoch=session.lease_epoch,
        agent_name=execution.agent_name,
        task=execution.task_description,
        is_new=execution.status == "pending",
        attempt=execution.attempt,
        max_iterations=session.max_iterations,
        now=now,
        next_seq=session.next_seq,
        started_at=execution.started_at or now,
        cancel_requested=execution.cancel_requested_at is not None,
        limits=session.limits | execution.limits,
        cost_micros=execution.cost_micros,
        unsettled_tokens=execution.unsettled_tokens,
        unsettled_cost_micros=execution.unsettled_cost_micros,
        definition_hash=execution.definition_hash,
        parent_execution_id=execution.parent_execution_id,
    )


def _signals(execution: ExecutionRow) -> Signals:
    return Signals(cancel=execution.cancel_requested_at is not None, pause=execution.paused_at is not None)


def _count(session: SessionRow, execution: ExecutionRow, usage: Usage, cost: int | None, *, iterations: int) -> None:
    session.iteration_count += iterations
    execution.iterations += iterations
    for row in (session, execution):
        row.tokens_in += usage.input_tokens
        row.tokens_out += usage.output_tokens
        row.cost_micros = None if row.cost_micros is None or cost is None else row.cost_micros + cost
    execution.reserved_tokens = execution.reserved_cost_micros = 0


def _plan(session: SessionRow, execution: ExecutionRow, goal: str) -> None:
    plan: dict[str, Any] = {"goal": goal, "phases": ["answer"]}
    execution.plan = session.plan = plan
    execution.phases = [{"name": "answer", "status": "active"}]
    execution.current_phase_index = 0
    session.current_phase = "answer"
    execution.status = session.status = "executing"


def _write(row: CallRow, settled: Settled, epoch: int) -> None:
    event = settled.event
    is_over = isinstance(event, ToolReturned)
    row.state, row.lease_epoch = settled.state, epoch
    row.success = not event.is_error if is_over else None
    row.result, row.blob, row.duration_ms = settled.result, settled.blob, settled.duration_ms
    row.error = storable(event.content) if is_over and event.is_error else None
    row.attempt += is_over


def _end(execution: ExecutionRow, ended: ExecutionEnded, opened_at: datetime, now: datetime) -> None:
    is_completed = ended.status == "completed"
    execution.status, execution.completed_at = ended.status, opened_at
    execution.waiting_for = execution.paused_at = None
    took = now - (execution.started_at or now)
    execution.duration_ms = (took // timedelta(microseconds=1) + 500) // 1000
    execution.result = {"text": ended.text} if is_completed else None
    execution.error = None if is_completed else ended.text
    if is_completed:
        execution.phases = [phase | {"status": "done"} for phase in execution.phases]


def _decided(approval: ApprovalRow) -> Arrival | None:
    match approval.status:
        case "pending":
            return None
        case "granted":
            return Granted(approval_id=approval.id, by=approval.decided_by or "")
        case "expired":
            reason = "nobody allowed this call in time"
        case _:
            reason = f"a person refused this call: {approval.note or 'no reason given'}"
    return Answered(text=f"not run: {reason}", is_error=True, state="cancelled")


def _reported(child: ExecutionRow, label: Label) -> Arrival:
    text = (child.result or {}).get("text") or child.error or ""
    if child.status == "completed":
        return Answered(text=text, result={"text": text}, label=label)
    text = f"the delegated execution {child.status}: {text}"
    return Answered(text=text, is_error=True, state="error", label=label)
