# ruff: noqa: S608 -- the statements are built from constants of this module
"""The durable side of the loop: claims, the two commits of an iteration, waiting, the end. The only SQL above storage.

T1 records a reply together with every tool call it intends, the usage and a longer lease. T2 records one tool's effect
together with its result. Both, and the end, compare the lease's epoch: zero rows mean that another worker has taken
over, and then nothing of the transaction survives, the tool's effect included. No transaction is open while a model
thinks. T1 and T2 are one statement each, as text: to build them anew would cost more than the server takes for them.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

from sqlalchemy import ARRAY, BigInteger, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

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
    event_adapter,
)
from runtime.journal_port import (
    Answered,
    Arrival,
    Claim,
    Granted,
    Recorded,
    Scene,
    Settled,
    Signals,
    ToolCommit,
)
from runtime.labels import BY_STAFF, NOTHING_READ, UNLABELLED, Label, kept_label, label_from, label_of
from runtime.operation import Conversation
from storage.queries import executions, identity, messaging
from storage.swift import Statement, SwiftTransaction, begin_swiftly
from storage.tenancy import Database

LEASE_S = 15
"""How long a claim holds without renewal."""

PROJECTED = 100
"""How many entries the jsonb projections of the document's columns show."""

APPROVAL_S = 24 * 3600
"""How long a person has to answer."""


