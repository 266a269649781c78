"""The durable side of the loop: claims, the two commits of an iteration, and the end. The only SQL above storage.

T1 records a reply together with every tool call it intends, the usage and a longer lease. T2 records one tool's effect
together with its result. Both, and the end, compare the lease's epoch: zero rows mean that another worker has taken
over, and then nothing of the transaction survives, the tool's effect included. No transaction is open while a model
thinks.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, Table, and_, case, func, insert, literal, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from runtime.errors import LeaseLostError
from runtime.events import (
    Event,
    ExecutionEnded,
    ModelReplied,
    PhaseAdvanced,
    Planned,
    ToolCall,
    ToolReturned,
    UserSpoke,
    event_adapter,
)
from storage.models.agents import AgentExecution, AgentSession, AgentStep, ToolExecution, ToolState
from storage.queries import executions
from storage.queries.executions import ACTIVE
from storage.tenancy import Database

LEASE_S = 15
"""How long a claim holds without renewal."""

PROJECTED = 100
"""How many entries the jsonb projections of the document's columns show."""

SESSIONS, EXECUTIONS, STEPS, TOOLS = (
    cast("Table", model.__table__) for model in (AgentSession, AgentExecution, AgentStep, ToolExecution)
)
"""The hot path names tables, not classes: SQLAlchemy's unit of work would cost it more than the server does."""

