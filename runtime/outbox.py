"""The outbox: a message to a participant is a row and a job in the transaction that caused it."""

from sqlalchemy.ext.asyncio import AsyncSession

from runtime.operation import Conversation
from storage.jobs import JobRequest, Jobs
from storage.models.messaging import OutboundMessage
from storage.queries import messaging

DELIVER = "deliver"
"""The kind of the job that sends an outbound message; its id is the row's."""


def shortened(text: str, limit: int) -> str:
    """Cut `text` to at most `limit` characters, at the end of a sentence where there is one in its second half."""
    if len(text) <= limit:
        return text
    head = text[: max(limit - 1, 0)]
    end = max(head.rfind(mark) for mark in (". ", "! ", "? ", "\n"))
    return head[: end + 1].rstrip() if end >= limit // 2 else head.rstrip() + "…"


async def queue_reply(
    db: AsyncSession,
    jobs: Jobs,
    user_id: int,
    conversation: Conversation,
    text: str,
    execution_id: int | None,
    *,
    may_send: bool = True,
) -> int:
    """Write a reply, as a draft where the webhook does not answer by itself or we may not, and return its id.

    The caller owns the transaction; the reply is sent after it has committed.
    """
    webhook = await messaging.webhook(db, conversation.webhook_id)
    is_sent = webhook.auto_respond and may_send
    row = OutboundMessage(
        user_id=user_id,
        webhook_id=conversation.webhook_id,
        conversation_id=conversation.id,
        inbound_message_id=await messaging.last_inbound(db, execution_id) if execution_id else None,
        execution_id=execution_id,
        to=conversation.participant_id,
        body=shortened(text, webhook.max_response_length),
        status="pending" if is_sent else "draft",
    )
    db.add(row)
    await db.flush()
    if is_sent:
        await jobs.enqueue(db, JobRequest(kind=DELIVER, user_id=user_id, id=row.id))
    return row.id