class PostgresJournal:
    """The journal of every session in one database, for one process. See `runtime.journal_port.Journal`."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner
        self._held: set[tuple[int, int]] = set()
        """Session and epoch of the claims that this process knows it has; only these are renewed."""

    async def claim(self, user_id: int, execution_id: int) -> Claim | None:
        """Take the lease of an execution's session, if it is free and the execution can go on."""
        async with self._database.begin(user_id) as db:
            row = (await db.execute(_CLAIM, {"execution_id": execution_id, "owner": self._owner})).one_or_none()
        if row is None:
            return None
        self._held.add((row.sessionId, row.leaseEpoch))
        return Claim(
            user_id=user_id,
            session_id=row.sessionId,
            execution_id=execution_id,
            epoch=row.leaseEpoch,
            agent_name=row.agentName,
            task=row.taskDescription,
            is_new=row.status == "pending",
            attempt=row.attempt,
            max_iterations=row.maxIterations,
            now=row.now,
            next_seq=row.nextSeq,
            started_at=row.startedAt,
            cancel_requested=row.cancel,
            limits=row.limits,
            cost_micros=row.costMicros,
            unsettled_tokens=row.unsettledTokens,
            unsettled_cost_micros=row.unsettledCostMicros,
            definition_hash=row.definitionHash,
            parent_execution_id=row.parentExecutionId,
        )

    async def read(self, claim: Claim) -> list[Recorded]:
        """Return the whole history of the claimed session, that of the sessions it was forked from first."""
        async with self._database.begin(claim.user_id, read_only=True) as db:
            rows = (await db.execute(_HISTORY, {"session_id": claim.session_id})).all()
        return [Recorded(execution_id=row[0], event=_parsed(row[1]), label=label_from(row[2], row[3])) for row in rows]

    async def scene(self, claim: Claim) -> Scene:
        """Return where the execution takes place."""
        async with self._database.begin(claim.user_id, read_only=True) as db:
            zone = await identity.timezone_of(db)
            row = await messaging.conversation_of_session(db, claim.session_id)
            if row is None:
                return await _delegated_scene(db, claim, zone)
            webhook = await messaging.webhook(db, row.webhook_id)
            prompt = (webhook.system_prompt or "") if webhook else ""
            return Scene(zone=zone, conversation=Conversation.of_row(row), prompt=prompt)

    async def begin(
        self, claim: Claim, event: UserSpoke, *, definition_hash: str, seconds: float | None = None
    ) -> None:
        """Record what the execution is about and show it as planning."""
        async with self._database.begin(claim.user_id) as db:
            await self._append(db, claim, [event])
            values = {"execution_id": claim.execution_id, "hash": definition_hash, "seconds": seconds}
            await db.execute(_BEGUN, values)

    async def note(self, claim: Claim, *events: Event, definition_hash: str | None = None) -> None:
        """Append facts."""
        async with self._database.begin(claim.user_id) as db:
            await self._append(db, claim, events)
            if definition_hash is not None:
                await db.execute(_REDEFINED, {"execution_id": claim.execution_id, "hash": definition_hash})

    async def reserve(self, claim: Claim, *, tokens: int, cost_micros: int) -> None:
        """Set aside what the next model call may cost at most."""
        async with self._database.begin(claim.user_id) as db:
            await self._append(db, claim, [])
            values = {"execution_id": claim.execution_id, "tokens": tokens, "cost": cost_micros}
            await db.execute(_RESERVE, values)

    async def record_reply(
        self, claim: Claim, reply: ModelReplied, *, cost: int | None, goal: str | None, said: bool = False
    ) -> Signals:
        """T1: record a reply, every call it intends, its usage and a longer lease."""
        events: list[Event] = [reply] if goal is None else [reply, Planned(goal=goal, phases=("answer",))]
        values = _T1_values(claim, events, reply.usage, cost, reply.calls)
        async with self._begin(claim) as transaction:
            row = await transaction.one_or_none(_T1, values)
            if row is None:
                raise LeaseLostError(claim.session_id, claim.epoch)
            if goal is not None:
                await executions.write_plan(transaction.session, claim.execution_id, goal=goal, phases=["answer"])
            if said:
                await transaction.session.execute(_FORGET_SAID, {"session_id": claim.session_id})
        return Signals(cancel=row["cancel"], pause=row["pause"])

    async def record_summary(self, claim: Claim, compacted: Compacted, *, cost: int | None) -> None:
        """Record a summary and what it cost."""
        values = _T1_values(claim, [compacted], compacted.usage, cost, ())
        async with self._begin(claim) as transaction:
            if await transaction.one_or_none(_T1, values | {"iterations": 0}) is None:
                raise LeaseLostError(claim.session_id, claim.epoch)

    @asynccontextmanager
    async def looking(self, claim: Claim) -> AsyncGenerator[AsyncSession]:
        """Open a transaction that can only read."""
        async with self._database.begin(claim.user_id, read_only=True) as db:
            yield db

    @asynccontextmanager
    async def tool_commit(self, claim: Claim, *, permit: Permit | None = None) -> AsyncGenerator[ToolCommit]:
        """T2: open the transaction in which tools' effects and their results commit together.

        The fence is in its last statement: a tool whose lease is lost meanwhile has its effect rolled back with it.
        """
        async with self._begin(claim) as transaction:
            if permit is not None:
                await _use_approval(transaction.session, claim, permit)
            commit = _Commit(transaction)
            yield commit
            commit.signals = await self._settle(transaction, claim, commit)

    async def _settle(self, transaction: SwiftTransaction, claim: Claim, commit: ToolCommit) -> Signals:
        settled = [await _row(transaction, claim, one) for one in commit.settled]
        events = commit.events
        values = _fenced(claim, events, commit.labels) | {
            "execution_id": claim.execution_id,
            "settled": json.dumps(settled),
            "audits": json.dumps([audit.values() for audit in commit.audits]),
        }
        row = await transaction.one_or_none(_T2, values)
        if row is None or row["settled"] != len(settled):
            raise LeaseLostError(claim.session_id, claim.epoch)
        return Signals(cancel=row["cancel"], pause=row["pause"])

    async def start_call(self, claim: Claim, call: ToolCall, key: str, *, permit: Permit | None = None) -> bool:
        """Record that an external tool is about to act; False: a worker that is gone had recorded that before."""
        values = {"execution_id": claim.execution_id, "call_id": call.id}
        async with self._database.begin(claim.user_id) as db:
            await self._append(db, claim, [])
            before = (await db.execute(_CALL_STATE, values)).scalar_one()
            is_first = before in ("pending", "awaiting_approval")
            if is_first:
                if permit is not None:
                    await _use_approval(db, claim, permit)
                await db.execute(_START_CALL, values | {"key": key, "epoch": claim.epoch})
        return is_first

    async def ask_approval(self, claim: Claim, call: ToolCall, *, reason: str) -> CallWaits:
        """Put a call before a person, and record that it waits for the answer."""
        values = {
            "user_id": claim.user_id,
            "execution_id": claim.execution_id,
            "call_id": call.id,
            "tool": storable(call.name)[:100],
            "hash": request_hash(claim.user_id, claim.execution_id, call),
            "payload": json.dumps(storable(call.arguments)),
            "reason": reason,
            "seconds": APPROVAL_S,
        }
        async with self.tool_commit(claim) as commit:
            await self._append(
                commit.db, claim, []
            )  # before the row of the approval, which another worker may have made
            approval_id = (await commit.db.execute(_ASK, values)).scalar_one()
            waits = CallWaits(call_id=call.id, waits_for=WaitsFor(kind="approval", id=approval_id))
            commit.settled.append(Settled(call=call, event=waits, state="awaiting_approval"))
        return waits

    async def arrivals(self, claim: Claim, waits: Sequence[CallWaits]) -> Mapping[str, Arrival]:
        """Return what has come for calls that wait, by call id."""
        async with self._database.begin(claim.user_id, read_only=True) as db:
            return await _arrivals(db, claim, waits)

    async def hold(self, claim: Claim, waits: Sequence[CallWaits], events: Sequence[Event]) -> bool:
        """Let go of an execution that waits, or (without `waits`) that a person has paused.

        The row of the execution is locked before anything is looked at: whoever answers locks it too, so that either
        the answer is seen here or the answerer sees that somebody waits for it.
        """
        first = waits[0].waits_for if waits else None
        shown = None if first is None else {"kind": first.kind, "id": first.id, "calls": len(waits)}
        values = {
            "execution_id": claim.execution_id,
            "waiting_for": None if shown is None else json.dumps(shown),
            "thinking": json.dumps(_thinking(events)),
        }
        try:
            async with self._database.begin(claim.user_id) as db:
                await self._append(db, claim, [])  # the session first, as every other commit of the loop locks them
                await db.execute(_HOLD, values)
                goes_on = await _arrivals(db, claim, waits) if waits else not await _is_paused(db, claim)
                if goes_on:
                    raise _GoesOnError  # noqa: TRY301 -- the way to roll back
                await self._free(db, claim, "paused")
                await _project(db, claim)
        except _GoesOnError:
            return False
        return True

    @asynccontextmanager
    async def ending(
        self, claim: Claim, ended: ExecutionEnded, events: Sequence[Event]
    ) -> AsyncGenerator[AsyncSession]:
        """End the execution: status, projections and whatever the caller adds in the block commit together."""
        async with self._database.begin(claim.user_id) as db:
            if claim.parent_execution_id is not None:
                # Before our own row: the end of that one locks them in this order as well, to cancel what is left.
                await db.execute(_LOCK_PARENT, {"parent_id": claim.parent_execution_id})
            await self._append(db, claim, [ended])
            await self._free(db, claim, "error" if ended.status == "failed" else None)
            values = {
                "execution_id": claim.execution_id,
                "status": ended.status,
                "thinking": json.dumps(_thinking(events)),
                "result": json.dumps({"text": ended.text}) if ended.status == "completed" else None,
                "error": None if ended.status == "completed" else ended.text,
            }
            # Calls that never ran are settled, so that no row promises a result that will not come.
            await db.execute(_NEVER_RAN, {"execution_id": claim.execution_id})
            await db.execute(_END, values)
            await _project(db, claim)
            yield db

    async def release(self, claim: Claim, *, delay_s: float = 0, blames: bool = False) -> None:
        """Give the session back unfinished."""
        values = {
            "session_id": claim.session_id,
            "epoch": claim.epoch,
            "execution_id": claim.execution_id,
            "delay_s": delay_s,
            "forgiven": 0 if blames else 1,
        }
        async with self._database.begin(claim.user_id) as db:
            await db.execute(_RELEASE, values)

    def forget(self, claim: Claim) -> None:
        """Renew this claim no more: nobody here drives it."""
        self._held.discard((claim.session_id, claim.epoch))

    async def renew_all(self) -> frozenset[int]:
        """Prolong every lease of this process in one statement; return the executions that are to be cancelled."""
        held = sorted(self._held)
        values = {
            "owner": self._owner,
            "seconds": LEASE_S,
            "sessions": [session_id for session_id, _ in held],
            "epochs": [epoch for _, epoch in held],
        }
        async with self._database.begin_dispatch() as db:
            await db.execute(_RENEW, values)
            return frozenset((await db.execute(_TO_CANCEL, {"owner": self._owner})).scalars())

    def _begin(self, claim: Claim) -> AbstractAsyncContextManager[SwiftTransaction]:
        return begin_swiftly(self._database.swift_engine, claim.user_id)

    async def _append(self, db: AsyncSession, claim: Claim, events: Sequence[Event]) -> None:
        """Append events under the fence, and take the lease for as long again."""
        if (await db.execute(_APPEND, _fenced(claim, events))).one_or_none() is None:
            raise LeaseLostError(claim.session_id, claim.epoch)

    async def _free(self, db: AsyncSession, claim: Claim, status: str | None) -> None:
        """Give back the lease; without `status` the session rests as its kind does.

        The caller has appended before: that compared the epoch, and has kept the session's row locked since.
        """
        await db.execute(_FREE, {"session_id": claim.session_id, "status": status})