_LEASE_END = func.now() + text(f"interval '{LEASE_S} seconds'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to drive one execution, as long as the session's epoch is ours."""

    user_id: int
    session_id: int
    execution_id: int
    epoch: int
    agent_name: str
    task: str
    is_new: bool
    """No event of this execution is recorded yet."""
    attempt: int
    """How many workers have taken it up without giving it back, this one included."""
    max_iterations: int
    now: datetime
    """The database's clock at the claim."""
    cancel_requested: bool
    """Somebody wants it stopped; nothing more is to be asked of a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event of a session, and the execution it belongs to."""

    execution_id: int
    event: Event


class PostgresJournal:
    """The journal of every session in one database, for one process."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner

    async def claim(self, user_id: int, execution_id: int) -> Claim | None:
        """Take the lease of an execution's session.

        None: the execution is over, is not yet due, is not the next one of its session, or somebody else drives it.
        """
        earlier = EXECUTIONS.alias()
        is_next = ~(
            select(earlier.c.id)
            .where(
                earlier.c.sessionId == EXECUTIONS.c.sessionId,
                earlier.c.status.in_(ACTIVE),
                earlier.c.id < EXECUTIONS.c.id,
            )
            .exists()
        )
        is_due = or_(EXECUTIONS.c.runAfter.is_(None), EXECUTIONS.c.runAfter <= func.now())
        is_free = or_(SESSIONS.c.leaseOwner.is_(None), SESSIONS.c.leaseUntil < func.now())
        taken = (
            update(SESSIONS)
            .where(
                EXECUTIONS.c.id == execution_id,
                SESSIONS.c.id == EXECUTIONS.c.sessionId,
                EXECUTIONS.c.status.in_(ACTIVE),
                is_next,
                is_due,
                is_free,
            )
            .values(
                {
                    SESSIONS.c.leaseOwner: self._owner,
                    SESSIONS.c.leaseEpoch: SESSIONS.c.leaseEpoch + 1,
                    SESSIONS.c.leaseUntil: _LEASE_END,
                }
            )
            .returning(SESSIONS.c.id, SESSIONS.c.leaseEpoch, SESSIONS.c.maxIterations)
        )
        async with self._database.begin(user_id) as db:
            session = (await db.execute(taken)).one_or_none()
            if session is None:
                return None
            begun = (
                update(EXECUTIONS)
                .where(EXECUTIONS.c.id == execution_id)
                .values(
                    {
                        EXECUTIONS.c.attempt: EXECUTIONS.c.attempt + 1,
                        EXECUTIONS.c.startedAt: func.coalesce(EXECUTIONS.c.startedAt, func.now()),
                        EXECUTIONS.c.runAfter: None,
                    }
                )
                .returning(
                    EXECUTIONS.c.status,
                    EXECUTIONS.c.agentName,
                    EXECUTIONS.c.taskDescription,
                    EXECUTIONS.c.attempt,
                    func.now(),
                    EXECUTIONS.c.cancelRequestedAt.is_not(None),
                )
            )
            row = (await db.execute(begun)).one()
        return Claim(
            user_id=user_id,
            session_id=session[0],
            execution_id=execution_id,
            epoch=session[1],
            agent_name=row[1],
            task=row[2],
            is_new=row[0] == "pending",
            attempt=row[3],
            max_iterations=session[2],
            now=row[4],
            cancel_requested=row[5],
        )

    async def read(self, claim: Claim) -> list[Recorded]:
        """Return the whole history of the claimed session, oldest first."""
        statement = (
            select(STEPS.c.executionId, STEPS.c.body).where(STEPS.c.sessionId == claim.session_id).order_by(STEPS.c.seq)
        )
        async with self._database.begin(claim.user_id) as db:
            rows = (await db.execute(statement)).all()
        return [Recorded(execution_id=row[0], event=event_adapter.validate_python(row[1])) for row in rows]

    async def begin(self, claim: Claim, event: UserSpoke) -> None:
        """Record what the execution is about and show it as planning."""
        async with self._database.begin(claim.user_id) as db:
            await self._append(db, claim, [event], {SESSIONS.c.status: "planning"})
            await self._set_execution(db, claim, {EXECUTIONS.c.status: "planning"})

    async def record_reply(self, claim: Claim, reply: ModelReplied, *, cost: int | None, task: str) -> bool:
        """T1: record a reply, its intended calls and its cost; tell whether somebody wants the execution cancelled.

        A first reply that does not plan gets the one-phase plan, so that planning costs no call of its own.
        """
        spent: dict[Any, Any] = {
            SESSIONS.c.iterationCount: SESSIONS.c.iterationCount + 1,
            SESSIONS.c.tokensIn: SESSIONS.c.tokensIn + reply.usage.input_tokens,
            SESSIONS.c.tokensOut: SESSIONS.c.tokensOut + reply.usage.output_tokens,
            SESSIONS.c.costMicros: SESSIONS.c.costMicros + literal(cost),
        }
        counted: dict[Any, Any] = {
            EXECUTIONS.c.iterations: EXECUTIONS.c.iterations + 1,
            EXECUTIONS.c.tokensIn: EXECUTIONS.c.tokensIn + reply.usage.input_tokens,
            EXECUTIONS.c.tokensOut: EXECUTIONS.c.tokensOut + reply.usage.output_tokens,
            EXECUTIONS.c.costMicros: EXECUTIONS.c.costMicros + literal(cost),
        }
        async with self._database.begin(claim.user_id) as db:
            row = await self._set_execution(db, claim, counted)
            unplanned = row.status == "planning" and all(call.name != "plan" for call in reply.calls)
            planned = [Planned(goal=task, phases=("answer",))] if unplanned else []
            await self._append(db, claim, [reply, *planned], spent)
            if unplanned:
                await executions.write_plan(db, claim.execution_id, goal=task, phases=["answer"])
            if reply.calls:
                await db.execute(insert(TOOLS), [self._intent(claim, call) for call in reply.calls])
        return row.cancel_requested

    async def start_call(self, claim: Claim, call: ToolCall, key: str) -> bool:
        """Record that an external tool is about to act; False: a worker that is gone had recorded that before."""
        async with self._database.begin(claim.user_id) as db:
            await self._fence(db, claim)
            before = await db.scalar(
                select(TOOLS.c.state)
                .where(TOOLS.c.executionId == claim.execution_id, TOOLS.c.toolUseId == call.id)
                .with_for_update()
            )
            started = update(TOOLS).where(TOOLS.c.executionId == claim.execution_id, TOOLS.c.toolUseId == call.id)
            values: dict[Any, Any] = {
                TOOLS.c.state: "started",
                TOOLS.c.idempotencyKey: key,
                TOOLS.c.leaseEpoch: claim.epoch,
            }
            await db.execute(started.values(values))
        return before == "pending"

    @asynccontextmanager
    async def tool_commit(self, claim: Claim, call: ToolCall) -> AsyncGenerator["ToolCommit"]:
        """T2: open the transaction in which a tool's effect and its result commit together."""
        async with self._database.begin(claim.user_id) as db:
            # Taking the number locks the session's row: from here on no other worker can claim it until this commits.
            seq = await self._take_seq(db, claim, 1, {})
            commit = ToolCommit(db)
            yield commit
            returned = commit.returned
            assert returned is not None, "the caller settles every call"  # noqa: S101 -- our own invariant
            await self._insert_steps(db, claim, seq, [returned])
            if commit.facts:
                await self._append(db, claim, commit.facts, {})
            settled = (
                update(TOOLS)
                .where(
                    TOOLS.c.executionId == claim.execution_id,
                    TOOLS.c.toolUseId == call.id,
                    TOOLS.c.state.in_(("pending", "started")),
                )
                .values(
                    {
                        TOOLS.c.state: commit.state or ("error" if returned.is_error else "done"),
                        TOOLS.c.success: not returned.is_error,
                        TOOLS.c.result: commit.result,
                        TOOLS.c.error: returned.content if returned.is_error else None,
                        TOOLS.c.attempt: TOOLS.c.attempt + 1,
                        TOOLS.c.durationMs: commit.duration_ms,
                        TOOLS.c.executedAt: func.now(),
                        TOOLS.c.leaseEpoch: claim.epoch,
                    }
                )
            )
            _require_one(await db.execute(settled), claim)

    @asynccontextmanager
    async def ending(
        self, claim: Claim, ended: ExecutionEnded, events: Sequence[Event]
    ) -> AsyncGenerator[AsyncSession]:
        """End the execution: status, projections and whatever the caller adds in the block commit together."""
        async with self._database.begin(claim.user_id) as db:
            one_task = SESSIONS.c.context["oneTask"].astext == "true"
            resting = case((one_task, "complete"), else_="idle")
            status = "error" if ended.status == "failed" else resting
            await self._append(
                db,
                claim,
                [ended],
                {SESSIONS.c.status: status, SESSIONS.c.leaseOwner: None, SESSIONS.c.leaseUntil: None},
            )
            # Calls that never ran are settled, so that no row promises a result that will not come.
            never_ran = (TOOLS.c.executionId == claim.execution_id) & TOOLS.c.state.in_(("pending", "started"))
            await db.execute(update(TOOLS).where(never_ran).values({TOOLS.c.state: "cancelled"}))
            await self._set_execution(db, claim, _final_values(ended, events))
            await db.execute(_PROJECT_TOOLS, {"execution_id": claim.execution_id, "length": PROJECTED})
            await db.execute(_PROJECT_SESSION, {"session_id": claim.session_id, "length": PROJECTED})
            yield db

    async def release(self, claim: Claim, *, delay_s: float = 0, blames: bool = False) -> None:
        """Give the session back unfinished; it is taken up again by anybody, not before `delay_s` seconds.

        `blames`: this attempt counts as one that the execution has spoilt; enough of them park it.
        """
        run_after = func.now() + text("make_interval(secs => :delay)").bindparams(delay=delay_s)
        async with self._database.begin(claim.user_id) as db:
            freed = {SESSIONS.c.leaseOwner: None, SESSIONS.c.leaseUntil: None}
            result = await db.execute(self._ours(claim).values(freed))
            if _rowcount(result) == 1:
                attempts = EXECUTIONS.c.attempt if blames else EXECUTIONS.c.attempt - 1
                back = {EXECUTIONS.c.runAfter: run_after, EXECUTIONS.c.attempt: attempts}
                await self._set_execution(db, claim, back)

    async def renew_all(self) -> None:
        """Prolong every lease of this process, in one statement."""
        async with self._database.begin_dispatch() as db:
            await db.execute(_RENEW, {"owner": self._owner, "seconds": LEASE_S})

    def _ours(self, claim: Claim) -> Any:
        fenced = and_(SESSIONS.c.id == claim.session_id, SESSIONS.c.leaseEpoch == claim.epoch)
        return update(SESSIONS).where(fenced)

    async def _fence(self, db: AsyncSession, claim: Claim) -> None:
        _require_one(await db.execute(self._ours(claim).values({SESSIONS.c.leaseUntil: _LEASE_END})), claim)

    async def _append(self, db: AsyncSession, claim: Claim, events: Sequence[Event], changes: dict[Any, Any]) -> None:
        """Append events under the fence; the journal's key refuses a second driver even without it."""
        first = await self._take_seq(db, claim, len(events), changes)
        await self._insert_steps(db, claim, first, events)

    async def _take_seq(self, db: AsyncSession, claim: Claim, count: int, changes: dict[Any, Any]) -> int:
        """Take `count` numbers of the session's journal under the fence and return the first."""
        values = {SESSIONS.c.nextSeq: SESSIONS.c.nextSeq + count, SESSIONS.c.leaseUntil: _LEASE_END}
        statement = self._ours(claim).values(values | changes).returning(SESSIONS.c.nextSeq)
        row = (await db.execute(statement)).one_or_none()
        if row is None:
            raise LeaseLostError(claim.session_id, claim.epoch)
        return row[0] - count

    async def _insert_steps(self, db: AsyncSession, claim: Claim, first: int, events: Sequence[Event]) -> None:
        rows = [
            {
                "userId": claim.user_id,
                "sessionId": claim.session_id,
                "executionId": claim.execution_id,
                "seq": first + index,
                "kind": event.kind,
                "body": event.model_dump(mode="json"),
            }
            for index, event in enumerate(events)
        ]
        await db.execute(insert(STEPS), rows)

    async def _set_execution(self, db: AsyncSession, claim: Claim, values: dict[Any, Any]) -> "_ExecutionRow":
        statement = (
            update(EXECUTIONS)
            .where(EXECUTIONS.c.id == claim.execution_id)
            .values(values)
            .returning(EXECUTIONS.c.status, EXECUTIONS.c.cancelRequestedAt.is_not(None))
        )
        row = (await db.execute(statement)).one()
        return _ExecutionRow(status=row[0], cancel_requested=row[1])

    def _intent(self, claim: Claim, call: ToolCall) -> dict[str, Any]:
        return {
            "userId": claim.user_id,
            "executionId": claim.execution_id,
            "toolName": storable(call.name)[:100],
            "parameters": storable(call.arguments),
            "toolUseId": call.id,
            "leaseEpoch": claim.epoch,
        }


class ToolCommit:
    """What a tool's transaction will record; the driver settles it before the block ends."""

    def __init__(self, db: AsyncSession) -> None:
        self.db = db
        self.returned: ToolReturned | None = None
        self.result: Any = None
        self.duration_ms: int | None = None
        self.state: ToolState | None = None
        """None: done, or error, as the result says."""
        self.facts: list[Planned | PhaseAdvanced] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class _ExecutionRow:
    status: str
    cancel_requested: bool


def _final_values(ended: ExecutionEnded, events: Sequence[Event]) -> dict[Any, Any]:
    thinking = [
        {"iteration": index, "thinking": event.thinking, "text": event.text}
        for index, event in enumerate((event for event in events if isinstance(event, ModelReplied)), start=1)
    ]
    elapsed = func.extract("epoch", func.clock_timestamp() - EXECUTIONS.c.startedAt) * 1000
    values: dict[Any, Any] = {
        EXECUTIONS.c.status: ended.status,
        EXECUTIONS.c.completedAt: func.now(),
        EXECUTIONS.c.durationMs: func.coalesce(elapsed, 0),
        EXECUTIONS.c.thinkingSteps: storable(thinking[-PROJECTED:]),
    }
    if ended.status == "completed":
        return values | {EXECUTIONS.c.result: {"text": ended.text}}
    return values | {EXECUTIONS.c.error: ended.text}


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


def _rowcount(result: Any) -> int:
    assert isinstance(result, CursorResult)  # noqa: S101 -- an UPDATE gives one
    return result.rowcount


def _require_one(result: Any, claim: Claim) -> None:
    if _rowcount(result) != 1:
        raise LeaseLostError(claim.session_id, claim.epoch)


_RENEW = text(
    """
    UPDATE "agentSessions" SET "leaseUntil" = now() + make_interval(secs => :seconds)
    WHERE "leaseOwner" = :owner AND "leaseUntil" > now()
    """
)
"""By hand, because the dispatch role may write these columns only, and the model's `updatedAt` writes itself."""

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
    """  # noqa: S608 -- built from constants
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
    """  # noqa: S608 -- built from constants
)
