"""Swarms (the cf_ tables): who is in one, what it has to do, what it shares and what it has learned."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Identity,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from storage.base import (
    Base,
    CfCreated,
    CfIdentified,
    CfOwned,
    Identified,
    JsonList,
    JsonObject,
    Timestamp,
    closed_list,
    json_list,
    json_object,
    owner_link,
    search_vector,
)

Topology = Literal["hierarchical", "mesh", "ring", "star"]
QueenMode = Literal["centralized", "distributed"]
AgentStrategy = Literal["balanced", "specialized", "adaptive"]
SwarmStatus = Literal["initializing", "active", "paused", "destroyed"]
AgentStatus = Literal["spawning", "idle", "busy", "error", "terminated"]
SwarmPriority = Literal["low", "medium", "high", "critical"]
TaskStrategy = Literal["parallel", "sequential", "adaptive", "consensus"]
SwarmTaskStatus = Literal["pending", "assigned", "running", "completed", "failed", "cancelled"]
AssignmentStatus = Literal["assigned", "active", "completed", "failed", "cancelled"]
DependencyType = Literal["blocking", "optional", "parallel"]
DependencyStatus = Literal["pending", "satisfied", "failed"]
PatternType = Literal["coordination", "optimization", "prediction"]


class Swarm(CfIdentified, CfOwned, CfCreated, Base):
    """Agents that work together."""

    __tablename__ = "cf_swarms"
    __table_args__ = (
        UniqueConstraint("user_id", "id"),
        # Closes the cycle swarms → agents → swarms, so it is added after both tables exist.
        owner_link("queen_agent_id", "cf_agents", owner="user_id", optional=True, use_alter=True),
        closed_list("topology", Topology),
        closed_list("queen_mode", QueenMode),
        closed_list("strategy", AgentStrategy),
        closed_list("status", SwarmStatus, also=("archived",)),
        Index("ix_cf_swarms_queen_agent_id", "queen_agent_id"),
    )

    name: Mapped[str] = mapped_column(String(255))
    topology: Mapped[Topology] = mapped_column(String(20), server_default="star")
    queen_mode: Mapped[QueenMode] = mapped_column(String(20), server_default="centralized")
    max_agents: Mapped[int] = mapped_column(Integer, server_default=text("8"))
    strategy: Mapped[AgentStrategy] = mapped_column(String(20), server_default="adaptive")
    status: Mapped[SwarmStatus] = mapped_column(String(20), server_default="initializing")
    config: Mapped[JsonObject] = json_object("config")
    queen_agent_id: Mapped[str | None] = mapped_column(String(255))
    scheduler_owner: Mapped[str | None] = mapped_column(String(100))
    """The process that writes claims and results of this swarm."""
    scheduler_epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """The fence of those writes."""
    scheduler_until: Mapped[datetime | None] = mapped_column(Timestamp)


class SwarmAgent(CfIdentified, CfOwned, Base):
    """A member of a swarm."""

    __tablename__ = "cf_agents"
    __table_args__ = (
        UniqueConstraint("user_id", "id"),
        owner_link("swarm_id", "cf_swarms", owner="user_id", optional=False),
        owner_link("current_task_id", "cf_tasks", owner="user_id", optional=True),
        owner_link("agent_session_id", "agentSessions", owner="user_id", optional=True),
        closed_list("status", AgentStatus, also=("active", "offline")),
        Index("ix_cf_agents_swarm_id", "swarm_id"),
        Index("ix_cf_agents_current_task_id", "current_task_id"),
        Index("ix_cf_agents_agent_session_id", "agent_session_id"),
    )

    swarm_id: Mapped[str] = mapped_column(String(255))
    type: Mapped[str] = mapped_column(String(100))
    name: Mapped[str] = mapped_column(String(255))
    status: Mapped[AgentStatus] = mapped_column(String(20), server_default="spawning")
    capabilities: Mapped[JsonList] = json_list("capabilities")
    current_task_id: Mapped[str | None] = mapped_column(String(255))
    message_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    error_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    success_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    agent_session_id: Mapped[int | None] = mapped_column(BigInteger)


class SwarmTask(CfIdentified, CfOwned, CfCreated, Base):
    """Something for a swarm to do."""

    __tablename__ = "cf_tasks"
    __table_args__ = (
        UniqueConstraint("user_id", "id"),
        owner_link("swarm_id", "cf_swarms", owner="user_id", optional=False),
        closed_list("priority", SwarmPriority),
        closed_list("strategy", TaskStrategy),
        closed_list("status", SwarmTaskStatus, also=("in_progress",)),
        CheckConstraint("progress BETWEEN 0 AND 100", name="progress"),
        Index("ix_cf_tasks_swarm_id", "swarm_id"),
        Index(
            "ix_cf_tasks_ready",
            "swarm_id",
            text("pri DESC"),
            "seq",
            postgresql_where=text("status = 'pending' AND deps_left = 0"),
        ),
    )

    swarm_id: Mapped[str] = mapped_column(String(255))
    description: Mapped[str | None] = mapped_column(Text)
    priority: Mapped[SwarmPriority] = mapped_column(String(20), server_default="medium")
    strategy: Mapped[TaskStrategy] = mapped_column(String(20), server_default="adaptive")
    status: Mapped[SwarmTaskStatus] = mapped_column(String(20), server_default="pending")
    progress: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    """Per cent."""
    result: Mapped[Any | None] = mapped_column(JSONB)
    assigned_agents: Mapped[JsonList] = json_list("assigned_agents")
    """Ids of cf_agents."""
    kind: Mapped[str] = mapped_column(String(255), server_default="general")
    pri: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    """`priority` as a number: low 0 to critical 3."""
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    deps_left: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    """Dependencies not yet satisfied; 0: ready."""
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    max_attempts: Mapped[int] = mapped_column(Integer, server_default=text("3"))
    search_vector: Mapped[Any] = search_vector("search_vector", "description")


class TaskDependency(Identified, CfOwned, CfCreated, Base):
    """`task_id` waits for `depends_on`."""

    __tablename__ = "cf_task_dependencies"
    __table_args__ = (
        UniqueConstraint("user_id", "task_id", "depends_on"),
        owner_link("task_id", "cf_tasks", owner="user_id", optional=False),
        owner_link("depends_on", "cf_tasks", owner="user_id", optional=False),
        closed_list("dependency_type", DependencyType),
        closed_list("status", DependencyStatus),
        Index("ix_cf_task_dependencies_depends_on", "depends_on"),
    )

    task_id: Mapped[str] = mapped_column(String(255))
    depends_on: Mapped[str] = mapped_column(String(255))
    dependency_type: Mapped[DependencyType] = mapped_column(String(20), server_default="blocking")
    status: Mapped[DependencyStatus] = mapped_column(String(20), server_default="pending")


class TaskAssignment(CfIdentified, CfOwned, CfCreated, Base):
    """One attempt of one agent at one task; it is one agent execution."""

    __tablename__ = "cf_task_assignments"
    __table_args__ = (
        UniqueConstraint("user_id", "task_id", "agent_id", "attempt"),
        UniqueConstraint("user_id", "execution_id"),
        owner_link("task_id", "cf_tasks", owner="user_id", optional=False),
        owner_link("agent_id", "cf_agents", owner="user_id", optional=False),
        owner_link("execution_id", "agentExecutions", owner="user_id", optional=True),
        closed_list("status", AssignmentStatus),
        Index("ix_cf_task_assignments_agent_id", "agent_id"),
        Index("ix_cf_task_assignments_status", "status"),
    )

    task_id: Mapped[str] = mapped_column(String(255))
    agent_id: Mapped[str] = mapped_column(String(255))
    status: Mapped[AssignmentStatus] = mapped_column(String(20), server_default="assigned")
    started_at: Mapped[datetime | None] = mapped_column(Timestamp)
    completed_at: Mapped[datetime | None] = mapped_column(Timestamp)
    attempt: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    execution_id: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[str | None] = mapped_column(Text)


class MemoryEntry(CfIdentified, CfOwned, CfCreated, Base):
    """A remembered value. Read through `storage.memory`, which never shows what has expired."""

    __tablename__ = "cf_memory_store"
    __table_args__ = (
        UniqueConstraint("user_id", "namespace", "key_name"),
        CheckConstraint("ttl > 0", name="ttl"),
        Index("ix_cf_memory_store_expires_at", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        {"postgresql_with": {"fillfactor": 80}},
    )

    namespace: Mapped[str] = mapped_column(String(255))
    key_name: Mapped[str] = mapped_column(String(255))
    value: Mapped[Any] = mapped_column(JSONB)
    ttl: Mapped[int | None] = mapped_column(Integer)
    """Seconds; NULL: for ever."""
    expires_at: Mapped[datetime | None] = mapped_column(Timestamp)
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    """Raised by every write; what compare-and-set compares."""
    provenance: Mapped[JsonObject] = json_object("provenance")
    updated_at: Mapped[datetime] = mapped_column(Timestamp, server_default=text("now()"), sort_order=91)
    search_vector: Mapped[Any] = search_vector("search_vector", "key_name", json_columns=["value"])


class NeuralPattern(CfIdentified, CfOwned, Base):
    """What a swarm, or (without `swarm_id`) all of a user's swarms, have learned."""

    __tablename__ = "cf_neural_patterns"
    __table_args__ = (
        owner_link("swarm_id", "cf_swarms", owner="user_id", optional=False),
        closed_list("pattern_type", PatternType, also=("behavior",)),
        Index("ix_cf_neural_patterns_swarm_id", "swarm_id"),
        Index("ix_cf_neural_patterns_user_id", "user_id"),
    )

    swarm_id: Mapped[str | None] = mapped_column(String(255))
    pattern_type: Mapped[PatternType] = mapped_column(String(50))
    pattern_data: Mapped[JsonObject] = json_object("pattern_data")
    confidence: Mapped[Decimal | None] = mapped_column(Numeric)
    usage_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    success_rate: Mapped[Decimal | None] = mapped_column(Numeric)


class SwarmHistory(CfIdentified, CfOwned, Base):
    """One active period of a swarm."""

    __tablename__ = "cf_session_history"
    __table_args__ = (
        owner_link("swarm_id", "cf_swarms", owner="user_id", optional=False),
        Index("ix_cf_session_history_swarm_id", "swarm_id"),
        Index("ix_cf_session_history_user_id", "user_id"),
    )

    swarm_id: Mapped[str | None] = mapped_column(String(255))
    started_at: Mapped[datetime] = mapped_column(Timestamp, server_default=text("now()"))
    ended_at: Mapped[datetime | None] = mapped_column(Timestamp)
    tasks_completed: Mapped[int | None] = mapped_column(Integer, server_default=text("0"))
    tasks_failed: Mapped[int | None] = mapped_column(Integer, server_default=text("0"))
    total_messages: Mapped[int | None] = mapped_column(Integer, server_default=text("0"))
    avg_task_duration: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    """Seconds."""
    session_data: Mapped[Any | None] = mapped_column(JSONB)