async def _delegated_scene(db: AsyncSession, claim: Claim, zone: str | None) -> Scene:
    """Return the scene of what is not a conversation's own: that of whoever delegated it, else the staff's.

    To delegate must not raise a privilege: the participant stays the one it is done for, and what was read stays read.
    """
    origin = (await db.execute(_ORIGIN, {"execution_id": claim.execution_id})).one_or_none()
    if origin is None:
        return Scene(zone=zone)
    row = await messaging.conversation_of_session(db, origin.sessionId)
    conversation = None if row is None else Conversation.of_row(row)
    return Scene(zone=zone, conversation=conversation, inherited=await _read_before(db, claim.execution_id))


async def _read_before(db: AsyncSession, execution_id: int) -> Label:
    """Return the label of all that the executions had read which this one was delegated by."""
    rows = (await db.execute(_READ_BEFORE, {"execution_id": execution_id})).all()
    return NOTHING_READ.join(*(label_from(*row) or UNLABELLED for row in rows))


class _GoesOnError(Exception):
    """Rolls back a hold whose reason is gone."""


def _parsed(body: str) -> Event:
    try:
        return event_adapter.validate_json(body)
    except ValueError:
        # pydantic's parser refuses half a surrogate pair, which a model may have written.
        return event_adapter.validate_python(json.loads(body))


