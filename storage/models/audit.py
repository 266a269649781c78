"""What doors leave behind: the audit trail and the keys of idempotent calls."""

from typing import Any, ClassVar

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from storage.base import Base, Created, Identified


class AuditLog(Identified, Created, Base):
    """One state-changing operation. Insert-only; outlives its user, hence no foreign key."""

    __tablename__ = "auditLogs"
    __table_args__ = (Index("ix_auditLogs_userId_createdAt", "userId", "createdAt"),)
    owner_column: ClassVar[str | None] = "userId"

    user_id: Mapped[int | None] = mapped_column("userId", BigInteger)
    """NULL: the system itself."""
    action: Mapped[str] = mapped_column(String(100))
    entity_type: Mapped[str] = mapped_column("entityType", String(100))
    entity_id: Mapped[str | None] = mapped_column("entityId", String(100))
    old_values: Mapped[Any | None] = mapped_column("oldValues", JSONB)
    new_values: Mapped[Any | None] = mapped_column("newValues", JSONB)
    ip_address: Mapped[str | None] = mapped_column("ipAddress", String(45))
    user_agent: Mapped[str | None] = mapped_column("userAgent", Text)


class IdempotencyKey(Created, Base):
    """The outcome of a call that may be repeated: the same key and arguments give the same answer."""

    __tablename__ = "idempotencyKeys"
    owner_column: ClassVar[str | None] = "userId"

    user_id: Mapped[int] = mapped_column(
        "userId", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    operation: Mapped[str] = mapped_column(String(100), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    argument_hash: Mapped[str] = mapped_column("argumentHash", String(64))
    """SHA-256 of the canonical arguments, hexadecimal; another hash under the same key is a conflict."""
    entity: Mapped[str | None] = mapped_column(String(100))
    row_id: Mapped[str | None] = mapped_column("rowId", String(255))
    result: Mapped[Any | None] = mapped_column(JSONB)
