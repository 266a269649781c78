"""Chat: webhooks, what comes in, the conversation, what goes out."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Boolean, Identity, Index, Integer, LargeBinary, String, Text, UniqueConstraint, text
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
    search_vector,
)

WebhookType = Literal["sms", "email", "custom"]
ResponseFormat = Literal["text", "markdown", "html", "json"]
InboundStatus = Literal["received", "processed", "error"]
ConversationStatus = Literal["active", "paused", "closed"]
OutboundStatus = Literal[
    "pending",
    "sent",
    "delivered",
    "failed",
    "draft",
    "discarded",
    "refused",
    "sending",
    "unconfirmed",
    "read",
    "undelivered",
]


class UserWebhook(Identified, Owned, Updated, Base):
    """A door for a chat channel. `config` holds the channel's secrets sealed (storage.crypto)."""

    __tablename__ = "userWebhooks"
    __table_args__ = (
        UniqueConstraint("userId", "id"),
        closed_list("type", WebhookType),
        closed_list("responseFormat", ResponseFormat),
        Index("idx_webhooks_user", "userId"),
        Index("idx_webhooks_token", "webhookToken", unique=True),
    )

    name: Mapped[str] = mapped_column(String(255))
    type: Mapped[WebhookType] = mapped_column(String(50))
    webhook_token: Mapped[str] = mapped_column("webhookToken", String(100))
    """The SHA-256 of the token in the URL: it routes, it does not authenticate."""
    is_active: Mapped[bool] = mapped_column("isActive", Boolean, server_default=text("true"))
    config: Mapped[JsonObject] = json_object("config")
    system_prompt: Mapped[str | None] = mapped_column("systemPrompt", Text)
    response_format: Mapped[ResponseFormat] = mapped_column("responseFormat", String(50), server_default="text")
    auto_respond: Mapped[bool] = mapped_column("autoRespond", Boolean, server_default=text("false"))
    response_delay: Mapped[int] = mapped_column("responseDelay", Integer, server_default=text("2"))
    """Seconds between the last inbound message and the answer."""
    max_response_length: Mapped[int] = mapped_column("maxResponseLength", Integer, server_default=text("1000"))
    """Characters."""
    message_count: Mapped[int] = mapped_column("messageCount", Integer, server_default=text("0"))
    last_message_at: Mapped[datetime | None] = mapped_column("lastMessageAt", Timestamp)


class InboundMessage(Identified, Owned, Base):
    """A message as it arrived. `rawBody` is stored first and always."""

    __tablename__ = "inboundMessages"
    __table_args__ = (
        UniqueConstraint("userId", "id"),
        UniqueConstraint("userId", "webhookId", "providerMessageId"),
        owner_link("webhookId", "userWebhooks", optional=False),
        owner_link("conversationId", "botConversations", optional=True),
        owner_link("executionId", "agentExecutions", optional=True),
        closed_list("status", InboundStatus),
        Index("idx_inbound_messages_webhook", "webhookId"),
        Index("ix_inboundMessages_conversationId", "conversationId"),
        Index("ix_inboundMessages_executionId", "executionId"),
    )

    webhook_id: Mapped[int] = mapped_column("webhookId", BigInteger)
    from_: Mapped[str | None] = mapped_column("from", String(255))
    to: Mapped[str | None] = mapped_column(String(255))
    body: Mapped[str | None] = mapped_column(Text)
    media_urls: Mapped[JsonList] = json_list("mediaUrls")
    raw_payload: Mapped[Any | None] = mapped_column("rawPayload", JSONB)
    """The parsed body; NULL when it does not parse."""
    status: Mapped[InboundStatus] = mapped_column(String(50), server_default="received")
    processed_at: Mapped[datetime | None] = mapped_column("processedAt", Timestamp)
    error: Mapped[str | None] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column("receivedAt", Timestamp, server_default=text("now()"))
    raw_body: Mapped[bytes] = mapped_column("rawBody", LargeBinary, deferred=True)
    provider_message_id: Mapped[str] = mapped_column("providerMessageId", String(255))
    received_seq: Mapped[int] = mapped_column("receivedSeq", BigInteger, Identity(always=True))
    """Order of arrival; nothing else guarantees an order."""
    conversation_id: Mapped[int | None] = mapped_column("conversationId", BigInteger)
    execution_id: Mapped[int | None] = mapped_column("executionId", BigInteger)
    search_vector: Mapped[Any] = search_vector("searchVector", "body")