def _fenced(claim: Claim, events: Sequence[Event], labels: Sequence[Label] | None = None) -> dict[str, Any]:
    """Return the parameters that every statement with `_STEPS` needs; without `labels` events say their own."""
    labels = [label_of(event) for event in events] if labels is None else labels
    return {
        "user_id": claim.user_id,
        "session_id": claim.session_id,
        "epoch": claim.epoch,
        "this_execution": claim.execution_id,
        "count": len(events),
        "kinds": [event.kind for event in events],
        "bodies": [json.dumps(event.model_dump()) for event in events],
        "labels": [_label_json(event, label) for event, label in zip(events, labels, strict=True)],
    }


def _label_json(event: Event, label: Label) -> str:
    kept = kept_label(event, label)
    return "{}" if kept is None else json.dumps(kept.as_json())


def _T1_values(  # noqa: N802 -- the commit's name
    claim: Claim, events: Sequence[Event], usage: Usage, cost: int | None, calls: Sequence[ToolCall]
) -> dict[str, Any]:
    intents = [
        {"toolName": storable(call.name)[:100], "parameters": storable(call.arguments), "toolUseId": call.id}
        for call in calls
    ]
    return _fenced(claim, events) | {
        "execution_id": claim.execution_id,
        "iterations": 1,
        "tokens_in": usage.input_tokens,
        "tokens_out": usage.output_tokens,
        "cost": cost,
        "calls": len(intents),
        "intents": json.dumps(intents),
    }


class _Commit(ToolCommit):
    """Opens its session only for a tool that wants one."""

    def __init__(self, transaction: SwiftTransaction) -> None:
        super().__init__(None)
        self._transaction = transaction

    @property
    def db(self) -> AsyncSession:
        """The session of the tool."""
        return self._transaction.session


async def _row(transaction: SwiftTransaction, claim: Claim, settled: Settled) -> dict[str, Any]:
    """Return a call's row as the statement takes it, having put away what is too large for it."""
    event = settled.event
    is_over = isinstance(event, ToolReturned)
    blob_id: int | None = None
    if settled.blob is not None:
        content = settled.blob.encode()
        blob_id = (
            await transaction.session.execute(_BLOB, {"user_id": claim.user_id, "content": content})
        ).scalar_one()
    return {
        "toolUseId": settled.call.id,
        "state": settled.state,
        "success": None if not is_over else not event.is_error,
        "result": settled.result,
        "error": storable(event.content) if is_over and event.is_error else None,
        "durationMs": settled.duration_ms,
        "blobId": blob_id,
    }


async def _use_approval(db: AsyncSession, claim: Claim, permit: Permit) -> None:
    values = {
        "approval_id": permit.approval_id,
        "execution_id": claim.execution_id,
        "hash": request_hash(claim.user_id, claim.execution_id, permit.call),
    }
    if (await db.execute(_USE_APPROVAL, values)).one_or_none() is None:
        raise ApprovalGoneError(permit.approval_id)


async def _arrivals(db: AsyncSession, claim: Claim, waits: Sequence[CallWaits]) -> Mapping[str, Arrival]:
    found: dict[str, Arrival] = {}
    for wait in waits:
        values = {"id": wait.waits_for.id, "execution_id": claim.execution_id, "call_id": wait.call_id}
        match wait.waits_for.kind:
            case "approval":
                row = (await db.execute(_DECISION, values)).one_or_none()
                arrival = _decided(wait.waits_for.id, row) if row else None
            case "answer":
                row = (await db.execute(_ANSWER, values)).one_or_none()
                arrival = Answered(text=row.text, result=row.result, label=BY_STAFF) if row else None
            case "execution":
                row = (await db.execute(_CHILD, values)).one_or_none()
                arrival = await _reported(db, wait.waits_for.id, row) if row else None
        if arrival is not None:
            found[wait.call_id] = arrival
    return found


def _decided(approval_id: int, row: Any) -> Arrival:
    if row.status == "granted":
        return Granted(approval_id=approval_id, by=row.by)
    refusal = f"a person refused this call: {row.note or 'no reason given'}"
    said = "nobody allowed this call in time" if row.status == "expired" else refusal
    return Answered(text=f"not run: {said}", is_error=True, state="cancelled")


