"""The rows that `MemoryJournal` works on, and what people do to them from outside. One store serves many journals.

Fields are named as the columns of the tables (`leaseUntil` is `lease_until`). Left out are the columns that only show
what other rows say: `toolHistory`, `thinkingSteps`, `toolExecutions`.
"""

import itertools
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from runtime.clock import Clock, SystemClock
from runtime.journal import APPROVAL_S
from runtime.journal_port import Recorded, Scene, ToolOutcome
from runtime.operation import Context
from runtime.ports import Json
from storage.models.agents import ExecutionStatus, SessionStatus
from storage.models.runtime import ApprovalStatus
from storage.queries.executions import ACTIVE, DueExecution

APPROVAL_LIFE = timedelta(seconds=APPROVAL_S)

LOST_AFTER = timedelta(seconds=5)
"""As in `storage.queries.executions`: a wake-up that has not been heard for so long is taken for lost."""


@dataclass(slots=True, kw_only=True)
class SessionRow:
    """A row of agentSessions."""

    id: int
    user_id: int
    status: SessionStatus = "idle"
    context: Json = field(default_factory=dict[str, Any])
    plan: Json | None = None
    current_phase: str | None = None
    iteration_count: int = 0
    max_iterations: int = 100
    next_seq: int = 1
    lease_owner: str | None = None
    lease_epoch: int = 0
    lease_until: datetime | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cost_micros: int | None = 0
    limits: Json = field(default_factory=dict[str, Any])
    parent_session_id: int | None = None
    parent_seq: int | None = None


@dataclass(slots=True, kw_only=True)
class ExecutionRow:
    """A row of agentExecutions."""

    id: int
    user_id: int
    session_id: int
    task_description: str
    agent_name: str
    status: ExecutionStatus = "pending"
    plan: Json | None = None
    phases: list[Json] = field(default_factory=list[Json])
    current_phase_index: int = 0
    result: Json | None = None
    error: str | None = None
    iterations: int = 0
    duration_ms: int | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    waiting_for: Json | None = None
    run_after: datetime | None = None
    attempt: int = 0
    cancel_requested_at: datetime | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cost_micros: int | None = 0
    definition_hash: str | None = None
    parent_execution_id: int | None = None
    paused_at: datetime | None = None
    deadline: datetime | None = None
    limits: Json = field(default_factory=dict[str, Any])
    tool_calls: int = 0
    reserved_tokens: int = 0
    reserved_cost_micros: int = 0
    unsettled_tokens: int = 0
    unsettled_cost_micros: int = 0

    @property
    def is_over(self) -> bool:
        """Nothing can happen to it any more."""
        return self.status not in ACTIVE


@dataclass(slots=True, kw_only=True)
class CallRow:
    """A row of toolExecutions."""

    user_id: int
    execution_id: int
    tool_use_id: str
    tool_name: str
    parameters: Json
    result: Any = None
    success: bool | None = None
    duration_ms: int | None = None
    error: str | None = None
    state: ToolOutcome | str = "pending"
    attempt: int = 0
    idempotency_key: str | None = None
    lease_epoch: int = 0
    blob: str | None = None
    """The whole result, when it is too large for `result`; a row of its own in Postgres."""

    @property
    def is_open(self) -> bool:
        """It has no result yet."""
        return self.state in ("pending", "started", "awaiting_approval")


@dataclass(slots=True, kw_only=True)
class ApprovalRow:
    """A row of approvals."""

    id: int
    user_id: int
    execution_id: int
    tool_use_id: str
    attempt: int
    tool_name: str
    request_hash: str
    payload: Json
    reason: str
    expires_at: datetime
    status: ApprovalStatus = "pending"
    decided_at: datetime | None = None
    decided_by: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """A row of auditLogs."""

    user_id: int
    action: str
    entity_type: str
    entity_id: str | None
    new_values: Json


class MemoryDb:
    """What a tool's transaction is in memory: what it puts is its own until the transaction commits.

    Tools that speak SQL need a real database (`system_on`); this is for tools that were written to be simulated.
    """

    def __init__(self, kept: dict[str, Any], *, read_only: bool = False) -> None:
        self._kept = kept
        self._read_only = read_only
        self.staged: dict[str, Any] = {}
        """What has been put and is not committed."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return what was put under `key`, by this transaction or by one that has committed."""
        return self.staged.get(key, self._kept.get(key, default))

    def put(self, key: str, value: Any) -> None:
        """Keep a value if the transaction commits.

        Raises:
            PermissionError: the tool has effect 'none', so its transaction can only read.
        """
        if self._read_only:
            raise PermissionError(f"a tool with effect 'none' cannot put {key!r}; declare effect 'db'")
        self.staged[key] = value

    def commit(self) -> None:
        """Let everybody see what was put."""
        self._kept.update(self.staged)


def memory_of(ctx: Context) -> MemoryDb:
    """Return the memory that a simulated tool works with.

    Raises:
        TypeError: the tool runs on Postgres.
    """
    db: object = ctx.db
    if not isinstance(db, MemoryDb):
        raise TypeError(f"this tool works in memory only, and got {type(db).__name__!r}; run it on a MemoryJournal")
    return db


