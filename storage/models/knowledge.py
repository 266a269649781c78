"""What agents have learned and made: knowledge entries, generated projects."""

from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import BigInteger, Boolean, Index, Integer, Numeric, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.base import (
    Base,
    Created,
    Identified,
    JsonList,
    JsonObject,
    Owned,
    closed_list,
    json_list,
    json_object,
    owner_link,
    search_vector,
)

ProjectStatus = Literal["active", "archived", "deleted"]


class KnowledgeEntry(Identified, Owned, Created, Base):
    """Something learned that holds beyond one conversation."""

    __tablename__ = "knowledgeEntries"
    __table_args__ = (Index("ix_knowledgeEntries_userId_category", "userId", "category"),)

    category: Mapped[str] = mapped_column(String(50))
    """workflow, brand_voice, preference, ...: an open list."""
    context: Mapped[str | None] = mapped_column(Text)
    content: Mapped[str] = mapped_column(Text)
    examples: Mapped[JsonList] = json_list("examples")
    confidence: Mapped[Decimal] = mapped_column(Numeric(3, 2))
    usage_count: Mapped[int] = mapped_column("usageCount", Integer, server_default=text("0"))
    is_active: Mapped[bool] = mapped_column("isActive", Boolean, server_default=text("true"))
    search_vector: Mapped[Any] = search_vector("searchVector", "content", "context")


class GeneratedProject(Identified, Owned, Created, Base):
    """A web project that an agent made."""

    __tablename__ = "generatedProjects"
    __table_args__ = (
        owner_link("executionId", "agentExecutions", optional=True),
        closed_list("status", ProjectStatus),
        Index("ix_generatedProjects_userId_executionId", "userId", "executionId"),
    )

    execution_id: Mapped[int | None] = mapped_column("executionId", BigInteger)
    name: Mapped[str] = mapped_column(String(255))
    description: Mapped[str | None] = mapped_column(Text)
    tech_stack: Mapped[str | None] = mapped_column("techStack", String(50))
    """react, vue, next, ...: an open list."""
    features: Mapped[JsonList] = json_list("features")
    files_snapshot: Mapped[JsonObject] = json_object("filesSnapshot")
    """Path to content."""
    status: Mapped[ProjectStatus] = mapped_column(String(50), server_default="active")
    dev_server_port: Mapped[int | None] = mapped_column("devServerPort", Integer)
    preview_url: Mapped[str | None] = mapped_column("previewUrl", Text)
    deployment_url: Mapped[str | None] = mapped_column("deploymentUrl", Text)
    search_vector: Mapped[Any] = search_vector("searchVector", "name", "description")
