"""Memory, the board and the activity report: operations behind MCP names, their receipts and their audit rows."""

from datetime import timedelta
from typing import Any

import pytest
from mcp import Client

from mcp_server.app import App
from runtime.testing.clock import FixedClock
from storage.models.messaging import InboundMessage, UserWebhook
from storage.tenancy import Database
from tests.server.calls import add_card, answer, data, refusal, rows

AUDIT = 'SELECT action, "entityType", "entityId" FROM "auditLogs" ORDER BY id'


async def test_what_was_remembered_is_found_by_its_words(client: Client, database: Database, alice: int) -> None:
    kept, text = await answer(client, "memory_write", key="palette", value={"main": "teal", "accent": "sand"})
    assert kept["item"] == {"namespace": "user", "key": "palette", "version": 1, "expiresAt": None}
    assert text == "Remembered user 'palette', version 1."
    page = await data(client, "memory_search", text="teal")
    assert page["untrusted"] is True
    assert page["items"] == [
        {
            "namespace": "user",
            "key": "palette",
            "value": {"main": "teal", "accent": "sand"},
            "version": 1,
            "expiresAt": None,
        }
    ]
    assert await rows(database, alice, AUDIT) == [("remember", "mcp", None)]
    provenance = await rows(database, alice, "SELECT provenance FROM cf_memory_store")
    assert provenance == [({"door": "mcp", "executionId": None},)]


async def test_memory_is_written_to_and_searched_in_a_namespace(client: Client) -> None:
    await data(client, "memory_write", key="tone", value="formal", namespace="client/7", ttl=3600)
    assert (await data(client, "memory_search", text="formal", namespace="client/7"))["returned"] == 1
    page, text = await answer(client, "memory_search", text="formal", namespace="user")
    assert page["returned"] == 0
    assert "Nothing is remembered under these words" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": ""}, "invalid_arguments: text: string should have at least 1 character."),
        ({"text": "  "}, "invalid_arguments: invalid arguments for 'recall': text:"),
        ({"text": "x", "limit": 0}, "invalid_arguments: limit: input should be greater than or equal to 1."),
        ({"text": "\0"}, "invalid_value: recall.text: holds U+0000"),
        ({"query": "x"}, "invalid_arguments: unknown argument 'query'; legal: text, namespace, limit."),
    ],
)
async def test_a_search_that_makes_no_sense_is_refused(client: Client, arguments: dict[str, Any], words: str) -> None:
    assert (await refusal(client, "memory_search", **arguments)).startswith(words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": "k", "value": "\0"}, "invalid_value: remember.value: holds U+0000"),
        ({"key": "k", "value": "x" * 300_000}, "invalid_value: value"),
        ({"key": "k", "value": 1, "ttl": 0}, "invalid_arguments: ttl: input should be greater than or equal to 1."),
        ({"key": "k"}, "invalid_arguments: value: field required."),
    ],
)
async def test_a_memory_that_cannot_be_kept_is_refused(client: Client, arguments: dict[str, Any], words: str) -> None:
    assert (await refusal(client, "memory_write", **arguments)).startswith(words)


async def test_a_card_moves_across_the_board(client: Client, database: Database, alice: int) -> None:
    key = await add_card(client, dueDate="2026-11-20T22:59:59Z", priority="urgent")
    board, text = await answer(client, "task_board", status="backlog")
    assert board["items"] == [
        {
            "id": key,
            "title": "Fix the page",
            "status": "backlog",
            "priority": "urgent",
            "dueDate": "2026-11-20T23:59:59+01:00",
            "client": None,
        }
    ]
    assert f"{key} | Fix the page | backlog | urgent | 2026-11-20T23:59:59+01:00 | \n" in text
    moved = await data(client, "task_move", id=key, status="done")
    assert moved["item"] == {"id": key, "status": "done", "priority": "urgent", "dueDate": "2026-11-20T23:59:59+01:00"}
    assert await rows(database, alice, 'SELECT status, "completedAt" IS NULL FROM "agencyTasks"') == [("done", False)]
    assert (await rows(database, alice, AUDIT))[1:] == [("update_task", "mcp", str(key))]
    assert (await data(client, "task_board", status="backlog"))["hint"] == "No card matches."


async def test_a_full_board_says_that_there_may_be_more(client: Client) -> None:
    for _ in range(2):
        await add_card(client)
    board = await data(client, "task_board", limit=2)
    assert board["truncated"] is True
    assert "entity_find(entity='agencyTasks')" in board["hint"]


async def test_an_unknown_client_has_no_cards(client: Client) -> None:
    board = await data(client, "task_board", client="Nobody")
    assert board["items"] == []
    assert board["hint"] == "unknown client 'Nobody'"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"id": 999, "status": "done"}, "not_found: no agencyTasks row 999."),
        ({"id": 10**30, "status": "done"}, "invalid_arguments: id: input should be less than or equal to"),
        ({"id": 1, "status": "finished"}, "invalid_arguments: status: input should be 'backlog', 'todo'"),
        ({"id": 1}, "invalid_arguments: status: field required."),
        ({"id": 1, "status": "done", "title": "x"}, "invalid_arguments: unknown argument 'title'; legal: id, status."),
    ],
)
async def test_a_move_that_is_not_possible_is_refused(client: Client, arguments: dict[str, Any], words: str) -> None:
    assert (await refusal(client, "task_move", **arguments)).startswith(words)


async def test_what_has_happened_is_counted(client: Client, app: App, clock: FixedClock) -> None:
    key = await add_card(client)
    await data(client, "task_move", id=key, status="done")
    async with app.writing() as db:
        webhook = UserWebhook(user_id=app.user_id, name="w", type="custom", webhook_token="t")
        db.add(webhook)
        await db.flush()
        db.add(
            InboundMessage(user_id=app.user_id, webhook_id=webhook.id, raw_body=b"", provider_message_id="1", body="hi")
        )
    clock.move(timedelta(days=-30000))
    page = await data(client, "activity_report", since="1d")
    assert [(item["what"], item["state"], item["count"]) for item in page["items"]] == [
        ("cards completed", "done", 1),
        ("cards created", "done", 1),
        ("changes", "entity_create", 1),
        ("changes", "update_task", 1),
        ("messages received", "received", 1),
    ]
    assert all(item["latest"].endswith("Z") for item in page["items"])
    late = await data(client, "activity_report", since="2200-01-01T00:00:00+01:00")
    assert late["items"] == []
    assert late["hint"] == "Nothing has happened since 2199-12-31T23:00:00Z."


@pytest.mark.parametrize("since", ["yesterday", "2026-11-20T09:00:00", "24", "-1h", ""])
async def test_a_moment_that_is_not_clear_is_refused(client: Client, since: str) -> None:
    said = await refusal(client, "activity_report", since=since)
    assert said.startswith("invalid_arguments: since: expects a span such as 24h, or a time such as")
