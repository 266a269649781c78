"""The agency's own world: its clients, its documents, its board of cards."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, Text, UniqueConstraint, text
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

CardStatus = Literal["backlog", "todo", "in_progress", "review", "done"]
CardPriority = Literal["low", "medium", "high", "urgent"]


class ClientProfile(Identified, Owned, Created, Base):
    """A client of the agency."""

    __tablename__ = "clientProfiles"
    __table_args__ = (UniqueConstraint("userId", "id"),)

    name: Mapped[str] = mapped_column(String(255))
    brand_voice: Mapped[str | None] = mapped_column("brandVoice", Text)
    target_audience: Mapped[str | None] = mapped_column("targetAudience", Text)
    industry: Mapped[str | None] = mapped_column(String(100))
    website: Mapped[str | None] = mapped_column(Text)
    social_links: Mapped[JsonObject] = json_object("socialLinks")
    seo_config: Mapped[JsonObject] = json_object("seoConfig")
    assets: Mapped[JsonList] = json_list("assets")
    search_vector: Mapped[Any] = search_vector("searchVector", "name", "brandVoice", "targetAudience", "industry")


class Document(Identified, Owned, Created, Base):
    """A stored file; its bytes are in the object store under `s3Key`."""

    __tablename__ = "documents"
    __table_args__ = (Index("ix_documents_userId", "userId"),)

    filename: Mapped[str] = mapped_column(String(255))
    mime_type: Mapped[str | None] = mapped_column("mimeType", String(100))
    size: Mapped[int | None] = mapped_column(Integer)
    """Bytes."""
    s3_key: Mapped[str] = mapped_column("s3Key", String(500))
    metadata_: Mapped[JsonObject] = json_object("metadata")
    search_vector: Mapped[Any] = search_vector("searchVector", "filename")


class AgencyTask(Identified, Owned, Updated, Base):
    """A card on the board. One open card per conversation and intent."""

    __tablename__ = "agencyTasks"
    __table_args__ = (
        UniqueConstraint("userId", "id"),
        owner_link("clientId", "clientProfiles", optional=True),
        owner_link("webhookId", "userWebhooks", optional=True),
        owner_link("conversationId", "botConversations", optional=True),
        owner_link("executionId", "agentExecutions", optional=True),
        closed_list("status", CardStatus),
        closed_list("priority", CardPriority),
        # Until there is a table of members a user assigns only to themselves: a bare foreign key to users would tell
        # which ids exist.
        CheckConstraint('"assignedTo" IS NULL OR "assignedTo" = "userId"', name="assignedTo"),
        Index("idx_agency_tasks_user", "userId"),
        Index("idx_agency_tasks_client", "clientId"),
        Index("idx_agency_tasks_status", "status"),
        Index("ix_agencyTasks_webhookId", "webhookId"),
        Index("ix_agencyTasks_conversationId", "conversationId"),
        Index("ix_agencyTasks_executionId", "executionId"),
        Index("ix_agencyTasks_assignedTo", "assignedTo"),
        Index(
            "uq_agencyTasks_open_intent",
            "userId",
            "conversationId",
            "intent",
            unique=True,
            postgresql_where=text("status <> 'done'"),
        ),
    )

    client_id: Mapped[int | None] = mapped_column("clientId", BigInteger)
    webhook_id: Mapped[int | None] = mapped_column("webhookId", BigInteger)
    conversation_id: Mapped[int | None] = mapped_column("conversationId", BigInteger)
    execution_id: Mapped[int | None] = mapped_column("executionId", BigInteger)
    title: Mapped[str] = mapped_column(String(500))
    description: Mapped[str | None] = mapped_column(Text)
    status: Mapped[CardStatus] = mapped_column(String(50), server_default="backlog")
    priority: Mapped[CardPriority] = mapped_column(String(20), server_default="medium")
    task_type: Mapped[str | None] = mapped_column("taskType", String(50))
    intent: Mapped[str] = mapped_column(String(100), server_default="general")
    """A slug of what the participant wants; two wishes in one conversation are two cards."""
    tags: Mapped[JsonList] = json_list("tags")
    extracted_data: Mapped[JsonObject] = json_object("extractedData")
    assigned_to: Mapped[int | None] = mapped_column(
        "assignedTo", BigInteger, ForeignKey("users.id", ondelete="SET NULL")
    )
    due_date: Mapped[datetime | None] = mapped_column("dueDate", Timestamp)
    completed_at: Mapped[datetime | None] = mapped_column("completedAt", Timestamp)
    search_vector: Mapped[Any] = search_vector("searchVector", "title", "description")
