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

from sqlalchemy import CursorResult, and_, case, func, insert, literal, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

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
        earlier = aliased(AgentExecution)
        is_next = ~(
            select(earlier.id)
            .where(
                earlier.session_id == AgentExecution.session_id,
                earlier.status.in_(ACTIVE),
                earlier.id < AgentExecution.id,
            )
            .exists()
        )
        is_due = or_(AgentExecution.run_after.is_(None), AgentExecution.run_after <= func.now())
        is_free = or_(AgentSession.lease_owner.is_(None), AgentSession.lease_until < func.now())
        taken = (
            update(AgentSession)
            .where(
                AgentExecution.id == execution_id,
                AgentSession.id == AgentExecution.session_id,
                AgentExecution.status.in_(ACTIVE),
                is_next,
                is_due,
                is_free,
            )
            .values(
                {
                    AgentSession.lease_owner: self._owner,
                    AgentSession.lease_epoch: AgentSession.lease_epoch + 1,
                    AgentSession.lease_until: _LEASE_END,
                }
            )
            .returning(AgentSession.id, AgentSession.lease_epoch, AgentSession.max_iterations)
            .execution_options(synchronize_session=False)
        )
        async with self._database.begin(user_id) as db:
            session = (await db.execute(taken)).one_or_none()
            if session is None:
                return None
            begun = (
                update(AgentExecution)
                .where(AgentExecution.id == execution_id)
                .values(
                    {
                        AgentExecution.attempt: AgentExecution.attempt + 1,
                        AgentExecution.started_at: func.coalesce(AgentExecution.started_at, func.now()),
                        AgentExecution.run_after: None,
                    }
                )
                .returning(
                    AgentExecution.status,
                    AgentExecution.agent_name,
                    AgentExecution.task_description,
                    AgentExecution.attempt,
                    func.now(),
                    AgentExecution.cancel_requested_at.is_not(None),
                )
                .execution_options(synchronize_session=False)
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
            select(AgentStep.execution_id, AgentStep.body)
            .where(AgentStep.session_id == claim.session_id)
            .order_by(AgentStep.seq)
        )
        async with self._database.begin(claim.user_id) as db:
            rows = (await db.execute(statement)).all()
        return [Recorded(execution_id=row[0], event=event_adapter.validate_python(row[1])) for row in rows]

    async def begin(self, claim: Claim, event: UserSpoke) -> None:
        """Record what the execution is about and show it as planning."""
        async with self._database.begin(claim.user_id) as db:
            await self._append(db, claim, [event], {AgentSession.status: "planning"})
            await self._set_execution(db, claim, {AgentExecution.status: "planning"})

    async def record_reply(self, claim: Claim, reply: ModelReplied, *, cost: int | None, task: str) -> bool:
        """T1: record a reply, its intended calls and its cost; tell whether somebody wants the execution cancelled.

        A first reply that does not plan gets the one-phase plan, so that planning costs no call of its own.
        """
        spent: dict[Any, Any] = {
            AgentSession.iteration_count: AgentSession.iteration_count + 1,
            AgentSession.tokens_in: AgentSession.tokens_in + reply.usage.input_tokens,
            AgentSession.tokens_out: AgentSession.tokens_out + reply.usage.output_tokens,
            AgentSession.cost_micros: AgentSession.cost_micros + literal(cost),
        }
        counted: dict[Any, Any] = {
            AgentExecution.iterations: AgentExecution.iterations + 1,
            AgentExecution.tokens_in: AgentExecution.tokens_in + reply.usage.input_tokens,
            AgentExecution.tokens_out: AgentExecution.tokens_out + reply.usage.output_tokens,
            AgentExecution.cost_micros: AgentExecution.cost_micros + literal(cost),
        }
        async with self._database.begin(claim.user_id) as db:
            row = await self._set_execution(db, claim, counted)
            unplanned = row.status == "planning" and all(call.name != "plan" for call in reply.calls)
            planned = [Planned(goal=task, phases=("answer",))] if unplanned else []
            await self._append(db, claim, [reply, *planned], spent)
            if unplanned:
                await executions.write_plan(db, claim.execution_id, goal=task, phases=["answer"])
            if reply.calls:
                await db.execute(insert(ToolExecution), [self._intent(claim, call) for call in reply.calls])
        return row.cancel_requested

    async def start_call(self, claim: Claim, call: ToolCall, key: str) -> bool:
        """Record that an external tool is about to act; False: a worker that is gone had recorded that before."""
        async with self._database.begin(claim.user_id) as db:
            await self._fence(db, claim)
            before = await db.scalar(
                select(ToolExecution.state)
                .where(ToolExecution.execution_id == claim.execution_id, ToolExecution.tool_use_id == call.id)
                .with_for_update()
            )
            started = update(ToolExecution).where(
                ToolExecution.execution_id == claim.execution_id, ToolExecution.tool_use_id == call.id
            )
            values: dict[Any, Any] = {
                ToolExecution.state: "started",
                ToolExecution.idempotency_key: key,
                ToolExecution.lease_epoch: claim.epoch,
            }
            await db.execute(started.values(values).execution_options(synchronize_session=False))
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
                update(ToolExecution)
                .where(
                    ToolExecution.execution_id == claim.execution_id,
                    ToolExecution.tool_use_id == call.id,
                    ToolExecution.state.in_(("pending", "started")),
                )
                .values(
                    {
                        ToolExecution.state: commit.state or ("error" if returned.is_error else "done"),
                        ToolExecution.success: not returned.is_error,
                        ToolExecution.result: commit.result,
                        ToolExecution.error: returned.content if returned.is_error else None,
                        ToolExecution.attempt: ToolExecution.attempt + 1,
                        ToolExecution.duration_ms: commit.duration_ms,
                        ToolExecution.executed_at: func.now(),
                        ToolExecution.lease_epoch: claim.epoch,
                    }
                )
                .execution_options(synchronize_session=False)
            )
            _require_one(await db.execute(settled), claim)

    @asynccontextmanager
    async def ending(
        self, claim: Claim, ended: ExecutionEnded, events: Sequence[Event]
    ) -> AsyncGenerator[AsyncSession]:
        """End the execution: status, projections and whatever the caller adds in the block commit together."""
        async with self._database.begin(claim.user_id) as db:
            one_task = AgentSession.context["oneTask"].astext == "true"
            resting = case((one_task, "complete"), else_="idle")
            status = "error" if ended.status == "failed" else resting
            await self._append(
                db,
                claim,
                [ended],
                {AgentSession.status: status, AgentSession.lease_owner: None, AgentSession.lease_until: None},
            )
            # Calls that never ran are settled, so that no row promises a result that will not come.
            never_ran = (ToolExecution.execution_id == claim.execution_id) & ToolExecution.state.in_(
                ("pending", "started")
            )
            await db.execute(update(ToolExecution).where(never_ran).values({ToolExecution.state: "cancelled"}))
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
            freed = {AgentSession.lease_owner: None, AgentSession.lease_until: None}
            result = await db.execute(self._ours(claim).values(freed))
            if _rowcount(result) == 1:
                attempts = AgentExecution.attempt if blames else AgentExecution.attempt - 1
                back = {AgentExecution.run_after: run_after, AgentExecution.attempt: attempts}
                await self._set_execution(db, claim, back)

    async def renew_all(self) -> None:
        """Prolong every lease of this process, in one statement."""
        async with self._database.begin_dispatch() as db:
            await db.execute(_RENEW, {"owner": self._owner, "seconds": LEASE_S})

    def _ours(self, claim: Claim) -> Any:
        fenced = and_(AgentSession.id == claim.session_id, AgentSession.lease_epoch == claim.epoch)
        return update(AgentSession).where(fenced).execution_options(synchronize_session=False)

    async def _fence(self, db: AsyncSession, claim: Claim) -> None:
        _require_one(await db.execute(self._ours(claim).values({AgentSession.lease_until: _LEASE_END})), claim)

    async def _append(self, db: AsyncSession, claim: Claim, events: Sequence[Event], changes: dict[Any, Any]) -> None:
        """Append events under the fence; the journal's key refuses a second driver even without it."""
        first = await self._take_seq(db, claim, len(events), changes)
        await self._insert_steps(db, claim, first, events)

    async def _take_seq(self, db: AsyncSession, claim: Claim, count: int, changes: dict[Any, Any]) -> int:
        """Take `count` numbers of the session's journal under the fence and return the first."""
        values = {AgentSession.next_seq: AgentSession.next_seq + count, AgentSession.lease_until: _LEASE_END}
        statement = self._ours(claim).values(values | changes).returning(AgentSession.next_seq)
        row = (await db.execute(statement)).one_or_none()
        if row is None:
            raise LeaseLostError(claim.session_id, claim.epoch)
        return row[0] - count

    async def _insert_steps(self, db: AsyncSession, claim: Claim, first: int, events: Sequence[Event]) -> None:
        rows = [
            {
                AgentStep.user_id.key: claim.user_id,
                AgentStep.session_id.key: claim.session_id,
                AgentStep.execution_id.key: claim.execution_id,
                AgentStep.seq.key: first + index,
                AgentStep.kind.key: event.kind,
                AgentStep.body.key: event.model_dump(mode="json"),
            }
            for index, event in enumerate(events)
        ]
        await db.execute(insert(AgentStep), rows)

    async def _set_execution(self, db: AsyncSession, claim: Claim, values: dict[Any, Any]) -> "_ExecutionRow":
        statement = (
            update(AgentExecution)
            .where(AgentExecution.id == claim.execution_id)
            .values(values)
            .returning(AgentExecution.status, AgentExecution.cancel_requested_at.is_not(None))
            .execution_options(synchronize_session=False)
        )
        row = (await db.execute(statement)).one()
        return _ExecutionRow(status=row[0], cancel_requested=row[1])

    def _intent(self, claim: Claim, call: ToolCall) -> dict[str, Any]:
        return {
            ToolExecution.user_id.key: claim.user_id,
            ToolExecution.execution_id.key: claim.execution_id,
            ToolExecution.tool_name.key: storable(call.name)[:100],
            ToolExecution.parameters.key: storable(call.arguments),
            ToolExecution.tool_use_id.key: call.id,
            ToolExecution.lease_epoch.key: claim.epoch,
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
    elapsed = func.extract("epoch", func.clock_timestamp() - AgentExecution.started_at) * 1000
    values: dict[Any, Any] = {
        AgentExecution.status: ended.status,
        AgentExecution.completed_at: func.now(),
        AgentExecution.duration_ms: func.coalesce(elapsed, 0),
        AgentExecution.thinking_steps: storable(thinking[-PROJECTED:]),
    }
    if ended.status == "completed":
        return values | {AgentExecution.result: {"text": ended.text}}
    return values | {AgentExecution.error: ended.text}


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
