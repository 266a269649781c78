"""Creating, changing and deleting rows: receipts, audit rows, idempotency, versions, the two-step delete."""

from datetime import timedelta
from typing import Any

import pytest
from mcp import Client

from runtime.testing.clock import FixedClock
from storage.tenancy import Database
from tests.server.calls import add_card, answer, data, refusal, rows

AUDIT = 'SELECT action, "entityType", "entityId", "newValues" FROM "auditLogs" ORDER BY id'


async def test_create_answers_with_a_receipt_and_leaves_one_audit_row(
    client: Client, database: Database, alice: int
) -> None:
    made, text = await answer(client, "entity_create", entity="clientProfiles", data={"name": "Acme", "industry": "x"})
    key = made["item"]["id"]
    assert made["done"] == f"Created clientProfiles {key}"
    assert text == f"Created clientProfiles {key}."
    assert await rows(database, alice, 'SELECT name, industry FROM "clientProfiles"') == [("Acme", "x")]
    assert await rows(database, alice, AUDIT) == [
        ("entity_create", "clientProfiles", str(key), {"door": "mcp", "fields": ["industry", "name"]})
    ]


async def test_a_repeated_create_makes_one_row_and_one_audit_row(
    client: Client, database: Database, alice: int
) -> None:
    call: dict[str, Any] = {"entity": "clientProfiles", "data": {"name": "Acme"}, "idempotency_key": "k1"}
    first = await data(client, "entity_create", **call)
    second = await data(client, "entity_create", **call)
    assert second["item"] == first["item"]
    assert second["done"].endswith("before, under the same key")
    assert len(await rows(database, alice, 'SELECT id FROM "clientProfiles"')) == 1
    assert len(await rows(database, alice, AUDIT)) == 1
    said = await refusal(client, "entity_create", **(call | {"data": {"name": "Other"}}))
    assert said.startswith("conflict: entity_create: this idempotency key was used with other arguments")


async def test_a_refused_create_leaves_no_trace(client: Client, database: Database, alice: int) -> None:
    await refusal(client, "entity_create", entity="clientProfiles", data={}, idempotency_key="k1")
    for table in ("clientProfiles", "auditLogs", "idempotencyKeys"):
        assert await rows(database, alice, f'SELECT 1 FROM "{table}"') == []  # noqa: S608 -- constants


@pytest.mark.parametrize(
    ("entity", "fields", "words"),
    [
        ("clientProfiles", {}, "invalid_value: clientProfiles.name: is required."),
        (
            "clientProfiles",
            {"nme": "x"},
            "field_not_allowed: clientProfiles has no writable field 'nme'; writable: name, brandVoice",
        ),
        ("clientProfiles", {"name": 7}, "invalid_value: clientProfiles.name: expects a text, got 7."),
        (
            "clientProfiles",
            {"name": "x" * 256},
            "invalid_value: clientProfiles.name: is 256 characters long; at most 255 fit.",
        ),
        (
            "agencyTasks",
            {"title": "x", "status": "done"},
            "field_not_allowed: agencyTasks has no writable field 'status'",
        ),
        ("agencyTasks", {"title": "x", "userId": 1}, "field_not_allowed: agencyTasks has no writable field 'userId'"),
        (
            "agencyTasks",
            {"title": "x", "priority": "asap"},
            "invalid_value: agencyTasks.priority: is 'asap'; legal: low",
        ),
        (
            "agencyTasks",
            {"title": "x", "clientId": 999},
            "conflict: agencyTasks: 'clientId' names no clientProfiles row",
        ),
        ("toolExecutions", {"toolName": "x"}, "not_allowed: toolExecutions rows cannot be added generically"),
        ("auditLogs", {"action": "x"}, "not_allowed: auditLogs rows cannot be added generically"),
        ("sessions", {}, "unknown_entity: no entity 'sessions'"),
    ],
)
async def test_a_create_that_is_not_allowed_says_why(
    client: Client, entity: str, fields: dict[str, Any], words: str
) -> None:
    assert (await refusal(client, "entity_create", entity=entity, data=fields)).startswith(words)


async def test_update_changes_what_is_given_and_leaves_one_audit_row(
    client: Client, database: Database, alice: int
) -> None:
    key = await add_card(client, priority="low")
    changed = await data(client, "entity_update", entity="agencyTasks", id=key, patch={"priority": "high"})
    row = (await data(client, "entity_get", entity="agencyTasks", id=key))["item"]
    assert (row["title"], row["priority"]) == ("Fix the page", "high")
    assert changed["item"] == {"entity": "agencyTasks", "id": key, "_version": row["_version"]}
    assert (await rows(database, alice, AUDIT))[1:] == [
        ("entity_update", "agencyTasks", str(key), {"door": "mcp", "fields": ["priority"]})
    ]