class BotConversation(Identified, Owned, Updated, Base):
    """One participant talking to one bot; it has one agent session."""

    __tablename__ = "botConversations"
    __table_args__ = (
        UniqueConstraint("userId", "id"),
        UniqueConstraint("userId", "agentSessionId"),
        owner_link("webhookId", "userWebhooks", optional=False),
        owner_link("agentSessionId", "agentSessions", optional=True),
        closed_list("status", ConversationStatus),
        Index("idx_conversations_webhook", "webhookId"),
        Index(
            "uq_botConversations_open",
            "userId",
            "webhookId",
            "participantId",
            "threadKey",
            unique=True,
            postgresql_where=text("status <> 'closed'"),
        ),
    )

    webhook_id: Mapped[int] = mapped_column("webhookId", BigInteger)
    participant_id: Mapped[str] = mapped_column("participantId", String(255))
    context: Mapped[JsonObject] = json_object("context")
    message_history: Mapped[JsonList] = json_list("messageHistory")
    """The last messages, a bounded projection; the message rows are the truth."""
    status: Mapped[ConversationStatus] = mapped_column(String(50), server_default="active")
    last_activity_at: Mapped[datetime] = mapped_column("lastActivityAt", Timestamp, server_default=text("now()"))
    agent_session_id: Mapped[int | None] = mapped_column("agentSessionId", BigInteger)
    thread_key: Mapped[str] = mapped_column("threadKey", String(255), server_default="")
    turn_due_at: Mapped[datetime | None] = mapped_column("turnDueAt", Timestamp)
    """When the bot may answer what has arrived: the end of the debounce window."""


class OutboundMessage(Identified, Owned, Created, Base):
    """A message to a participant. `pending` rows are the outbox."""

    __tablename__ = "outboundMessages"
    __table_args__ = (
        owner_link("webhookId", "userWebhooks", optional=False),
        owner_link("conversationId", "botConversations", optional=False),
        owner_link("inboundMessageId", "inboundMessages", optional=True),
        owner_link("executionId", "agentExecutions", optional=True),
        closed_list("status", OutboundStatus),
        Index("ix_outboundMessages_webhookId", "webhookId"),
        Index("ix_outboundMessages_conversationId", "conversationId"),
        Index("ix_outboundMessages_inboundMessageId", "inboundMessageId"),
        Index("ix_outboundMessages_executionId", "executionId"),
        Index("ix_outboundMessages_userId", "userId"),
        Index("ix_outboundMessages_due", "nextAttemptAt", postgresql_where=text("status = 'pending'")),
    )

    webhook_id: Mapped[int] = mapped_column("webhookId", BigInteger)
    conversation_id: Mapped[int] = mapped_column("conversationId", BigInteger)
    inbound_message_id: Mapped[int | None] = mapped_column("inboundMessageId", BigInteger)
    to: Mapped[str] = mapped_column(String(255))
    body: Mapped[str] = mapped_column(Text)
    media_urls: Mapped[JsonList] = json_list("mediaUrls")
    status: Mapped[OutboundStatus] = mapped_column(String(50), server_default="pending")
    external_id: Mapped[str | None] = mapped_column("externalId", String(255))
    error: Mapped[str | None] = mapped_column(Text)
    sent_at: Mapped[datetime | None] = mapped_column("sentAt", Timestamp)
    execution_id: Mapped[int | None] = mapped_column("executionId", BigInteger)
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_attempt_at: Mapped[datetime | None] = mapped_column("nextAttemptAt", Timestamp, server_default=text("now()"))
    search_vector: Mapped[Any] = search_vector("searchVector", "body")
