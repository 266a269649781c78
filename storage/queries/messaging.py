"""Chat: accepting what comes in, taking turns in a conversation, and the outbox."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, func, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from storage.base import JsonList
from storage.errors import EntityNotFoundError
from storage.models.agents import AgentSession, AgentStep
from storage.models.messaging import BotConversation, InboundMessage, OutboundMessage, UserWebhook

HISTORY_LENGTH = 20
"""How many messages `botConversations.messageHistory` shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOwner:
    """What routing needs to know of a webhook before its tenant is known."""

    webhook_id: int
    user_id: int


async def webhook_owner(dispatch: AsyncSession, token_hash: str) -> WebhookOwner | None:
    """Return whose active webhook has this token hash."""
    statement = select(UserWebhook.id, UserWebhook.user_id).where(
        UserWebhook.webhook_token == token_hash, UserWebhook.is_active
    )
    row = (await dispatch.execute(statement)).one_or_none()
    return None if row is None else WebhookOwner(webhook_id=row[0], user_id=row[1])


async def webhook(db: AsyncSession, webhook_id: int) -> UserWebhook:
    """Return one webhook.

    Raises:
        EntityNotFoundError: no such webhook for this tenant.
    """
    found = await db.get(UserWebhook, webhook_id)
    if found is None:
        raise EntityNotFoundError("userWebhooks", webhook_id)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInbound:
    """A message as it came in; what could not be read is None, with the reason in `error`."""

    user_id: int
    webhook_id: int
    provider_message_id: str
    raw_body: bytes
    sender: str | None = None
    recipient: str | None = None
    body: str | None = None
    media_urls: JsonList
    raw_payload: Any | None = None
    error: str | None = None


async def store_inbound(db: AsyncSession, new: NewInbound) -> int | None:
    """Store a message and count it on its webhook; None when the provider has sent it before."""
    statement = (
        insert(InboundMessage)
        .values(
            {
                InboundMessage.user_id: new.user_id,
                InboundMessage.webhook_id: new.webhook_id,
                InboundMessage.provider_message_id: new.provider_message_id,
                InboundMessage.raw_body: new.raw_body,
                InboundMessage.from_: new.sender,
                InboundMessage.to: new.recipient,
                InboundMessage.body: new.body,
                InboundMessage.media_urls: new.media_urls,
                InboundMessage.raw_payload: new.raw_payload,
                InboundMessage.status: "received" if new.error is None else "error",
                InboundMessage.error: new.error,
            }
        )
        .on_conflict_do_nothing(index_elements=["userId", "webhookId", "providerMessageId"])
        .returning(InboundMessage.id)
    )
    inbound_id = (await db.execute(statement)).scalar_one_or_none()
    if inbound_id is not None:
        counted = update(UserWebhook).where(UserWebhook.id == new.webhook_id)
        await db.execute(
            counted.values(
                {UserWebhook.message_count: UserWebhook.message_count + 1, UserWebhook.last_message_at: func.now()}
            )
        )
    return inbound_id


async def open_conversation(
    db: AsyncSession, *, user_id: int, webhook_id: int, participant_id: str, thread_key: str = ""
) -> BotConversation:
    """Return the open conversation with this participant, starting it and its agent session when there is none."""
    statement = (
        insert(BotConversation)
        .values(
            {
                BotConversation.user_id: user_id,
                BotConversation.webhook_id: webhook_id,
                BotConversation.participant_id: participant_id,
                BotConversation.thread_key: thread_key,
            }
        )
        .on_conflict_do_update(
            index_elements=["userId", "webhookId", "participantId", "threadKey"],
            # Spelled out: as a parameter it would not match the partial index once Postgres plans generically.
            index_where=text("status <> 'closed'"),
            set_={"lastActivityAt": func.now()},
        )
        .returning(BotConversation)
    )
    conversation = (await db.execute(statement)).scalar_one()
    if conversation.agent_session_id is None:
        session = AgentSession(user_id=user_id)
        db.add(session)
        await db.flush()
        conversation.agent_session_id = session.id
        await db.flush()
    return conversation


