"""Who may do what: users, login sessions, profiles, API keys, credits."""

from datetime import datetime
from typing import ClassVar, Literal

from sqlalchemy import Boolean, CheckConstraint, Index, Integer, String, Text, UniqueConstraint, text
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
)

Role = Literal["user", "admin", "superadmin"]
CreditType = Literal["enrichment", "calling", "scraping"]


class User(Identified, Created, Base):
    """A person or a firm; one user is one tenant."""

    __tablename__ = "users"
    __table_args__ = (
        closed_list("role", Role),
        CheckConstraint("username = lower(username)", name="username_lower"),
        CheckConstraint("email = lower(email)", name="email_lower"),
        Index("idx_users_email", "email", unique=True),
        Index("idx_users_username", "username", unique=True),
    )
    owner_column: ClassVar[str | None] = "id"

    username: Mapped[str] = mapped_column(String(255))
    password: Mapped[str] = mapped_column(Text)
    """An argon2id hash, or `storage.credentials.UNUSABLE_PASSWORD`."""
    email: Mapped[str] = mapped_column(String(255))
    role: Mapped[Role] = mapped_column(String(50), server_default="user")
    is_onboarded: Mapped[bool] = mapped_column("isOnboarded", Boolean, server_default=text("false"))
    stripe_customer_id: Mapped[str | None] = mapped_column("stripeCustomerId", String(255))
    subscription_status: Mapped[str | None] = mapped_column("subscriptionStatus", String(50))


class LoginSession(Owned, Base):
    """A browser's login."""

    __tablename__ = "sessions"
    __table_args__ = (Index("idx_sessions_user", "userId"), Index("ix_sessions_expiresAt", "expiresAt"))

    id: Mapped[str] = mapped_column(Text, primary_key=True, sort_order=-20)
    """The SHA-256 of the token, hexadecimal; the token itself is never stored."""
    expires_at: Mapped[datetime] = mapped_column("expiresAt", Timestamp)


class UserProfile(Identified, Owned, Base):
    """What a user says of themselves; `preferences.timezone` is the IANA name of their zone (default UTC)."""

    __tablename__ = "userProfiles"
    __table_args__ = (UniqueConstraint("userId"),)

    display_name: Mapped[str | None] = mapped_column("displayName", String(255))
    avatar_url: Mapped[str | None] = mapped_column("avatarUrl", Text)
    company_name: Mapped[str | None] = mapped_column("companyName", String(255))
    industry: Mapped[str | None] = mapped_column(String(100))
    team_size: Mapped[str | None] = mapped_column("teamSize", String(50))
    primary_goals: Mapped[JsonList] = json_list("primaryGoals")
    preferences: Mapped[JsonObject] = json_object("preferences")


class ApiKey(Identified, Owned, Created, Base):
    """A key for programs: `ak_<prefix>_<secret>`, of which only the SHA-256 is kept."""

    __tablename__ = "apiKeys"
    __table_args__ = (Index("ix_apiKeys_userId", "userId"), UniqueConstraint("keyPrefix"))

    name: Mapped[str] = mapped_column(String(255))
    key_hash: Mapped[str] = mapped_column("keyHash", Text)
    key_prefix: Mapped[str] = mapped_column("keyPrefix", String(20))
    permissions: Mapped[JsonList] = json_list("permissions")
    """Scopes, e.g. `["messages:send"]`."""
    last_used_at: Mapped[datetime | None] = mapped_column("lastUsedAt", Timestamp)
    expires_at: Mapped[datetime | None] = mapped_column("expiresAt", Timestamp)
    is_active: Mapped[bool] = mapped_column("isActive", Boolean, server_default=text("true"))
    revoked_at: Mapped[datetime | None] = mapped_column("revokedAt", Timestamp)


class UserCredit(Identified, Owned, Updated, Base):
    """The balance of one kind of credit."""

    __tablename__ = "user_credits"
    __table_args__ = (
        UniqueConstraint("userId", "creditType"),
        closed_list("creditType", CreditType),
        CheckConstraint("balance >= 0", name="balance"),
    )

    credit_type: Mapped[CreditType] = mapped_column("creditType", String(50))
    balance: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    total_purchased: Mapped[int] = mapped_column("totalPurchased", Integer, server_default=text("0"))
    total_used: Mapped[int] = mapped_column("totalUsed", Integer, server_default=text("0"))
