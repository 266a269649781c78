"""Agents at work: the lasting session, one execution per task, the journal of steps, every tool call.

`agentSteps` and `toolExecutions` are the truth. The jsonb columns of the document (`thinkingSteps`, `toolHistory`,
`toolExecutions`, `phases`) are bounded projections written together with the status (docs/architecture.md).
"""

import uuid
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from storage.base import (
    Base,
    Created,
    Identified,
    JsonList,
    JsonObject,
    Owned,
    Timestamp,
    Updated,
    closed_list,
    json_list,
    json_object,
    owner_link,
    search_vector,
)

SessionStatus = Literal["idle", "planning", "executing", "complete", "error", "paused"]
ExecutionStatus = Literal["pending", "planning", "executing", "completed", "failed", "cancelled"]
StepKind = Literal["user", "assistant", "tool_result", "system", "plan", "phase", "compaction", "control"]
ToolState = Literal["pending", "started", "done", "error", "unknown", "cancelled", "awaiting_approval"]


class AgentSession(Identified, Owned, Updated, Base):
    """The lasting context of an agent. Its lease is the only lock: one execution at a time per session."""

    __tablename__ = "agentSessions"
    __table_args__ = (
        UniqueConstraint("userId", "id"),
        UniqueConstraint("userId", "sessionUuid"),
        closed_list("status", SessionStatus),
        Index("idx_agent_sessions_user", "userId"),
        # The take-over sweep asks once a second for lapsed leases; few sessions are leased at any moment.
        Index("ix_agentSessions_leaseUntil", "leaseUntil", postgresql_where=text('"leaseOwner" IS NOT NULL')),
        owner_link("parentSessionId", "agentSessions", optional=False),
        Index(
            "ix_agentSessions_userId_parentSessionId",
            "userId",
            "parentSessionId",
            postgresql_where=text('"parentSessionId" IS NOT NULL'),
        ),
        {"postgresql_with": {"fillfactor": 70}},
    )

    session_uuid: Mapped[uuid.UUID] = mapped_column("sessionUuid", Uuid, server_default=text("gen_random_uuid()"))
    status: Mapped[SessionStatus] = mapped_column(String(50), server_default="idle")
    context: Mapped[JsonObject] = json_object("context")
    thinking_steps: Mapped[JsonList] = json_list("thinkingSteps")
    tool_history: Mapped[JsonList] = json_list("toolHistory")
    plan: Mapped[Any | None] = mapped_column(JSONB)
    current_phase: Mapped[str | None] = mapped_column("currentPhase", String(100))
    iteration_count: Mapped[int] = mapped_column("iterationCount", Integer, server_default=text("0"))
    max_iterations: Mapped[int] = mapped_column("maxIterations", Integer, server_default=text("100"))
    next_seq: Mapped[int] = mapped_column("nextSeq", BigInteger, server_default=text("1"))
    """The `seq` that the next step gets."""
    lease_owner: Mapped[str | None] = mapped_column("leaseOwner", String(100))
    lease_epoch: Mapped[int] = mapped_column("leaseEpoch", BigInteger, server_default=text("0"))
    """The fence: every write of claimed work compares it."""
    lease_until: Mapped[datetime | None] = mapped_column("leaseUntil", Timestamp)
    tokens_in: Mapped[int] = mapped_column("tokensIn", BigInteger, server_default=text("0"))
    tokens_out: Mapped[int] = mapped_column("tokensOut", BigInteger, server_default=text("0"))
    cost_micros: Mapped[int | None] = mapped_column("costMicros", BigInteger, server_default=text("0"))
    """Millionths of a US dollar; NULL: the price of a model that was used is unknown."""
    limits: Mapped[JsonObject] = json_object("limits")
    """What each execution of it may use, unless that says otherwise: iterations, tokens, costMicros, seconds,
    toolCalls."""
    parent_session_id: Mapped[int | None] = mapped_column("parentSessionId", BigInteger)
    """The session that this one was forked from; its steps up to `parentSeq` are read before one's own."""
    parent_seq: Mapped[int | None] = mapped_column("parentSeq", BigInteger)