async def _reported(db: AsyncSession, execution_id: int, row: Any) -> Arrival:
    read = (await db.execute(_READ_BY, {"execution_id": execution_id})).all()
    label = NOTHING_READ.join(*(label_from(*one) or UNLABELLED for one in read))
    if row.status == "completed":
        return Answered(text=row.text, result={"text": row.text}, label=label)
    text = f"the delegated execution {row.status}: {row.text}"
    return Answered(text=text, is_error=True, state="error", label=label)


async def _is_paused(db: AsyncSession, claim: Claim) -> bool:
    return (await db.execute(_PAUSED, {"execution_id": claim.execution_id})).scalar_one()


async def _project(db: AsyncSession, claim: Claim) -> None:
    await db.execute(_PROJECT_TOOLS, {"execution_id": claim.execution_id, "length": PROJECTED})
    await db.execute(_PROJECT_SESSION, {"session_id": claim.session_id, "length": PROJECTED})


def _thinking(events: Sequence[Event]) -> list[Any]:
    replies = [event for event in events if isinstance(event, ModelReplied)]
    thoughts = [
        {"iteration": index, "thinking": event.thinking, "text": event.text}
        for index, event in enumerate(replies[-PROJECTED:], start=max(1, len(replies) - PROJECTED + 1))
    ]
    return storable(thoughts)


def storable(value: Any) -> Any:
    """Return `value` as jsonb takes it; the step's body keeps what the model really wrote, this column shows it."""
    match value:
        case str():
            return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
        case dict():
            entries = cast("dict[str, Any]", value)  # from parsed JSON
            return {storable(key): storable(entry) for key, entry in entries.items()}
        case list():
            items = cast("list[Any]", value)  # as above
            return [storable(item) for item in items]
        case _:
            return value


_LEASE_END = f"now() + interval '{LEASE_S} seconds'"

_CLAIM = text(
    f"""
    WITH seat AS (
        SELECT id FROM "agentSessions"
        WHERE id = (SELECT "sessionId" FROM "agentExecutions" WHERE id = :execution_id) FOR UPDATE
    ), wanted AS (
        -- Locked, so that these columns are of the same moment as the session's: whoever held it may have just ended.
        SELECT e.id, e."sessionId", e.status, e."runAfter", e."cancelRequestedAt", e."waitingFor", e."pausedAt",
            e.deadline
        FROM seat JOIN "agentExecutions" e ON e."sessionId" = seat.id
        WHERE e.id = :execution_id FOR UPDATE OF e
    ), taken AS (
        UPDATE "agentSessions" s
        SET "leaseOwner" = :owner, "leaseEpoch" = s."leaseEpoch" + 1, "leaseUntil" = {_LEASE_END},
            status = CASE WHEN s.status = 'paused' AND e.status <> 'pending' THEN e.status ELSE s.status END,
            "updatedAt" = now()
        FROM wanted e
        WHERE s.id = e."sessionId" AND e.status IN ('pending', 'planning', 'executing')
            AND (s."leaseOwner" IS NULL OR s."leaseUntil" < now())
            AND (e."runAfter" IS NULL OR e."runAfter" <= now())
            AND (e."cancelRequestedAt" IS NOT NULL OR e.deadline <= now()
                OR (e."waitingFor" IS NULL AND e."pausedAt" IS NULL))
            AND NOT EXISTS (
                SELECT FROM "agentExecutions" earlier
                WHERE earlier."sessionId" = e."sessionId" AND earlier.id < e.id
                    AND earlier.status IN ('pending', 'planning', 'executing'))
        RETURNING s.id, s."leaseEpoch", s."maxIterations", s."nextSeq", s.limits
    )
    UPDATE "agentExecutions" e
    SET attempt = e.attempt + 1, "startedAt" = coalesce(e."startedAt", now()), "runAfter" = NULL,
        "waitingFor" = NULL,
        "unsettledTokens" = e."unsettledTokens" + e."reservedTokens", "reservedTokens" = 0,
        "unsettledCostMicros" = e."unsettledCostMicros" + e."reservedCostMicros", "reservedCostMicros" = 0
    FROM taken
    WHERE e.id = :execution_id
    RETURNING taken.id AS "sessionId", taken."leaseEpoch", taken."maxIterations", taken."nextSeq", e.status,
        e."agentName", e."taskDescription", e.attempt, e."startedAt", e."cancelRequestedAt" IS NOT NULL AS cancel,
        taken.limits || e.limits AS limits, e."costMicros", e."unsettledTokens", e."unsettledCostMicros",
        e."definitionHash", e."parentExecutionId", now() AS now
    """
)