class MemoryStore:
    """Every row, the database's clock, and the doors of people. Nothing here waits, so each call is one commit."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.sessions: dict[int, SessionRow] = {}
        self.executions: dict[int, ExecutionRow] = {}
        self.steps: dict[int, list[Recorded]] = {}
        """By session; the place in the list, from 1, is the step's `seq`."""
        self.calls: dict[tuple[int, str], CallRow] = {}
        """By execution and the model's id of the call."""
        self.approvals: dict[int, ApprovalRow] = {}
        self.audits: list[AuditRow] = []
        self.kept: dict[int, dict[str, Any]] = {}
        """What tools have put, by tenant."""
        self.scenes: dict[int, Scene] = {}
        """Where sessions take place; one that is not here has no conversation and no time zone."""
        self._queued_at: dict[int, datetime] = {}
        self._approval_ids = itertools.count(1)

    def now(self) -> datetime:
        """Return the instant that every row is written with."""
        return self._clock.now()

    def next_approval_id(self) -> int:
        """Take a number; as with a sequence, one whose transaction fails is lost."""
        return next(self._approval_ids)

    def kept_by(self, user_id: int) -> dict[str, Any]:
        """Return what the tools of a tenant have put."""
        return self.kept.setdefault(user_id, {})

    # --- what is there to do ---

    def add_session(
        self,
        user_id: int,
        *,
        one_task: bool = False,
        max_iterations: int = 100,
        limits: Json | None = None,
        parent: tuple[int, int] | None = None,
    ) -> int:
        """Add a session and return its id; `parent`: session and step that it is forked from."""
        session = SessionRow(
            id=len(self.sessions) + 1,
            user_id=user_id,
            context={"oneTask": one_task},
            max_iterations=max_iterations,
            limits=limits or {},
            parent_session_id=parent[0] if parent else None,
            parent_seq=parent[1] if parent else None,
        )
        self.sessions[session.id] = session
        self.steps[session.id] = []
        return session.id

    def queue(
        self,
        session_id: int,
        *,
        agent_name: str,
        task: str,
        limits: Json | None = None,
        parent_execution_id: int | None = None,
    ) -> int:
        """Add a pending execution and return its id; those of one session run one after the other."""
        execution = ExecutionRow(
            id=len(self.executions) + 1,
            user_id=self.sessions[session_id].user_id,
            session_id=session_id,
            agent_name=agent_name,
            task_description=task,
            limits=limits or {},
            parent_execution_id=parent_execution_id,
        )
        self.executions[execution.id] = execution
        self._queued_at[execution.id] = self.now()
        return execution.id

    def is_next(self, execution: ExecutionRow) -> bool:
        """Tell whether no earlier execution of its session is left."""
        others = (one for one in self.executions.values() if one.session_id == execution.session_id)
        return all(one.is_over or one.id >= execution.id for one in others)

    def is_held(self, execution: ExecutionRow) -> bool:
        """Tell whether it waits or is paused; one that is to be cancelled, or whose time is over, is not held back."""
        waits = execution.waiting_for is not None or execution.paused_at is not None
        is_late = execution.deadline is not None and execution.deadline <= self.now()
        return waits and not is_late and execution.cancel_requested_at is None

    def is_free(self, session: SessionRow) -> bool:
        """Tell whether nobody drives it, or whoever did is taken for dead."""
        return session.lease_owner is None or (session.lease_until is not None and session.lease_until < self.now())

    def due(self) -> list[DueExecution]:
        """Return executions that could go on and that nobody works on: what take-over picks up."""
        found: list[DueExecution] = []
        for execution in self.executions.values():
            session = self.sessions[execution.session_id]
            since = execution.run_after or self._queued_at[execution.id] + LOST_AFTER
            can_go_on = not execution.is_over and not self.is_held(execution) and since <= self.now()
            if can_go_on and self.is_free(session) and self.is_next(execution):
                lapsed = session.lease_epoch if session.lease_owner is not None else None
                found.append(DueExecution(user_id=execution.user_id, execution_id=execution.id, lapsed_epoch=lapsed))
        return found

    # --- what people do ---

    def request_cancel(self, execution_id: int) -> None:
        """Ask whoever drives it to stop at the next commit."""
        execution = self.executions[execution_id]
        execution.cancel_requested_at = execution.cancel_requested_at or self.now()

    def pause(self, execution_id: int) -> None:
        """Hold it at the next commit, until somebody resumes it."""
        execution = self.executions[execution_id]
        if not execution.is_over:
            execution.paused_at = execution.paused_at or self.now()

    def resume(self, execution_id: int) -> None:
        """Let it go on."""
        execution = self.executions[execution_id]
        if execution.paused_at is not None:
            execution.paused_at = None
            self._wake(execution)

    def grant(self, approval_id: int, *, by: str) -> bool:
        """Let a call run; False: it is too late for that."""
        return self._decide(approval_id, "granted", by, None)

    def deny(self, approval_id: int, *, by: str, note: str | None = None) -> bool:
        """Refuse a call; False: it is too late for that."""
        return self._decide(approval_id, "denied", by, note)

    def expire_approvals(self) -> list[int]:
        """Give up what nobody has answered in time; return which."""
        late = [one for one in self.approvals.values() if one.status == "pending" and one.expires_at <= self.now()]
        for approval in late:
            approval.status, approval.decided_at = "expired", self.now()
            self._wake(self.executions[approval.execution_id])
        return [approval.id for approval in late]

    def answer(self, execution_id: int, call_id: str, text: str) -> bool:
        """Answer the question of a call that waits; False: it does not wait for an answer."""
        call = self.calls[execution_id, call_id]
        if call.state != "started" or call.result is not None:
            return False
        call.result = {"answer": text}
        self._wake(self.executions[execution_id])
        return True

    def _decide(self, approval_id: int, status: ApprovalStatus, by: str, note: str | None) -> bool:
        approval = self.approvals[approval_id]
        if approval.status != "pending" or approval.expires_at <= self.now():
            return False
        approval.status, approval.decided_at, approval.decided_by, approval.note = status, self.now(), by, note
        self._wake(self.executions[approval.execution_id])
        return True

    def _wake(self, execution: ExecutionRow) -> None:
        if not execution.is_over:
            execution.waiting_for, execution.run_after = None, self.now()
