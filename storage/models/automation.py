"""Work that runs by itself: browser sessions, workflows and their executions."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Boolean, Index, String, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from storage.base import (
    Base,
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

BrowserStatus = Literal["active", "completed", "error"]
WorkflowStatus = Literal["pending", "running", "completed", "failed"]


class BrowserSession(Identified, Owned, Base):
    """A browser that an agent drives at a provider."""

    __tablename__ = "browserSessions"
    __table_args__ = (
        closed_list("status", BrowserStatus),
        Index("idx_browser_sessions_user", "userId"),
        Index("idx_browser_sessions_status", "status"),
    )

    session_id: Mapped[str | None] = mapped_column("sessionId", String(255))
    """The provider's id."""
    status: Mapped[BrowserStatus] = mapped_column(String(50), server_default="active")
    live_url: Mapped[str | None] = mapped_column("liveUrl", Text)
    connect_url: Mapped[str | None] = mapped_column("connectUrl", Text)
    metadata_: Mapped[JsonObject] = json_object("metadata")
    started_at: Mapped[datetime | None] = mapped_column("startedAt", Timestamp)
    ended_at: Mapped[datetime | None] = mapped_column("endedAt", Timestamp)


class AutomationWorkflow(Identified, Owned, Updated, Base):
    """A named list of steps."""

    __tablename__ = "automationWorkflows"
    __table_args__ = (UniqueConstraint("userId", "id"),)

    name: Mapped[str] = mapped_column(String(255))
    description: Mapped[str | None] = mapped_column(Text)
    steps: Mapped[JsonList] = json_list("steps")
    config: Mapped[JsonObject] = json_object("config")
    is_active: Mapped[bool] = mapped_column("isActive", Boolean, server_default=text("true"))
    search_vector: Mapped[Any] = search_vector("searchVector", "name", "description")


class WorkflowExecution(Identified, Owned, Base):
    """One run of a workflow."""

    __tablename__ = "workflowExecutions"
    __table_args__ = (
        owner_link("workflowId", "automationWorkflows", optional=False),
        closed_list("status", WorkflowStatus),
        Index("ix_workflowExecutions_userId_workflowId", "userId", "workflowId"),
    )

    workflow_id: Mapped[int] = mapped_column("workflowId", BigInteger)
    status: Mapped[WorkflowStatus] = mapped_column(String(50), server_default="pending")
    result: Mapped[Any | None] = mapped_column(JSONB)
    error: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime | None] = mapped_column("startedAt", Timestamp)
    completed_at: Mapped[datetime | None] = mapped_column("completedAt", Timestamp)
