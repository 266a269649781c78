"""What the runtime keeps beside its journal: approvals, large results, live text, definitions, workers, servers."""

from datetime import datetime
from typing import Any, ClassVar, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
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
)

ApprovalStatus = Literal["pending", "granted", "denied", "expired", "used"]
OutboxStatus = Literal["pending", "delivered", "failed"]
Transport = Literal["stdio", "http"]


class Approval(Identified, Owned, Base):
    """A person's word on one tool call. Bound to tool, arguments, execution, call and attempt; good for one use."""

    __tablename__ = "approvals"
    __table_args__ = (
        owner_link("executionId", "agentExecutions", optional=False),
        UniqueConstraint("userId", "executionId", "toolUseId", "attempt"),
        closed_list("status", ApprovalStatus),
        Index("ix_approvals_expiresAt", "expiresAt", postgresql_where=text("status = 'pending'")),
    )

    execution_id: Mapped[int] = mapped_column("executionId", BigInteger)
    tool_use_id: Mapped[str] = mapped_column("toolUseId", String(255))
    """The model's id of the call."""
    attempt: Mapped[int] = mapped_column(Integer)
    """Of the tool execution, when it was asked for."""
    tool_name: Mapped[str] = mapped_column("toolName", String(100))
    request_hash: Mapped[str] = mapped_column("requestHash", String(64))
    """SHA-256 over tool, canonical arguments, tenant, execution, call and attempt, hexadecimal."""
    payload: Mapped[JsonObject] = json_object("payload")
    """The arguments as they will be used: what the person sees is what happens."""
    reason: Mapped[str] = mapped_column(Text)
    """Why a person is asked."""
    status: Mapped[ApprovalStatus] = mapped_column(String(20), server_default="pending")
    requested_at: Mapped[datetime] = mapped_column("requestedAt", Timestamp, server_default=text("now()"))
    expires_at: Mapped[datetime] = mapped_column("expiresAt", Timestamp)
    decided_at: Mapped[datetime | None] = mapped_column("decidedAt", Timestamp)
    decided_by: Mapped[str | None] = mapped_column("decidedBy", String(255))
    """The username of the person."""
    note: Mapped[str | None] = mapped_column(Text)
    """What the person said about it; the model reads it when they refused."""


class ToolOutbox(Identified, Owned, Created, Base):
    """A tool call whose effect is sent after its result was recorded: at least once, under one key."""

    __tablename__ = "toolOutbox"
    __table_args__ = (
        owner_link("executionId", "agentExecutions", optional=False),
        UniqueConstraint("userId", "executionId", "toolUseId"),
        closed_list("status", OutboxStatus),
        Index("ix_toolOutbox_nextAttemptAt", "nextAttemptAt", postgresql_where=text("status = 'pending'")),
    )

    execution_id: Mapped[int] = mapped_column("executionId", BigInteger)
    tool_use_id: Mapped[str] = mapped_column("toolUseId", String(255))
    tool_name: Mapped[str] = mapped_column("toolName", String(100))
    arguments: Mapped[JsonObject] = json_object("arguments")
    status: Mapped[OutboxStatus] = mapped_column(String(20), server_default="pending")
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column("nextAttemptAt", Timestamp, server_default=text("now()"))
    result: Mapped[Any | None] = mapped_column(JSONB)
    error: Mapped[str | None] = mapped_column(Text)


class Blob(Identified, Owned, Created, Base):
    """A payload that is too large for a row that is read often."""

    __tablename__ = "blobs"
    __table_args__ = (UniqueConstraint("userId", "id"),)

    content_type: Mapped[str] = mapped_column("contentType", String(100))
    size_bytes: Mapped[int] = mapped_column("sizeBytes", BigInteger)
    content: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)


class AgentDelta(Base):
    """Text of a reply that is not recorded yet, for whoever watches. Unlogged: losing it loses nothing."""

    __tablename__ = "agentDeltas"
    __table_args__ = (
        ForeignKeyConstraint(["userId", "sessionId"], ["agentSessions.userId", "agentSessions.id"], ondelete="CASCADE"),
        {"prefixes": ["UNLOGGED"]},
    )
    owner_column: ClassVar[str | None] = "userId"

    user_id: Mapped[int] = mapped_column(
        "userId", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    session_id: Mapped[int] = mapped_column("sessionId", BigInteger, primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """The number that the reply will have in the journal."""
    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """Of the lease under which it is being said; a newer one says it again from the start."""
    offset: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """Characters before this piece."""
    text: Mapped[str] = mapped_column(Text)


class AgentReader(Base):
    """Somebody watches a session. Unlogged; a reader that is older than some seconds is gone."""

    __tablename__ = "agentReaders"
    __table_args__ = (
        ForeignKeyConstraint(["userId", "sessionId"], ["agentSessions.userId", "agentSessions.id"], ondelete="CASCADE"),
        {"prefixes": ["UNLOGGED"]},
    )
    owner_column: ClassVar[str | None] = "userId"

    user_id: Mapped[int] = mapped_column(
        "userId", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    session_id: Mapped[int] = mapped_column("sessionId", BigInteger, primary_key=True, autoincrement=False)
    seen_at: Mapped[datetime] = mapped_column("seenAt", Timestamp, server_default=text("now()"))


class AgentDefinition(Identified, Owned, Updated, Base):
    """An agent that is pure data, so that any worker can run it."""

    __tablename__ = "agentDefinitions"
    __table_args__ = (UniqueConstraint("userId", "name"),)

    name: Mapped[str] = mapped_column(String(255))
    instructions: Mapped[str] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(String(100))
    """NULL: the model of the settings."""
    tools: Mapped[JsonList] = json_list("tools")
    """Names of registered tools."""
    output_schema: Mapped[Any | None] = mapped_column("outputSchema", JSONB)
    limits: Mapped[JsonObject] = json_object("limits")


class WorkerProcess(Base):
    """A process that takes up work, and what it can run. Of no tenant; only the dispatch role sees it."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    """What leases are held under."""
    agents: Mapped[JsonList] = json_list("agents")
    """Names of the agents that are code; agents that are data run anywhere."""
    tools: Mapped[JsonList] = json_list("tools")
    concurrency: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[datetime] = mapped_column("startedAt", Timestamp, server_default=text("now()"))
    seen_at: Mapped[datetime] = mapped_column("seenAt", Timestamp, server_default=text("now()"))


class McpServer(Identified, Owned, Updated, Base):
    """An MCP server whose tools our agents may use, and what its tools looked like when a person accepted them."""

    __tablename__ = "mcpServers"
    __table_args__ = (UniqueConstraint("userId", "name"), closed_list("transport", Transport))

    name: Mapped[str] = mapped_column(String(100))
    transport: Mapped[Transport] = mapped_column(String(20))
    command: Mapped[JsonList] = json_list("command")
    """Program and arguments, for stdio."""
    url: Mapped[str | None] = mapped_column(Text)
    """For http."""
    secret_sealed: Mapped[str | None] = mapped_column("secretSealed", Text)
    """Environment or headers, sealed."""
    pins: Mapped[JsonObject] = json_object("pins")
    """Tool name to its definition and the hash of that."""
    is_active: Mapped[bool] = mapped_column("isActive", Boolean, server_default=text("true"))