class AgentExecution(Identified, Owned, Created, Base):
    """One task driven to an end: a user's message, a debounced batch, a swarm's attempt."""

    __tablename__ = "agentExecutions"
    __table_args__ = (
        UniqueConstraint("userId", "id"),
        owner_link("sessionId", "agentSessions", optional=False),
        closed_list("status", ExecutionStatus),
        Index("idx_agent_executions_session", "sessionId"),
        Index("idx_agent_executions_status", "status"),
        owner_link("parentExecutionId", "agentExecutions", optional=True),
        Index(
            "ix_agentExecutions_userId_parentExecutionId",
            "userId",
            "parentExecutionId",
            postgresql_where=text('"parentExecutionId" IS NOT NULL'),
        ),
        Index(
            "ix_agentExecutions_runAfter",
            "runAfter",
            postgresql_where=text("status IN ('pending', 'planning', 'executing')"),
        ),
    )

    session_id: Mapped[int] = mapped_column("sessionId", BigInteger)
    task_description: Mapped[str] = mapped_column("taskDescription", Text)
    status: Mapped[ExecutionStatus] = mapped_column(String(50), server_default="pending")
    plan: Mapped[Any | None] = mapped_column(JSONB)
    phases: Mapped[JsonList] = json_list("phases")
    current_phase_index: Mapped[int] = mapped_column("currentPhaseIndex", Integer, server_default=text("0"))
    thinking_steps: Mapped[JsonList] = json_list("thinkingSteps")
    tool_executions: Mapped[JsonList] = json_list("toolExecutions")
    result: Mapped[Any | None] = mapped_column(JSONB)
    error: Mapped[str | None] = mapped_column(Text)
    iterations: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    duration_ms: Mapped[int | None] = mapped_column("durationMs", Integer)
    started_at: Mapped[datetime | None] = mapped_column("startedAt", Timestamp)
    completed_at: Mapped[datetime | None] = mapped_column("completedAt", Timestamp)
    agent_name: Mapped[str] = mapped_column("agentName", String(255))
    waiting_for: Mapped[Any | None] = mapped_column("waitingFor", JSONB)
    """What it waits for, as kind and ids; NULL: nothing. An execution that waits is driven by nobody."""
    run_after: Mapped[datetime | None] = mapped_column("runAfter", Timestamp)
    """Not before this: the durable back-off after an overload of the model."""
    attempt: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    """How often a worker has taken it up; parked when it keeps killing workers."""
    cancel_requested_at: Mapped[datetime | None] = mapped_column("cancelRequestedAt", Timestamp)
    tokens_in: Mapped[int] = mapped_column("tokensIn", BigInteger, server_default=text("0"))
    tokens_out: Mapped[int] = mapped_column("tokensOut", BigInteger, server_default=text("0"))
    cost_micros: Mapped[int | None] = mapped_column("costMicros", BigInteger, server_default=text("0"))
    """Millionths of a US dollar; NULL: unknown."""
    definition_hash: Mapped[str | None] = mapped_column("definitionHash", String(64))
    """Of the agent as it was when it last began to work: SHA-256 over instructions, model and tools, hexadecimal."""
    parent_execution_id: Mapped[int | None] = mapped_column("parentExecutionId", BigInteger)
    """The execution whose agent delegated this one."""
    paused_at: Mapped[datetime | None] = mapped_column("pausedAt", Timestamp)
    """Since when a person holds it; nobody drives it meanwhile."""
    deadline: Mapped[datetime | None] = mapped_column(Timestamp)
    """It fails when it has not ended by then."""
    limits: Mapped[JsonObject] = json_object("limits")
    tool_calls: Mapped[int] = mapped_column("toolCalls", Integer, server_default=text("0"))
    reserved_tokens: Mapped[int] = mapped_column("reservedTokens", BigInteger, server_default=text("0"))
    """What the model call under way may cost at most; settled by the commit that records its reply."""
    reserved_cost_micros: Mapped[int] = mapped_column("reservedCostMicros", BigInteger, server_default=text("0"))
    unsettled_tokens: Mapped[int] = mapped_column("unsettledTokens", BigInteger, server_default=text("0"))
    """Reserved for calls whose worker died: perhaps spent, so they count against the limits and not as used."""
    unsettled_cost_micros: Mapped[int] = mapped_column("unsettledCostMicros", BigInteger, server_default=text("0"))
    search_vector: Mapped[Any] = search_vector("searchVector", "taskDescription")


class AgentStep(Owned, Created, Base):
    """One fact of a session's journal. Append-only; the key refuses a second driver."""

    __tablename__ = "agentSteps"
    __table_args__ = (
        ForeignKeyConstraint(["userId", "sessionId"], ["agentSessions.userId", "agentSessions.id"], ondelete="CASCADE"),
        owner_link("executionId", "agentExecutions", optional=False),
        closed_list("kind", StepKind),
        Index("ix_agentSteps_userId_executionId", "userId", "executionId"),
    )

    session_id: Mapped[int] = mapped_column(
        "sessionId", BigInteger, primary_key=True, autoincrement=False, sort_order=-20
    )
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, sort_order=-19)
    execution_id: Mapped[int] = mapped_column("executionId", BigInteger)
    kind: Mapped[StepKind] = mapped_column(String(20))
    body: Mapped[JsonObject] = mapped_column(JSON)
    """The event, verbatim: json keeps the order of keys, which jsonb does not and thinking blocks need."""
    labels: Mapped[JsonObject] = json_object("labels")
    """Integrity and confidentiality of what the step carries."""


class ToolExecution(Identified, Owned, Base):
    """One tool call: intended, perhaps run, with one result."""

    __tablename__ = "toolExecutions"
    __table_args__ = (
        owner_link("executionId", "agentExecutions", optional=False),
        owner_link("resultBlobId", "blobs", optional=True),
        UniqueConstraint("userId", "executionId", "toolUseId"),
        closed_list("state", ToolState),
        Index(
            "ix_toolExecutions_userId_resultBlobId",
            "userId",
            "resultBlobId",
            postgresql_where=text('"resultBlobId" IS NOT NULL'),
        ),
    )

    execution_id: Mapped[int] = mapped_column("executionId", BigInteger)
    tool_name: Mapped[str] = mapped_column("toolName", String(100))
    parameters: Mapped[JsonObject] = json_object("parameters")
    result: Mapped[Any | None] = mapped_column(JSONB)
    success: Mapped[bool | None] = mapped_column(Boolean)
    duration_ms: Mapped[int | None] = mapped_column("durationMs", Integer)
    error: Mapped[str | None] = mapped_column(Text)
    executed_at: Mapped[datetime] = mapped_column("executedAt", Timestamp, server_default=text("now()"))
    tool_use_id: Mapped[str] = mapped_column("toolUseId", String(255))
    """The model's id of the call."""
    state: Mapped[ToolState] = mapped_column(String(20), server_default="pending")
    attempt: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    idempotency_key: Mapped[str | None] = mapped_column("idempotencyKey", String(64))
    lease_epoch: Mapped[int] = mapped_column("leaseEpoch", BigInteger, server_default=text("0"))
    result_blob_id: Mapped[int | None] = mapped_column("resultBlobId", BigInteger)
    """The whole result, when it is too large for `result`."""
