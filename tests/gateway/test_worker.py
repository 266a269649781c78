"""The worker at work, from a stored message to a delivered reply, and what happens when delivery fails."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from sqlalchemy import select, text, update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.channels import standard_webhooks
from gateway.worker import working
from runtime import conversations
from runtime.clock import SystemClock
from runtime.local import Local
from runtime.testing import ScriptedModel, call_reply, serve_loopback, system_on, text_reply
from runtime.webhooks import WebhookRequest, create_webhook
from storage.models.agents import AgentSession
from storage.models.messaging import InboundMessage, OutboundMessage
from storage.queries import executions, messaging
from storage.queries.messaging import NewInbound
from storage.tenancy import Database

REPLY_SECRET = standard_webhooks.new_secret()


@dataclass
class Site:
    """Takes replies, answering with the statuses it is given, the last one for ever."""

    statuses: list[int]
    received: list[str] = field(default_factory=list[str])

    async def take(self, request: Request) -> Response:
        body = await request.body()
        standard_webhooks.verify(request.headers, body, [REPLY_SECRET], SystemClock().now())
        self.received.append(request.headers["webhook-id"])
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return Response("{}", status_code=status)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[str]:
        app = Starlette(routes=[Route("/replies", self.take, methods=["POST"])])
        async with serve_loopback(app) as url:
            yield f"{url}/replies"


async def say(system: Local, reply_url: str | None, body: str = "please fix the page") -> int:
    """Store a message whose debounce window is over, with its job."""
    request = WebhookRequest(
        name="chat", signing_secret=standard_webhooks.new_secret(), reply_secret=REPLY_SECRET, reply_url=reply_url
    )
    async with system.database.begin(system.user_id) as db:
        made = await create_webhook(db, system.keyring, system.user_id, request)
        new = NewInbound(
            user_id=system.user_id,
            webhook_id=made.id,
            provider_message_id="m1",
            raw_body=body.encode(),
            sender="anna",
            body=body,
            media_urls=[],
        )
        inbound_id = await conversations.accept(db, system.jobs, await messaging.webhook(db, made.id), new)
        await db.execute(text('UPDATE "botConversations" SET "turnDueAt" = now() - interval \'1 second\''))
    async with system.database.begin_dispatch() as db:
        await db.execute(text("UPDATE pgqueuer SET execute_after = now()"))
    assert inbound_id is not None
    return inbound_id


async def outbound(system: Local, *statuses: str) -> OutboundMessage:
    """Wait until the one reply has one of these statuses."""
    with anyio.fail_after(30):
        while True:
            async with system.database.begin(system.user_id) as db:
                row = (await db.scalars(select(OutboundMessage))).one_or_none()
            if row is not None and row.status in statuses:
                return row
            await anyio.sleep(0.05)


SCRIPT = (call_reply(("reply", {"text": "It is on the board."})), text_reply("told them"))


async def test_a_message_is_answered_and_the_reply_delivered_under_our_signature(
    database: Database, alice: int
) -> None:
    system, site = system_on(database, alice, ScriptedModel(*SCRIPT)), Site([200])
    async with site.open() as url:
        await say(system, url)
        async with working(system):
            row = await outbound(system, "sent")
    assert site.received == [f"out_{row.id}"]
    assert (row.body, row.attempts, row.error) == ("It is on the board.", 1, None)
    assert row.sent_at is not None
    async with database.begin(alice) as db:
        assert (await db.scalars(select(InboundMessage.status))).one() == "processed"


async def test_a_receiver_in_trouble_gets_the_same_message_again_later(database: Database, alice: int) -> None:
    system, site = system_on(database, alice, ScriptedModel(*SCRIPT)), Site([500, 200])
    async with site.open() as url:
        await say(system, url)
        async with working(system):
            waiting = await outbound(system, "pending")
            while not site.received:
                waiting = await outbound(system, "pending", "sending")
            waiting = await outbound(system, "pending")
            assert waiting.next_attempt_at is not None
            async with database.begin_dispatch() as db:
                await db.execute(text("UPDATE pgqueuer SET execute_after = now()"))
            row = await outbound(system, "sent")
    assert site.received == [f"out_{row.id}"] * 2
    assert row.attempts == 2


@pytest.mark.parametrize("status", [400, 410])
async def test_a_receiver_that_refuses_is_not_asked_again(database: Database, alice: int, status: int) -> None:
    system, site = system_on(database, alice, ScriptedModel(*SCRIPT)), Site([status])
    async with site.open() as url:
        await say(system, url)
        async with working(system):
            row = await outbound(system, "failed")
    assert len(site.received) == 1
    assert row.error is not None
    assert str(status) in row.error


async def test_a_webhook_without_an_address_for_replies_says_so_on_the_row(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel(*SCRIPT))
    await say(system, None)
    async with working(system):
        row = await outbound(system, "failed")
    assert row.error is not None
    assert "replyUrl" in row.error


async def test_a_lapsed_lease_is_taken_over_without_a_job(database: Database, alice: int) -> None:
    dead = system_on(database, alice, ScriptedModel())
    async with database.begin(alice) as db:
        session_id = await executions.create_session(db, alice)
        execution_id = await executions.queue_execution(
            db, user_id=alice, session_id=session_id, agent_name="assistant", task="go on"
        )
    assert await dead.journal.claim(alice, execution_id) is not None
    async with database.begin(alice) as db:
        await db.execute(update(AgentSession).values({AgentSession.lease_until: text("now() - interval '1 second'")}))

    alive = system_on(database, alice, ScriptedModel(text_reply("done")))
    async with working(alive):
        with anyio.fail_after(30):
            while True:
                async with database.begin(alice) as db:
                    if (await executions.execution(db, execution_id)).status == "completed":
                        break
                await anyio.sleep(0.05)


async def test_the_lease_of_a_slow_model_call_is_renewed(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel())
    async with database.begin(alice) as db:
        session_id = await executions.create_session(db, alice)
        execution_id = await executions.queue_execution(
            db, user_id=alice, session_id=session_id, agent_name="assistant", task="slow"
        )
    assert await system.journal.claim(alice, execution_id) is not None
    async with database.begin(alice) as db:
        await db.execute(update(AgentSession).values({AgentSession.lease_until: text("now() + interval '2 seconds'")}))

    await system.journal.renew_all()

    async with database.begin(alice) as db:
        left = await db.scalar(text('SELECT extract(epoch FROM "leaseUntil" - now()) FROM "agentSessions"'))
    assert left is not None
    assert left > 10