async def link_inbound(db: AsyncSession, inbound_id: int, conversation_id: int, *, is_processed: bool) -> None:
    """Put a message into its conversation; `is_processed`: there is nothing in it to answer."""
    values: dict[Any, Any] = {InboundMessage.conversation_id: conversation_id}
    if is_processed:
        values |= {InboundMessage.status: "processed", InboundMessage.processed_at: func.now()}
    await db.execute(update(InboundMessage).where(InboundMessage.id == inbound_id).values(values))


async def set_turn_due(db: AsyncSession, conversation_id: int, delay_s: int) -> None:
    """Let the bot answer `delay_s` seconds from now; a further message moves it on."""
    due = func.now() + text("make_interval(secs => :delay)").bindparams(delay=delay_s)
    statement = update(BotConversation).where(BotConversation.id == conversation_id)
    await db.execute(statement.values({BotConversation.turn_due_at: due}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A conversation, and whether its debounce window is over."""

    conversation: BotConversation
    is_due: bool


async def lock_turn(db: AsyncSession, inbound_id: int) -> Turn | None:
    """Lock the conversation of a message that is still to be answered; None when it has been taken care of."""
    message = await db.get(InboundMessage, inbound_id)
    if message is None or message.status != "received" or message.execution_id is not None:
        return None
    if message.conversation_id is None:
        return None
    is_due = func.coalesce(BotConversation.turn_due_at <= func.clock_timestamp(), literal_column("true", Boolean))
    statement = select(BotConversation, is_due).where(BotConversation.id == message.conversation_id).with_for_update()
    row = (await db.execute(statement)).one()
    return Turn(conversation=row[0], is_due=row[1])


async def unanswered(db: AsyncSession, conversation_id: int) -> Sequence[InboundMessage]:
    """Return what has arrived in a conversation and is in no execution yet, in order of arrival."""
    statement = (
        select(InboundMessage)
        .where(
            InboundMessage.conversation_id == conversation_id,
            InboundMessage.status == "received",
            InboundMessage.execution_id.is_(None),
        )
        .order_by(InboundMessage.received_seq)
    )
    return (await db.scalars(statement)).all()


async def settle_inbound(db: AsyncSession, *, execution_id: int, error: str | None = None) -> Sequence[InboundMessage]:
    """Bring the messages of an ended execution to their terminal status and return them."""
    statement = (
        update(InboundMessage)
        .where(InboundMessage.execution_id == execution_id, InboundMessage.status == "received")
        .values(
            {
                InboundMessage.status: "processed" if error is None else "error",
                InboundMessage.processed_at: func.now(),
                InboundMessage.error: error,
            }
        )
        .returning(InboundMessage)
    )
    return (await db.scalars(statement)).all()


async def conversation_of_session(db: AsyncSession, session_id: int) -> BotConversation | None:
    """Return the conversation that an agent session belongs to, None when it belongs to none."""
    return await db.scalar(select(BotConversation).where(BotConversation.agent_session_id == session_id))


async def link_client(db: AsyncSession, conversation_id: int, client_id: int | None) -> None:
    """Note which client the participant of a conversation speaks for; None: nobody knows.

    Raises:
        EntityNotFoundError: no such conversation for this tenant.
    """
    statement = update(BotConversation).where(BotConversation.id == conversation_id)
    noted = BotConversation.context.concat({"clientId": client_id})
    linked = statement.values({BotConversation.context: noted}).returning(BotConversation.id)
    if (await db.execute(linked)).one_or_none() is None:
        raise EntityNotFoundError("botConversations", conversation_id)


async def pause_conversation(db: AsyncSession, conversation_id: int) -> None:
    """Silence the bot in a conversation until a person resumes it."""
    statement = update(BotConversation).where(BotConversation.id == conversation_id)
    await db.execute(statement.values({BotConversation.status: "paused"}))


async def last_inbound(db: AsyncSession, execution_id: int) -> int | None:
    """Return the newest message that an execution answers."""
    statement = select(InboundMessage.id).where(InboundMessage.execution_id == execution_id)
    return await db.scalar(statement.order_by(InboundMessage.received_seq.desc()).limit(1))


async def has_reply(db: AsyncSession, execution_id: int) -> bool:
    """Tell whether an execution has said something to the participant."""
    found = await db.scalar(select(OutboundMessage.id).where(OutboundMessage.execution_id == execution_id).limit(1))
    return found is not None


async def has_read_what_is_kept_back(db: AsyncSession, session_id: int) -> bool:
    """Tell whether a session has read what its participant may not see."""
    kept_back = AgentStep.labels["confidentiality"].astext.in_(("tenant", "secret"))
    statement = select(AgentStep.seq).where(AgentStep.session_id == session_id, kept_back).limit(1)
    return await db.scalar(statement) is not None


async def refresh_history(db: AsyncSession, conversation_id: int) -> None:
    """Write the last messages of a conversation into its `messageHistory` projection."""
    # A union of two tables ordered by time; SQLAlchemy's constructs say it in three times the words.
    statement = text(
        """
        UPDATE "botConversations" c SET "updatedAt" = now(), "messageHistory" = (
            SELECT coalesce(jsonb_agg(jsonb_build_object('role', role, 'body', body, 'at', at) ORDER BY at, role DESC),
                            '[]'::jsonb)
            FROM (
                SELECT * FROM (
                    SELECT 'participant' AS role, body, "receivedAt" AS at FROM "inboundMessages"
                    WHERE "conversationId" = c.id AND status <> 'error'
                    UNION ALL
                    SELECT 'bot', body, "createdAt" FROM "outboundMessages"
                    WHERE "conversationId" = c.id AND status NOT IN ('draft', 'discarded', 'refused')
                ) said ORDER BY at DESC LIMIT :length
            ) newest
        ) WHERE c.id = :id
        """
    )
    await db.execute(statement, {"id": conversation_id, "length": HISTORY_LENGTH})


async def claim_outbound(db: AsyncSession, outbound_id: int) -> OutboundMessage | None:
    """Take a message for sending; None when it is not, or no longer, to be sent.

    One that is `sending` belonged to a worker that died before it wrote what became of it. Sending it again is right
    only because its id is the receiver's idempotency key.
    """
    statement = (
        update(OutboundMessage)
        .where(OutboundMessage.id == outbound_id, OutboundMessage.status.in_(("pending", "sending")))
        .values({OutboundMessage.status: "sending", OutboundMessage.attempts: OutboundMessage.attempts + 1})
        .returning(OutboundMessage)
    )
    return (await db.scalars(statement)).one_or_none()


async def record_delivery(
    db: AsyncSession,
    outbound_id: int,
    *,
    status: str,
    external_id: str | None = None,
    error: str | None = None,
    next_attempt_at: datetime | None = None,
) -> None:
    """Write what became of a message that was being sent."""
    values: dict[Any, Any] = {
        OutboundMessage.status: status,
        OutboundMessage.error: error,
        OutboundMessage.next_attempt_at: next_attempt_at,
    }
    if status == "sent":
        values |= {OutboundMessage.sent_at: func.now(), OutboundMessage.external_id: external_id}
    sending = (OutboundMessage.id == outbound_id) & (OutboundMessage.status == "sending")
    await db.execute(update(OutboundMessage).where(sending).values(values))


async def webhooks(db: AsyncSession) -> Sequence[UserWebhook]:
    """Return the tenant's webhooks, oldest first."""
    return (await db.scalars(select(UserWebhook).order_by(UserWebhook.id))).all()


async def webhook_named(db: AsyncSession, name: str) -> UserWebhook | None:
    """Return the tenant's webhook with this name; the oldest when there are several."""
    statement = select(UserWebhook).where(UserWebhook.name == name)
    return await db.scalar(statement.order_by(UserWebhook.id).limit(1))