_HISTORY = text(
    """
    WITH RECURSIVE line AS (
        SELECT id, "parentSessionId", "parentSeq", NULL::bigint AS upto, 0 AS depth
        FROM "agentSessions" WHERE id = :session_id
        UNION ALL
        SELECT p.id, p."parentSessionId", p."parentSeq", line."parentSeq", line.depth + 1
        FROM line JOIN "agentSessions" p ON p.id = line."parentSessionId"
    )
    SELECT step."executionId", step.body::text, step.labels->>'integrity', step.labels->>'confidentiality'
    FROM line JOIN "agentSteps" step ON step."sessionId" = line.id AND (line.upto IS NULL OR step.seq <= line.upto)
    ORDER BY line.depth DESC, step.seq
    """
)

_ANCESTORS = """
    RECURSIVE ancestors AS (
        SELECT p.id, p."sessionId", p."parentExecutionId", 1 AS depth
        FROM "agentExecutions" e JOIN "agentExecutions" p ON p.id = e."parentExecutionId" WHERE e.id = :execution_id
        UNION ALL
        SELECT p.id, p."sessionId", p."parentExecutionId", a.depth + 1
        FROM ancestors a JOIN "agentExecutions" p ON p.id = a."parentExecutionId" WHERE a.depth < 100
    )
"""

_ORIGIN = text(f'WITH {_ANCESTORS} SELECT "sessionId" FROM ancestors ORDER BY depth DESC LIMIT 1')

_READ_BEFORE = text(
    f"""
    WITH {_ANCESTORS}
    SELECT DISTINCT labels->>'integrity', labels->>'confidentiality' FROM "agentSteps"
    WHERE "sessionId" IN (SELECT "sessionId" FROM ancestors) AND labels <> '{{}}'
    """
)

_READ_BY = text(
    """
    SELECT DISTINCT labels->>'integrity', labels->>'confidentiality' FROM "agentSteps"
    WHERE "sessionId" = (SELECT "sessionId" FROM "agentExecutions" WHERE id = :execution_id) AND labels <> '{}'
    """
)

_FENCE = """
    UPDATE "agentSessions" SET "nextSeq" = "nextSeq" + :count, "updatedAt" = now(),
        "leaseUntil" = greatest("leaseUntil", now() + interval '15 seconds'){changes}
    WHERE id = :session_id AND "leaseEpoch" = :epoch
    RETURNING "nextSeq" - :count AS first
"""

_STEPS = """
    INSERT INTO "agentSteps" ("userId", "sessionId", "executionId", seq, kind, body, labels)
    SELECT :user_id, :session_id, :this_execution, held.first + step.at - 1, step.kind, step.body::json,
        step.labels::jsonb
    FROM held, unnest(:kinds, :bodies, :labels) WITH ORDINALITY AS step(kind, body, labels, at)
"""


def _statement(sql: str) -> Any:
    """Return a statement over `_FENCE` and `_STEPS` with the types that asyncpg cannot guess."""
    lists = [bindparam(name, type_=ARRAY(Text)) for name in ("kinds", "bodies", "labels")]
    numbers = [bindparam(name, type_=BigInteger) for name in ("user_id", "session_id", "this_execution", "epoch")]
    return text(sql).bindparams(*lists, *numbers)


_APPEND = _statement(f"WITH held AS ({_FENCE.format(changes='')}), steps AS ({_STEPS}) SELECT first FROM held")

_T1_FENCE = _FENCE.format(
    changes=""", "iterationCount" = "iterationCount" + :iterations, "tokensIn" = "tokensIn" + :tokens_in,
        "tokensOut" = "tokensOut" + :tokens_out, "costMicros" = "costMicros" + CAST(:cost AS bigint)"""
)

_T1 = Statement(
    _statement(
        f"""
    WITH held AS ({_T1_FENCE}), steps AS ({_STEPS}), calls AS (
        INSERT INTO "toolExecutions" ("userId", "executionId", "toolName", parameters, "toolUseId", "leaseEpoch")
        SELECT :user_id, :this_execution, call."toolName", call.parameters, call."toolUseId", :epoch
        FROM held, jsonb_to_recordset(CAST(CAST(:intents AS text) AS jsonb))
            AS call("toolName" text, parameters jsonb, "toolUseId" text)
    )
    UPDATE "agentExecutions" SET iterations = iterations + :iterations, "tokensIn" = "tokensIn" + :tokens_in,
        "tokensOut" = "tokensOut" + :tokens_out, "costMicros" = "costMicros" + CAST(:cost AS bigint),
        "toolCalls" = "toolCalls" + :calls, "reservedTokens" = 0, "reservedCostMicros" = 0
    FROM held WHERE id = :execution_id
    RETURNING "cancelRequestedAt" IS NOT NULL AS cancel, "pausedAt" IS NOT NULL AS pause
    """
    )
)

