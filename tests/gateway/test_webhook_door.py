"""The door for chat channels, over a real socket."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx2
import pytest
from sqlalchemy import select, text

from gateway.app import make_app
from gateway.channels import standard_webhooks
from gateway.http_server import listen, serving
from runtime.clock import SystemClock
from runtime.local import Local
from runtime.testing import ScriptedModel, system_on
from runtime.webhooks import NewWebhook, WebhookRequest, create_webhook
from storage.models.messaging import BotConversation, InboundMessage, UserWebhook
from storage.tenancy import Database


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A chat that is connected to a running door."""

    system: Local
    client: httpx2.AsyncClient
    url: str
    webhook: NewWebhook

    async def post(
        self, body: bytes, *, message_id: str = "m1", secret: str | None = None, **headers: str
    ) -> httpx2.Response:
        signed = standard_webhooks.sign(secret or self.webhook.signing_secret, message_id, SystemClock().now(), body)
        return await self.client.post(self.url, content=body, headers={**signed, **headers})

    async def rows(self) -> list[InboundMessage]:
        async with self.system.database.begin(self.system.user_id) as db:
            return list(await db.scalars(select(InboundMessage).order_by(InboundMessage.id)))

    async def jobs(self) -> list[str]:
        async with self.system.database.begin_dispatch() as db:
            return [row[0] for row in await db.execute(text("SELECT entrypoint FROM pgqueuer ORDER BY id"))]


@asynccontextmanager
async def connected(database: Database, user_id: int) -> AsyncGenerator[Chat]:
    system = system_on(database, user_id, ScriptedModel())
    request = WebhookRequest(
        name="chat", signing_secret=standard_webhooks.new_secret(), reply_secret=standard_webhooks.new_secret()
    )
    async with database.begin(user_id) as db:
        webhook = await create_webhook(db, system.keyring, user_id, request)
    listener = listen("127.0.0.1", 0)
    async with serving(make_app(system), listener) as url, httpx2.AsyncClient() as client:
        yield Chat(system=system, client=client, url=f"{url}/webhooks/{webhook.token}", webhook=webhook)


def message(body: str = "please fix the page", **data: Any) -> bytes:
    return json.dumps({"type": "message.inbound", "data": {"from": "anna", "to": "bot", "body": body, **data}}).encode()


async def test_a_signed_message_is_stored_with_its_job_before_the_answer(database: Database, alice: int) -> None:
    async with connected(database, alice) as chat:
        response = await chat.post(message())
        (row,) = await chat.rows()
        assert (response.status_code, response.json()["id"]) == (202, row.id)
        assert (row.from_, row.to, row.body, row.status) == ("anna", "bot", "please fix the page", "received")
        assert row.raw_payload == json.loads(message())
        assert await chat.jobs() == ["turn"]


async def test_the_same_message_five_times_at_once_is_one_row_and_one_job(database: Database, alice: int) -> None:
    answers: list[int] = []
    async with connected(database, alice) as chat:

        async def send() -> None:
            answers.append((await chat.post(message())).status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(send)
        assert sorted(answers) == [200, 200, 200, 200, 202]
        assert len(await chat.rows()) == 1
        assert await chat.jobs() == ["turn"]


async def test_whoever_cannot_sign_changes_nothing(database: Database, alice: int) -> None:
    old = datetime(2020, 1, 1, tzinfo=UTC)
    async with connected(database, alice) as chat:
        stale = standard_webhooks.sign(chat.webhook.signing_secret, "m2", old, message())
        answers = [
            (await chat.client.post(chat.url, content=message())).status_code,
            (await chat.post(message(), secret=standard_webhooks.new_secret())).status_code,
            (await chat.post(message(), **{"webhook-id": "another"})).status_code,
            (await chat.client.post(chat.url, content=message(), headers=stale)).status_code,
        ]
        assert answers == [401, 401, 401, 401]
        assert await chat.rows() == []
        assert await chat.jobs() == []


async def test_an_unknown_or_inactive_webhook_is_not_there(database: Database, alice: int) -> None:
    async with connected(database, alice) as chat:
        unknown = await chat.client.post(f"{chat.url}x", content=message())
        async with database.begin(alice) as db:
            (await db.scalars(select(UserWebhook))).one().is_active = False
        inactive = await chat.post(message())
        assert (unknown.status_code, inactive.status_code) == (404, 404)
        assert unknown.json() == inactive.json()


async def test_a_body_that_is_too_long_is_not_read_to_its_end(database: Database, alice: int) -> None:
    async with connected(database, alice) as chat:
        response = await chat.post(b"x" * (standard_webhooks.BODY_LIMIT_BYTES + 1))
        assert response.status_code == 413
        assert await chat.rows() == []


@pytest.mark.parametrize(
    "poison",
    [
        b"\xff\xfe not text",
        b"[]",
        b"{",
        message("nul \x00 inside"),
        b'{"data": {"from": "anna", "body": "\\ud800"}}',
        message(**{"from": "x" * 300}),
        message(**{"from": ""}),
        b"[" * 200 + b"]" * 200,
    ],
)
async def test_a_message_that_cannot_be_read_is_kept_with_its_reason(
    database: Database, alice: int, poison: bytes
) -> None:
    async with connected(database, alice) as chat:
        response = await chat.post(poison, message_id="bad")
        following = await chat.post(message(), message_id="good")
        bad, good = await chat.rows()
        async with database.begin(alice) as db:
            raw = await db.scalar(select(InboundMessage.raw_body).where(InboundMessage.id == bad.id))
        assert (response.status_code, following.status_code) == (202, 202)
        assert (bad.status, bad.body, raw) == ("error", None, poison)
        assert bad.error
        assert good.status == "received"
        assert await chat.jobs() == ["turn"]


async def test_a_message_without_words_starts_no_turn(database: Database, alice: int) -> None:
    async with connected(database, alice) as chat:
        assert (await chat.post(message("  "))).status_code == 202
        (row,) = await chat.rows()
        assert row.status == "processed"
        assert await chat.jobs() == []


async def test_two_tenants_with_the_same_participant_stay_apart(database: Database, alice: int, bob: int) -> None:
    async with connected(database, alice) as hers, connected(database, bob) as his:
        await hers.post(message("from alice's site"))
        await his.post(message("from bob's site"))
        assert [row.body for row in await hers.rows()] == ["from alice's site"]
        assert [row.body for row in await his.rows()] == ["from bob's site"]
        async with database.begin(alice) as db:
            assert len((await db.scalars(select(BotConversation))).all()) == 1


async def test_a_database_that_is_away_asks_for_the_message_again(database: Database, alice: int) -> None:
    async with connected(database, alice) as chat:
        async with database.engine.begin() as connection:
            await connection.execute(text('ALTER TABLE "userWebhooks" RENAME TO gone'))
        response = await chat.post(message())
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "5"


async def test_it_tells_whether_it_is_alive_and_ready(database: Database, alice: int) -> None:
    async with connected(database, alice) as chat:
        base = chat.url.split("/webhooks/")[0]
        assert (await chat.client.get(f"{base}/healthz")).status_code == 200
        assert (await chat.client.get(f"{base}/readyz")).json() == {"status": "ready"}