async def test_an_update_of_an_old_version_is_refused(client: Client) -> None:
    key = await add_card(client)
    version = (await data(client, "entity_get", entity="agencyTasks", id=key))["item"]["_version"]
    call: dict[str, Any] = {"entity": "agencyTasks", "id": key, "expected_version": version}
    await data(client, "entity_update", **call, patch={"title": "one"})
    said = await refusal(client, "entity_update", **call, patch={"title": "two"})
    assert said.startswith(f"version_conflict: agencyTasks: row {key} has version ")
    assert "read it again" in said
    assert (await data(client, "entity_get", entity="agencyTasks", id=key))["item"]["title"] == "one"


@pytest.mark.parametrize(
    ("key", "patch", "words"),
    [
        (999, {"title": "x"}, "not_found: no agencyTasks row 999."),
        (
            None,
            {"status": "done"},
            "field_not_allowed: agencyTasks has no writable field 'status'; writable: clientId, title",
        ),
        (None, {}, "invalid_value: agencyTasks: the patch is empty; writable: clientId"),
        (None, {"title": None}, "invalid_value: agencyTasks.title: must not be null."),
        (None, "title", "invalid_arguments: patch: input should be a valid dictionary."),
    ],
)
async def test_an_update_that_is_not_allowed_says_why(
    client: Client, key: int | None, patch: object, words: str
) -> None:
    known = await add_card(client)
    said = await refusal(client, "entity_update", entity="agencyTasks", id=key or known, patch=patch)
    assert said.startswith(words)


async def test_delete_takes_two_calls(client: Client, database: Database, alice: int) -> None:
    key = await add_card(client)
    call: dict[str, Any] = {"entity": "agencyTasks", "id": key}
    preview, text = await answer(client, "entity_delete", **call)
    assert preview["deleted"] is False
    assert preview["rows"] == {"agencyTasks": 1}
    assert preview["expiresAt"] == "2026-11-20T09:05:00Z"
    assert text.startswith("Nothing is deleted yet. This would delete: 1 agencyTasks.")
    assert preview["confirmToken"] in text
    assert len(await rows(database, alice, 'SELECT id FROM "agencyTasks"')) == 1
    done = await data(client, "entity_delete", **call, confirm_token=preview["confirmToken"])
    assert (done["deleted"], done["rows"], done["confirmToken"]) == (True, {"agencyTasks": 1}, None)
    assert await rows(database, alice, 'SELECT id FROM "agencyTasks"') == []
    assert (await rows(database, alice, AUDIT))[1:] == [
        ("entity_delete", "agencyTasks", str(key), {"door": "mcp", "fields": ["rows"]})
    ]
    again = await refusal(client, "entity_delete", **call, confirm_token=preview["confirmToken"])
    assert again.startswith("not_found: ")


async def test_a_token_confirms_its_own_row_only(client: Client) -> None:
    one, other = await add_card(client), await add_card(client)
    token = (await data(client, "entity_delete", entity="agencyTasks", id=one))["confirmToken"]
    said = await refusal(client, "entity_delete", entity="agencyTasks", id=other, confirm_token=token)
    assert said.startswith("confirmation_refused: the confirmation token was issued for another call")
    assert await data(client, "entity_get", entity="agencyTasks", id=other)


async def test_a_token_is_of_no_use_to_another_caller(client: Client, bobs_client: Client) -> None:
    key = await add_card(client)
    token = (await data(client, "entity_delete", entity="agencyTasks", id=key))["confirmToken"]
    said = await refusal(bobs_client, "entity_delete", entity="agencyTasks", id=key, confirm_token=token)
    assert said.startswith("confirmation_refused: ")
    assert await data(client, "entity_get", entity="agencyTasks", id=key)


async def test_a_token_lives_for_five_minutes(client: Client, clock: FixedClock) -> None:
    key = await add_card(client)
    token = (await data(client, "entity_delete", entity="agencyTasks", id=key))["confirmToken"]
    clock.move(timedelta(minutes=5, seconds=1))
    said = await refusal(client, "entity_delete", entity="agencyTasks", id=key, confirm_token=token)
    assert said.startswith("confirmation_refused: the confirmation token has expired. Nothing was deleted.")
    clock.move(timedelta(seconds=-1))
    assert (await data(client, "entity_delete", entity="agencyTasks", id=key, confirm_token=token))["deleted"]


@pytest.mark.parametrize("token", ["", "x", "ü", "A" * 44])
async def test_a_token_that_was_never_issued_is_refused(client: Client, token: str) -> None:
    key = await add_card(client)
    said = await refusal(client, "entity_delete", entity="agencyTasks", id=key, confirm_token=token)
    assert said.startswith("confirmation_refused: the confirmation token ")
    assert await data(client, "entity_get", entity="agencyTasks", id=key)


@pytest.mark.parametrize(
    ("entity", "words"),
    [
        ("agencyTasks", "not_found: no agencyTasks row 999."),
        ("auditLogs", "not_allowed: auditLogs rows cannot be removed generically"),
    ],
)
async def test_a_delete_that_is_not_allowed_says_why(client: Client, entity: str, words: str) -> None:
    assert (await refusal(client, "entity_delete", entity=entity, id=999)).startswith(words)