_T2 = Statement(
    _statement(
        f"""
    WITH held AS ({_FENCE.format(changes="")}), steps AS ({_STEPS}), settled AS (
        UPDATE "toolExecutions" tool
        SET state = call.state, success = call.success, result = call.result, error = call.error,
            "durationMs" = call."durationMs", "resultBlobId" = call."blobId", "leaseEpoch" = :epoch,
            "executedAt" = now(),
            attempt = tool.attempt + CASE WHEN call.success IS NULL THEN 0 ELSE 1 END
        FROM held, jsonb_to_recordset(CAST(CAST(:settled AS text) AS jsonb)) AS call(
            "toolUseId" text, state text, success bool, result jsonb, error text, "durationMs" int, "blobId" bigint)
        WHERE tool."executionId" = :this_execution AND tool."toolUseId" = call."toolUseId"
            AND tool.state IN ('pending', 'started', 'awaiting_approval')
        RETURNING 1
    ), audits AS (
        INSERT INTO "auditLogs" ("userId", action, "entityType", "entityId", "newValues")
        SELECT :user_id, one.action, one."entityType", one."entityId", one."newValues"
        FROM held, jsonb_to_recordset(CAST(CAST(:audits AS text) AS jsonb))
            AS one(action text, "entityType" text, "entityId" text, "newValues" jsonb)
    )
    SELECT (SELECT count(*) FROM settled) AS settled, "cancelRequestedAt" IS NOT NULL AS cancel,
        "pausedAt" IS NOT NULL AS pause
    FROM held, "agentExecutions" WHERE id = :execution_id
    """
    )
)

_BEGUN = text(
    """
    WITH begun AS (
        UPDATE "agentExecutions" SET status = 'planning', "definitionHash" = :hash,
            deadline = "startedAt" + make_interval(secs => CAST(:seconds AS float8))
        WHERE id = :execution_id RETURNING "sessionId"
    )
    UPDATE "agentSessions" SET status = 'planning' FROM begun WHERE id = begun."sessionId"
    """
)

_REDEFINED = text('UPDATE "agentExecutions" SET "definitionHash" = :hash WHERE id = :execution_id')

_RESERVE = text(
    """
    UPDATE "agentExecutions" SET "reservedTokens" = :tokens, "reservedCostMicros" = :cost WHERE id = :execution_id
    """
)

_FORGET_SAID = text('DELETE FROM "agentDeltas" WHERE "sessionId" = :session_id')

_BLOB = text(
    """
    INSERT INTO blobs ("userId", "contentType", "sizeBytes", content)
    VALUES (:user_id, 'application/json', octet_length(CAST(:content AS bytea)), :content) RETURNING id
    """
)

_CALL_STATE = text(
    """
    SELECT state FROM "toolExecutions" WHERE "executionId" = :execution_id AND "toolUseId" = :call_id FOR UPDATE
    """
)

_START_CALL = text(
    """
    UPDATE "toolExecutions" SET state = 'started', "idempotencyKey" = :key, "leaseEpoch" = :epoch
    WHERE "executionId" = :execution_id AND "toolUseId" = :call_id
    """
)

_ASK = text(
    """
    INSERT INTO approvals ("userId", "executionId", "toolUseId", attempt, "toolName", "requestHash", payload, reason,
                           "expiresAt")
    SELECT :user_id, "executionId", "toolUseId", attempt, :tool, :hash, CAST(:payload AS jsonb), :reason,
        now() + make_interval(secs => :seconds)
    FROM "toolExecutions" WHERE "executionId" = :execution_id AND "toolUseId" = :call_id
    RETURNING id
    """
)

_USE_APPROVAL = text(
    """
    UPDATE approvals SET status = 'used'
    WHERE id = :approval_id AND "executionId" = :execution_id AND "requestHash" = :hash AND status = 'granted'
        AND "expiresAt" > now()
    RETURNING id
    """
)

_DECISION = text(
    """
    SELECT status, note, coalesce("decidedBy", '') AS by FROM approvals
    WHERE id = :id AND "executionId" = :execution_id AND "toolUseId" = :call_id AND status <> 'pending'
    """
)

_ANSWER = text(
    """
    SELECT result, result->>'answer' AS text FROM "toolExecutions"
    WHERE "executionId" = :execution_id AND "toolUseId" = :call_id AND result IS NOT NULL
        AND :id > 0
    """
)

_CHILD = text(
    """
    SELECT status, coalesce(result->>'text', error, '') AS text FROM "agentExecutions"
    WHERE id = :id AND "parentExecutionId" = :execution_id AND status IN ('completed', 'failed', 'cancelled')
        AND :call_id <> ''
    """
)

_HOLD = text(
    """
    UPDATE "agentExecutions" SET "waitingFor" = CAST(:waiting_for AS jsonb), "thinkingSteps" = CAST(:thinking AS jsonb),
        attempt = attempt - 1
    WHERE id = :execution_id
    """
)

_PAUSED = text('SELECT "pausedAt" IS NOT NULL FROM "agentExecutions" WHERE id = :execution_id')

