"""A participant's message, brought to the point where a worker may take it up; and how its story reads afterwards."""

import base64
from typing import Any

from sqlalchemy import select, text, update

from runtime import conversations
from runtime.local import Local
from runtime.webhooks import WebhookRequest, create_webhook
from storage.models.agents import AgentExecution, AgentStep, ToolExecution
from storage.models.crm import AgencyTask
from storage.models.messaging import BotConversation, InboundMessage, OutboundMessage
from storage.queries import messaging
from storage.queries.messaging import NewInbound
from storage.tenancy import Database

SECRET = "whsec_" + base64.b64encode(b"a secret of the tests").decode()


async def make_webhook(system: Local, reply_url: str | None = None) -> int:
    """Add a webhook that answers by itself and return its id."""
    request = WebhookRequest(name="chat", signing_secret=SECRET, reply_secret=SECRET, reply_url=reply_url)
    async with system.database.begin(system.user_id) as db:
        return (await create_webhook(db, system.keyring, system.user_id, request)).id


async def accept(system: Local, webhook_id: int, sender: str, body: str, *, number: int = 1) -> int:
    """Accept the `number`-th message of `sender`, whose turn is due at once, and return its id."""
    new = NewInbound(
        user_id=system.user_id,
        webhook_id=webhook_id,
        provider_message_id=f"{sender}-{number}",
        raw_body=body.encode(),
        sender=sender,
        recipient="bot",
        body=body,
        media_urls=[],
    )
    async with system.database.begin(system.user_id) as db:
        webhook = await messaging.webhook(db, webhook_id)
        inbound_id = await conversations.accept(db, system.jobs, webhook, new)
        await db.execute(update(BotConversation).values({BotConversation.turn_due_at: text("now() - interval '1 s'")}))
    assert inbound_id is not None
    return inbound_id


async def begin(system: Local, inbound_id: int) -> int:
    """Begin the turn of an accepted message and return its execution."""
    async with system.database.begin(system.user_id) as db:
        begun = await conversations.begin_turn(db, system.jobs, system.user_id, inbound_id)
    assert begun.execution_id is not None
    return begun.execution_id


async def story(database: Database, user_id: int, execution_id: int) -> dict[str, Any]:
    """Return everything that an execution has left, without ids and times: what two runs of it must agree on."""
    async with database.begin(user_id, read_only=True) as db:
        execution = await db.get_one(AgentExecution, execution_id)
        tools = await db.scalars(select(ToolExecution).where(ToolExecution.execution_id == execution_id))
        steps = await db.scalars(
            select(AgentStep).where(AgentStep.execution_id == execution_id).order_by(AgentStep.seq)
        )
        cards = await db.scalars(select(AgencyTask).where(AgencyTask.execution_id == execution_id))
        replies = (await db.scalars(select(OutboundMessage).where(OutboundMessage.execution_id == execution_id))).all()
        messages = await db.scalars(select(InboundMessage).where(InboundMessage.execution_id == execution_id))
        told = {
            "execution": (execution.status, execution.result, execution.error, execution.iterations),
            "steps": [(step.seq, step.kind) for step in steps],
            "tools": sorted((tool.tool_name, tool.state, tool.attempt) for tool in tools),
            "projection": [(entry["tool"], entry["state"]) for entry in execution.tool_executions],
            "cards": [(card.title, card.status) for card in cards],
            "replies": [(reply.body, reply.status) for reply in replies],
            "messages": [(message.body, message.status) for message in messages],
        }
    async with database.begin_dispatch() as db:
        keys = [f"deliver:{user_id}:{reply.id}" for reply in replies]
        deliveries = await db.scalars(text("SELECT 1 FROM pgqueuer WHERE dedupe_key = ANY(:keys)"), {"keys": keys})
        return told | {"deliveries": len(deliveries.all())}