_FREE = text(
    """
    UPDATE "agentSessions"
    SET "leaseOwner" = NULL, "leaseUntil" = NULL, "updatedAt" = now(),
        status = coalesce(CAST(:status AS text), CASE WHEN context->>'oneTask' = 'true' THEN 'complete' ELSE 'idle' END)
    WHERE id = :session_id
    """
)

_LOCK_PARENT = text('SELECT FROM "agentExecutions" WHERE id = :parent_id FOR NO KEY UPDATE')

_NEVER_RAN = text(
    """
    WITH gone AS (
        UPDATE approvals SET status = 'expired', "decidedAt" = now()
        WHERE "executionId" = :execution_id AND status IN ('pending', 'granted')
    )
    UPDATE "toolExecutions" SET state = 'cancelled'
    WHERE "executionId" = :execution_id AND state IN ('pending', 'started', 'awaiting_approval')
    """
)

_END = text(
    """
    UPDATE "agentExecutions"
    SET status = :status, "completedAt" = now(), "waitingFor" = NULL, "pausedAt" = NULL,
        "durationMs" = coalesce(extract(epoch FROM clock_timestamp() - "startedAt") * 1000, 0),
        "thinkingSteps" = CAST(:thinking AS jsonb), result = CAST(:result AS jsonb), error = :error
    WHERE id = :execution_id
    """
)

_RELEASE = text(
    """
    WITH freed AS (
        UPDATE "agentSessions" SET "leaseOwner" = NULL, "leaseUntil" = NULL, "updatedAt" = now()
        WHERE id = :session_id AND "leaseEpoch" = :epoch RETURNING id
    )
    UPDATE "agentExecutions" SET "runAfter" = now() + make_interval(secs => :delay_s), attempt = attempt - :forgiven
    FROM freed
    WHERE "agentExecutions".id = :execution_id AND status IN ('pending', 'planning', 'executing')
    """
)

_RENEW = text(
    """
    UPDATE "agentSessions" SET "leaseUntil" = now() + make_interval(secs => :seconds)
    FROM unnest(:sessions, :epochs) AS held(session, epoch)
    WHERE id = held.session AND "leaseEpoch" = held.epoch AND "leaseOwner" = :owner AND "leaseUntil" > now()
    """
).bindparams(bindparam("sessions", type_=ARRAY(BigInteger)), bindparam("epochs", type_=ARRAY(BigInteger)))
"""Not all that carry the owner's name: a claim whose commit was not confirmed is one that nobody here drives."""

_TO_CANCEL = text(
    """
    SELECT e.id FROM "agentExecutions" e
    JOIN "agentSessions" s ON s.id = e."sessionId" AND s."userId" = e."userId"
    WHERE s."leaseOwner" = :owner AND e.status IN ('planning', 'executing') AND e."cancelRequestedAt" IS NOT NULL
    """
)

_TOOL_ENTRY = """
    jsonb_build_object('tool', t."toolName", 'state', t.state, 'success', t.success, 'durationMs', t."durationMs",
                       'executionId', t."executionId", 'toolExecutionId', t.id, 'error', t.error)
"""

_PROJECT_TOOLS = text(
    f"""
    UPDATE "agentExecutions" SET "toolExecutions" = (
        SELECT coalesce(jsonb_agg(entry ORDER BY id), '[]'::jsonb) FROM (
            SELECT t.id, {_TOOL_ENTRY} AS entry FROM "toolExecutions" t
            WHERE t."executionId" = :execution_id ORDER BY t.id DESC LIMIT :length
        ) newest
    ), phases = CASE WHEN status = 'completed' THEN (
        SELECT coalesce(jsonb_agg(phase || '{{"status": "done"}}'), '[]'::jsonb) FROM jsonb_array_elements(phases) phase
    ) ELSE phases END
    WHERE id = :execution_id
    """
)

_PROJECT_SESSION = text(
    f"""
    UPDATE "agentSessions" s SET "toolHistory" = (
        SELECT coalesce(jsonb_agg(entry ORDER BY id), '[]'::jsonb) FROM (
            SELECT t.id, {_TOOL_ENTRY} AS entry FROM "toolExecutions" t
            JOIN "agentExecutions" e ON e.id = t."executionId"
            WHERE e."sessionId" = s.id ORDER BY t.id DESC LIMIT :length
        ) newest
    ), "thinkingSteps" = (
        SELECT coalesce(jsonb_agg(step ORDER BY id, at), '[]'::jsonb) FROM (
            SELECT e.id, step, at
            FROM "agentExecutions" e, jsonb_array_elements(e."thinkingSteps") WITH ORDINALITY x(step, at)
            WHERE e."sessionId" = s.id ORDER BY e.id DESC, at DESC LIMIT :length
        ) newest
    )
    WHERE s.id = :session_id
    """
)
