"""The five verbs: what they return, what they refuse, and that nobody sees or touches another tenant's rows."""

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from dirty_equals import IsPartialDict, IsStr
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from storage.base import Base
from storage.entities import Aggregate, EntityStore, Page
from storage.errors import (
    EntityConflictError,
    EntityNotFoundError,
    FieldNotAllowedError,
    InvalidFilterError,
    InvalidValueError,
    StorageError,
    VerbNotAllowedError,
    VersionConflictError,
)
from storage.filters import Filter, Query
from storage.ids import new_id
from storage.models.agents import AgentExecution, AgentSession, AgentStep
from storage.models.automation import AutomationWorkflow, WorkflowExecution
from storage.models.crm import AgencyTask, ClientProfile
from storage.models.identity import ApiKey, User, UserProfile
from storage.models.knowledge import KnowledgeEntry
from storage.models.messaging import BotConversation, InboundMessage, OutboundMessage, UserWebhook
from storage.models.swarm import MemoryEntry, Swarm
from storage.policy import POLICIES, RULES, Policy
from storage.registry import EntitySpec, Field, all_specs, build_spec, spec_of
from storage.tenancy import Database

CARD = spec_of(AgencyTask)
CLIENT = spec_of(ClientProfile)


@asynccontextmanager
async def store_of(database: Database, user_id: int) -> AsyncGenerator[EntityStore]:
    async with database.begin(user_id) as db:
        yield EntityStore(db, user_id)


async def until_somebody_waits_for_a_lock(database: Database) -> None:
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        waiting = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while not (await connection.execute(waiting)).scalar_one():
            await anyio.lowlevel.checkpoint()


async def row_of_each(db: AsyncSession, user_id: int) -> dict[str, int | str]:
    """Add a row to every entity's table, parents first, and return entity → wire id."""
    made: dict[str, int | str] = {"users": user_id}
    tables = {spec.name: spec for spec in all_specs()}
    for table in Base.metadata.sorted_tables:
        spec = tables.get(table.name)
        if spec is None or table.name == "users":
            continue
        values = {column.name: value_for(spec, column.name, made) for column in table.columns if must_be_given(column)}
        values[spec.owner.name] = user_id
        row = (await db.execute(insert(table).values(values).returning(*spec.key))).one()
        made[table.name] = row[0] if len(row) == 1 else ":".join(str(part) for part in row)
    return made


def must_be_given(column: Any) -> bool:
    return not column.nullable and column.server_default is None and column.identity is None


def value_for(spec: EntitySpec[Any], name: str, made: dict[str, int | str]) -> Any:
    if name == "id" and spec.id_prefix is not None:
        return new_id(spec.id_prefix)
    field = spec.fields.get(name)
    if field is None:
        return b"raw" if name == "rawBody" else uuid.uuid4().hex[:20]
    if field.references in made:
        return made[field.references]
    if field.choices:
        return field.choices[0]
    values: dict[str, Any] = {
        "integer": 1,
        "decimal": Decimal("0.5"),
        "text": uuid.uuid4().hex[:20],
        "json": {},
        "timestamp": datetime(2100, 1, 1, tzinfo=UTC),
    }
    return values[field.kind]


async def test_a_row_goes_through_all_five_verbs(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        added = await store.add(
            CARD, {"title": "Fix the page", "tags": ["web"], "dueDate": "2026-11-20T10:00:00+01:00", "priority": "high"}
        )
    assert added == IsPartialDict(
        title="Fix the page", tags=["web"], dueDate="2026-11-20T09:00:00Z", status="backlog", userId=alice
    )
    assert next(iter(added)) == "id"
    assert added["createdAt"].endswith("Z")
    async with store_of(database, alice) as store:
        assert await store.get(CARD, added["id"]) == added
        assert await store.get(CARD, str(added["id"])) == added
        changed = await store.change(CARD, added["id"], {"title": "Fix it", "dueDate": None})
        assert changed == IsPartialDict(title="Fix it", dueDate=None, tags=["web"])
    async with store_of(database, alice) as store:
        assert (await store.find(CARD, Query())).items == [
            {name: changed[name] for name in ("id", *CARD.shown, "_version")}
        ]
        await store.remove(CARD, added["id"])
        with pytest.raises(EntityNotFoundError):
            await store.get(CARD, added["id"])


async def test_only_the_fields_asked_for_come_back(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        row = await store.add(CLIENT, {"name": "Acme"})
        assert await store.get(CLIENT, row["id"], ["name", "_version", "name", "id"]) == {
            "id": row["id"],
            "name": "Acme",
            "_version": row["_version"],
        }
        page = await store.find(CLIENT, Query(fields=["website"]))
        assert page.items == [{"id": row["id"], "website": None, "_version": row["_version"]}]
        with pytest.raises(FieldNotAllowedError) as caught:
            await store.get(CLIENT, row["id"], ["name", "searchVector"])
        assert (caught.value.field, caught.value.legal) == ("searchVector", CLIENT.readable)


async def test_secrets_are_in_no_result(database: Database, alice: int) -> None:
    secret = "s3cr3t-hash"
    async with database.begin(alice) as db:
        db.add(ApiKey(user_id=alice, name="ci", key_hash=secret, key_prefix="abc"))
        db.add(UserWebhook(user_id=alice, name="w", type="custom", webhook_token=secret, config={"key": secret}))
        store = EntityStore(db, alice)
        results: list[Any] = []
        for spec in (spec_of(ApiKey), spec_of(UserWebhook), spec_of(User)):
            page = await store.find(spec, Query())
            results += [page.items, await store.get(spec, page.items[0]["id"])]
        assert secret not in repr(results)
        assert "password" not in results[-1]
        for spec, field in (
            (spec_of(ApiKey), "keyHash"),
            (spec_of(User), "password"),
            (spec_of(UserWebhook), "config"),
        ):
            for query in (
                Query(fields=[field]),
                Query(where=[Filter(field, "is_null", value=False)]),
                Query(order_by=field),
            ):
                with pytest.raises(FieldNotAllowedError):
                    await store.find(spec, query)
            with pytest.raises(FieldNotAllowedError):
                await store.aggregate(spec, Aggregate(metric="count", group_by=[field]))
            with pytest.raises(FieldNotAllowedError):
                await store.change(spec, 1, {field: "x"})


async def test_a_step_of_the_journal_is_found_by_both_parts_of_its_key(database: Database, alice: int) -> None:
    spec = spec_of(AgentStep)
    async with database.begin(alice) as db:
        session = AgentSession(user_id=alice)
        db.add(session)
        await db.flush()
        execution = AgentExecution(user_id=alice, session_id=session.id, task_description="t", agent_name="a")
        db.add(execution)
        await db.flush()
        for seq in range(1, 6):
            db.add(
                AgentStep(
                    user_id=alice,
                    session_id=session.id,
                    seq=seq,
                    execution_id=execution.id,
                    kind="user",
                    body={"n": seq},
                )
            )
        store = EntityStore(db, alice)
        row = await store.get(spec, f"{session.id}:3")
        assert row == IsPartialDict(id=f"{session.id}:3", sessionId=session.id, seq=3, body={"n": 3})
        seen: list[str] = []
        cursor = None
        while page := await store.find(spec, Query(limit=2, order_by="kind", cursor=cursor)):
            seen += [item["id"] for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == [f"{session.id}:{seq}" for seq in range(1, 6)]
        for malformed in ("3", 3, f"{session.id}:", f"{session.id}:3:1", ":", f"{session.id}:x", f"{session.id}:03"):
            with pytest.raises(EntityNotFoundError):
                await store.get(spec, malformed)


async def test_text_of_the_journal_that_no_encoder_takes_is_replaced(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        ids = await row_of_each(db, alice)
        session_id = int(str(ids["agentSteps"]).split(":")[0])
        step = AgentStep(
            user_id=alice,
            session_id=session_id,
            seq=9,
            execution_id=int(ids["agentExecutions"]),
            kind="user",
            body={"text": "half \ud800 a pair", "list": ["\udfff"]},
        )
        db.add(step)
        row = await EntityStore(db, alice).get(spec_of(AgentStep), f"{session_id}:9")
        assert row["body"] == {"text": "half \ufffd a pair", "list": ["\ufffd"]}


MALFORMED_KEYS: list[int | str] = [
    0,
    -1,
    2**63,
    -(2**63) - 1,
    10**5000,
    "",
    "abc",
    "1.0",
    " 1",
    "١",
    "1\0",
    "\ud800",
    "1e3",
    "01",
    "1" * 50,
    True,
]


async def test_a_malformed_id_is_a_row_that_does_not_exist(database: Database, alice: int) -> None:
    swarm = spec_of(Swarm)
    async with store_of(database, alice) as store:
        await store.add(CARD, {"title": "the only one"})
        for key in MALFORMED_KEYS:
            for answer in (
                store.get(CARD, key),
                store.change(CARD, key, {"title": "x"}),
                store.change(CARD, key, {"title": "x"}, expected_version="1"),
                store.remove(CARD, key),
                store.removal_preview(CARD, key),
                store.get(swarm, key),
                store.change(swarm, key, {"name": "x"}),
            ):
                with pytest.raises(EntityNotFoundError):
                    await answer


VALUE_ERRORS: list[tuple[EntitySpec[Any], dict[str, object], str]] = [
    (CARD, {}, "agencyTasks.title"),
    (CARD, {"title": None}, "agencyTasks.title"),
    (CARD, {"title": 12}, "agencyTasks.title"),
    (CARD, {"title": "a\0b"}, "agencyTasks.title"),
    (CARD, {"title": "\udc00"}, "agencyTasks.title"),
    (CARD, {"title": "x" * 501}, "agencyTasks.title"),
    (CARD, {"title": "a", "priority": "highest"}, "agencyTasks.priority"),
    (CARD, {"title": "a", "clientId": "abc"}, "agencyTasks.clientId"),
    (CARD, {"title": "a", "clientId": 1.0}, "agencyTasks.clientId"),
    (CARD, {"title": "a", "clientId": True}, "agencyTasks.clientId"),
    (CARD, {"title": "a", "clientId": 2**63}, "agencyTasks.clientId"),
    (CARD, {"title": "a", "dueDate": "tomorrow"}, "agencyTasks.dueDate"),
    (CARD, {"title": "a", "dueDate": "2026-11-20"}, "agencyTasks.dueDate"),
    (CARD, {"title": "a", "dueDate": "2026-11-20T09:00:00"}, "agencyTasks.dueDate"),
    (CARD, {"title": "a", "dueDate": "0001-01-01T00:00:00+14:00"}, "agencyTasks.dueDate"),
    (CARD, {"title": "a", "dueDate": 1763629200}, "agencyTasks.dueDate"),
    (CARD, {"title": "a", "tags": {}}, "agencyTasks.tags"),
    (CARD, {"title": "a", "tags": ["ok", "a\0b"]}, "agencyTasks.tags[1]"),
    (CARD, {"title": "a", "extractedData": []}, "agencyTasks.extractedData"),
    (CARD, {"title": "a", "extractedData": {"a": [{"b": "\ud800"}]}}, "agencyTasks.extractedData.a[0].b"),
    (CARD, {"title": "a", "extractedData": {"a\0": 1}}, "agencyTasks.extractedData (a key)"),
    (CARD, {"title": "a", "extractedData": {1: 1}}, "agencyTasks.extractedData"),
    (CARD, {"title": "a", "extractedData": {"n": float("nan")}}, "agencyTasks.extractedData.n"),
    (CARD, {"title": "a", "extractedData": {"n": float("-inf")}}, "agencyTasks.extractedData.n"),
    (CARD, {"title": "a", "extractedData": {"n": 2**63}}, "agencyTasks.extractedData.n"),
    (CARD, {"title": "a", "extractedData": {"n": 10**5000}}, "agencyTasks.extractedData.n"),
    (CARD, {"title": "a", "extractedData": {"n": {1, 2}}}, "agencyTasks.extractedData.n"),
    (CARD, {"title": "a", "extractedData": {"n": b"bytes"}}, "agencyTasks.extractedData.n"),
    (spec_of(KnowledgeEntry), {"category": "c", "content": "c", "confidence": "high"}, "knowledgeEntries.confidence"),
    (spec_of(KnowledgeEntry), {"category": "c", "content": "c", "confidence": 10}, "knowledgeEntries.confidence"),
    (spec_of(KnowledgeEntry), {"category": "c", "content": "c", "confidence": "0.555"}, "knowledgeEntries.confidence"),
    (spec_of(KnowledgeEntry), {"category": "c", "content": "c", "confidence": "NaN"}, "knowledgeEntries.confidence"),
    (spec_of(KnowledgeEntry), {"category": "c", "content": "c", "confidence": 10**5000}, "knowledgeEntries.confidence"),
    (
        spec_of(KnowledgeEntry),
        {"category": "c", "content": "c", "confidence": 1, "isActive": 1},
        "knowledgeEntries.isActive",
    ),
]


async def test_a_value_that_cannot_be_stored_is_refused_by_name(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        for spec, values, where in VALUE_ERRORS:
            with pytest.raises(InvalidValueError) as caught:
                await store.add(spec, values)
            assert caught.value.where == where, values


async def test_a_rule_of_the_table_is_told_in_words(database: Database, alice: int) -> None:
    with pytest.raises(InvalidValueError) as caught:
        async with store_of(database, alice) as store:
            await store.add(CARD, {"title": "a", "assignedTo": alice + 1})
    assert caught.value.reason == RULES["ck_agencyTasks_assignedTo"]


async def test_json_may_be_nested_64_levels_and_no_deeper(database: Database, alice: int) -> None:
    deep: Any = "bottom"
    for _ in range(63):
        deep = [deep]
    async with store_of(database, alice) as store:
        row = await store.add(CARD, {"title": "deep", "tags": deep})
        assert row["tags"] == deep
        with pytest.raises(InvalidValueError, match="64"):
            await store.change(CARD, row["id"], {"tags": [deep]})


async def test_decimals_come_back_as_the_text_they_were_sent_as(database: Database, alice: int) -> None:
    spec = spec_of(KnowledgeEntry)
    async with store_of(database, alice) as store:
        for sent in (0.75, "0.75", Decimal("0.75")):
            row = await store.add(spec, {"category": "c", "content": "c", "confidence": sent})
            assert row["confidence"] == "0.75"


async def test_a_null_in_a_json_column_is_no_value(database: Database, alice: int) -> None:
    spec = build_spec(
        WorkflowExecution, Policy(label="status", shown=(), writable=("workflowId", "result"), creates=True)
    )
    async with store_of(database, alice) as store:
        workflow = await store.add(spec_of(AutomationWorkflow), {"name": "w"})
        row = await store.add(spec, {"workflowId": workflow["id"], "result": None})
        absent = Query(where=[Filter("result", "is_null", value=True)])
        assert len((await store.find(spec, absent)).items) == 1
        await store.change(spec, row["id"], {"result": {"a": 1}})
        assert (await store.find(spec, absent)).items == []
        await store.change(spec, row["id"], {"result": None})
        assert len((await store.find(spec, absent)).items) == 1


async def test_a_field_that_is_not_writable_is_refused(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        row = await store.add(CARD, {"title": "a"})
        for field in ("status", "id", "userId", "searchVector", "_version", "nope", "", "title; --", "client_id"):
            for answer in (
                store.add(CARD, {"title": "a", field: "done"}),
                store.change(CARD, row["id"], {field: "done"}),
            ):
                with pytest.raises(FieldNotAllowedError) as caught:
                    await answer
                assert caught.value.legal == CARD.writable


async def test_an_empty_patch_is_refused(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        row = await store.add(CARD, {"title": "a"})
        with pytest.raises(InvalidValueError):
            await store.change(CARD, row["id"], {})


async def test_verbs_that_an_operation_owns_are_refused(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        for spec in all_specs():
            if not spec.creates:
                with pytest.raises(VerbNotAllowedError):
                    await store.add(spec, {})
            if not spec.removes:
                with pytest.raises(VerbNotAllowedError):
                    await store.remove(spec, "1")
                with pytest.raises(VerbNotAllowedError):
                    await store.removal_preview(spec, "1")
            if not spec.changes:
                with pytest.raises(FieldNotAllowedError):
                    await store.change(spec, "1", {"id": 2})


async def test_a_second_row_where_there_can_be_one_is_a_conflict(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        await store.add(spec_of(UserProfile), {"displayName": "Alice"})
    with pytest.raises(EntityConflictError) as caught:
        async with store_of(database, alice) as store:
            await store.add(spec_of(UserProfile), {"displayName": "Alice in secret"})
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_what_the_callers_session_had_pending_is_not_blamed_on_the_entity(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        db.add(AgencyTask(user_id=alice, title="pending", client_id=10**9))
        with pytest.raises(IntegrityError):
            await EntityStore(db, alice).add(CLIENT, {"name": "Acme"})
        await db.rollback()


async def test_a_unique_conflict_names_the_columns_but_neither_values_nor_sql(database: Database, alice: int) -> None:
    spec = build_spec(
        Swarm, Policy(label="name", shown=("name",), writable=("name", "topology", "queen_agent_id"), creates=True)
    )
    keys = build_spec(ApiKey, Policy(label="name", shown=(), writable=("name", "keyPrefix", "keyHash"), creates=True))
    async with store_of(database, alice) as store:
        await store.add(keys, {"name": "a", "keyPrefix": "taken", "keyHash": "h"})
    with pytest.raises(EntityConflictError) as caught:
        async with store_of(database, alice) as store:
            await store.add(keys, {"name": "b", "keyPrefix": "taken", "keyHash": "h"})
    assert "'keyPrefix'" in caught.value.reason
    assert "taken" not in str(caught.value)
    assert "INSERT" not in str(caught.value)
    with pytest.raises(EntityConflictError, match="'queen_agent_id' names no cf_agents row"):
        async with store_of(database, alice) as store:
            await store.add(spec, {"name": "s", "queen_agent_id": "agt_none"})


async def test_keys_of_swarm_tables_are_made_by_us(database: Database, alice: int) -> None:
    spec = build_spec(Swarm, Policy(label="name", shown=("name",), writable=("name",), creates=True))
    async with store_of(database, alice) as store:
        row = await store.add(spec, {"name": "s"})
        assert row["id"] == IsStr(regex=r"swm_[0-9a-f]{32}")
        assert await store.get(spec, row["id"]) == row


async def test_an_old_version_is_refused_and_told_the_actual_one(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        first = await store.add(CARD, {"title": "one"})
    async with store_of(database, alice) as store:
        second = await store.change(CARD, first["id"], {"title": "two"}, expected_version=first["_version"])
    async with store_of(database, alice) as store:
        assert second["_version"] == (await store.get(CARD, first["id"]))["_version"] != first["_version"]
        for stale in (first["_version"], "", "0 OR 1=1", "\0", "9" * 30):
            with pytest.raises(VersionConflictError) as caught:
                await store.change(CARD, first["id"], {"title": "three"}, expected_version=stale)
            assert caught.value.actual == second["_version"]
        assert (await store.get(CARD, first["id"]))["title"] == "two"
        with pytest.raises(EntityNotFoundError):
            await store.change(CARD, 10**9, {"title": "three"}, expected_version=first["_version"])


async def test_of_two_concurrent_changes_to_one_version_the_second_is_refused(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        row = await store.add(CARD, {"title": "start"})
    changed = anyio.Event()
    refused: list[VersionConflictError] = []

    async def change_first() -> None:
        async with store_of(database, alice) as store:
            await store.change(CARD, row["id"], {"title": "first"}, expected_version=row["_version"])
            changed.set()
            await until_somebody_waits_for_a_lock(database)

    async def change_second() -> None:
        await changed.wait()
        with pytest.raises(VersionConflictError) as caught:
            async with store_of(database, alice) as store:
                await store.change(CARD, row["id"], {"title": "second"}, expected_version=row["_version"])
        refused.append(caught.value)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(change_first)
            tasks.start_soon(change_second)
    async with store_of(database, alice) as store:
        now = await store.get(CARD, row["id"])
    assert now["title"] == "first"
    assert refused[0].actual == now["_version"]


async def test_the_version_of_a_memory_is_not_its_version_column(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        db.add(MemoryEntry(id="mem_1", user_id=alice, namespace="user", key_name="k", value={"a": 1}))
        row = await EntityStore(db, alice).get(spec_of(MemoryEntry), "mem_1")
    assert row["version"] == 1
    assert row["_version"] == IsStr(regex="[0-9]+")


async def test_the_same_call_with_the_same_key_adds_one_row(database: Database, alice: int, bob: int) -> None:
    values = {"title": "once", "dueDate": "2026-11-20T09:00:00Z", "tags": [{"b": 1, "a": 2}]}
    again = {"tags": [{"a": 2, "b": 1}], "title": "once", "dueDate": "2026-11-20T10:00:00+01:00"}
    async with store_of(database, alice) as store:
        first = await store.add(CARD, values, idempotency_key="call-1")
        assert await store.add(CARD, values, idempotency_key="call-1") == first
    async with store_of(database, alice) as store:
        assert await store.add(CARD, again, idempotency_key="call-1") == first
        with pytest.raises(EntityConflictError):
            await store.add(CARD, {"title": "other"}, idempotency_key="call-1")
        assert (await store.add(CLIENT, {"name": "Acme"}, idempotency_key="call-1"))["name"] == "Acme"
        assert len((await store.find(CARD, Query())).items) == 1
    async with store_of(database, bob) as store:
        assert (await store.add(CARD, values, idempotency_key="call-1"))["id"] != first["id"]


async def test_a_key_whose_row_is_gone_is_a_conflict(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        row = await store.add(CARD, {"title": "once"}, idempotency_key="k")
        await store.remove(CARD, row["id"])
        with pytest.raises(EntityConflictError):
            await store.add(CARD, {"title": "once"}, idempotency_key="k")


async def test_a_key_that_cannot_be_stored_is_refused(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        for key in ("", "x" * 256, "a\0", "\ud800"):
            with pytest.raises(InvalidValueError):
                await store.add(CARD, {"title": "once"}, idempotency_key=key)


async def test_a_call_that_failed_leaves_its_key_free(database: Database, alice: int) -> None:
    with pytest.raises(EntityConflictError):
        async with store_of(database, alice) as store:
            await store.add(CARD, {"title": "a", "clientId": 10**9}, idempotency_key="k")
    async with store_of(database, alice) as store:
        assert (await store.add(CARD, {"title": "b"}, idempotency_key="k"))["title"] == "b"


async def test_two_concurrent_calls_with_one_key_add_one_row_and_answer_alike(database: Database, alice: int) -> None:
    # A profile is unique per user: without waiting for the key the second insert would end in a conflict.
    spec = spec_of(UserProfile)
    added = anyio.Event()
    answers: list[dict[str, Any]] = []

    async def call_first() -> None:
        async with store_of(database, alice) as store:
            answers.append(await store.add(spec, {"displayName": "Alice"}, idempotency_key="k"))
            added.set()
            await until_somebody_waits_for_a_lock(database)

    async def call_second() -> None:
        await added.wait()
        async with store_of(database, alice) as store:
            answers.append(await store.add(spec, {"displayName": "Alice"}, idempotency_key="k"))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_first)
            tasks.start_soon(call_second)
    assert answers[0] == answers[1]
    async with store_of(database, alice) as store:
        assert len((await store.find(spec, Query())).items) == 1


async def test_when_the_first_of_two_calls_rolls_back_the_second_adds_the_row(database: Database, alice: int) -> None:
    added = anyio.Event()
    answers: list[dict[str, Any]] = []

    async def call_and_roll_back() -> None:
        async with database.begin(alice) as db:
            await EntityStore(db, alice).add(CARD, {"title": "once"}, idempotency_key="k")
            added.set()
            await until_somebody_waits_for_a_lock(database)
            await db.rollback()

    async def call_second() -> None:
        await added.wait()
        async with store_of(database, alice) as store:
            answers.append(await store.add(CARD, {"title": "once"}, idempotency_key="k"))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_and_roll_back)
            tasks.start_soon(call_second)
    async with store_of(database, alice) as store:
        assert [row["id"] for row in (await store.find(CARD, Query())).items] == [answers[0]["id"]]


async def test_a_key_held_too_long_by_another_call_is_a_conflict(database: Database, alice: int) -> None:
    async with store_of(database, alice) as first, database.begin(alice) as db:
        await first.add(CARD, {"title": "once"}, idempotency_key="k")
        await db.execute(text("SET LOCAL lock_timeout = '1ms'"))
        with pytest.raises(EntityConflictError, match="still running"):
            await EntityStore(db, alice).add(CARD, {"title": "once"}, idempotency_key="k")
        await db.rollback()


async def test_a_row_locked_by_another_change_is_a_conflict(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        row = await store.add(CARD, {"title": "start"})
    async with store_of(database, alice) as first, database.begin(alice) as db:
        await first.change(CARD, row["id"], {"title": "first"})
        await db.execute(text("SET LOCAL lock_timeout = '1ms'"))
        with pytest.raises(EntityConflictError, match="under way"):
            await EntityStore(db, alice).change(CARD, row["id"], {"title": "second"})
        await db.rollback()


async def test_the_preview_counts_each_row_that_removal_takes_once(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        webhooks = [UserWebhook(user_id=alice, name=name, type="custom", webhook_token=name) for name in ("one", "two")]
        db.add_all(webhooks)
        await db.flush()
        for webhook in webhooks:
            talks = [BotConversation(user_id=alice, webhook_id=webhook.id, participant_id=str(n)) for n in range(2)]
            db.add_all(talks)
            await db.flush()
            for talk in talks:
                db.add(
                    OutboundMessage(user_id=alice, webhook_id=webhook.id, conversation_id=talk.id, to="x", body="hi")
                )
                db.add(
                    InboundMessage(
                        user_id=alice, webhook_id=webhook.id, raw_body=b"x", provider_message_id=str(talk.id)
                    )
                )
            db.add(AgencyTask(user_id=alice, title="stays", webhook_id=webhook.id))
        # Reached by its conversation only: its webhook stays.
        first_talk = (await db.scalars(select(BotConversation).order_by(BotConversation.id))).first()
        assert first_talk is not None
        elsewhere = webhooks[1].id
        db.add(OutboundMessage(user_id=alice, webhook_id=elsewhere, conversation_id=first_talk.id, to="x", body="hi"))
        store = EntityStore(db, alice)
        spec = spec_of(UserWebhook)
        preview = await store.removal_preview(spec, webhooks[0].id)
        assert preview == {"userWebhooks": 1, "botConversations": 2, "inboundMessages": 2, "outboundMessages": 3}
        counts = {table: await count_of(store, table) for table in preview}
        await store.remove(spec, webhooks[0].id)
        assert {table: counts[table] - await count_of(store, table) for table in preview} == preview
        assert await count_of(store, "agencyTasks") == 2


async def count_of(store: EntityStore, table: str) -> int:
    spec = next(spec for spec in all_specs() if spec.name == table)
    return (await store.aggregate(spec, Aggregate(metric="count"))).items[0]["value"]


async def test_expired_memories_do_not_exist_for_any_verb(database: Database, alice: int) -> None:
    spec = build_spec(
        MemoryEntry,
        Policy(
            label="key_name",
            shown=("key_name",),
            writable=("namespace",),
            removes=True,
            visible=POLICIES["cf_memory_store"].visible,
        ),
    )
    async with database.begin(alice) as db:
        moment: datetime = (await db.execute(select(text("now()")))).scalar_one()
        for key, expires_at in (("old", moment), ("new", moment + timedelta(hours=1)), ("ever", None)):
            db.add(
                MemoryEntry(
                    id=f"mem_{key}", user_id=alice, namespace="n", key_name=key, value="word", expires_at=expires_at
                )
            )
        await db.flush()
        store = EntityStore(db, alice)
        assert await keys_found(store, spec, Query()) == {"new", "ever"}
        assert await keys_found(store, spec, Query(text="word")) == {"new", "ever"}
        assert (await store.aggregate(spec, Aggregate(metric="count"))).items == [{"group": {}, "value": 2}]
        assert (await store.get(spec, "mem_new"))["key_name"] == "new"
        for attempt in (
            lambda: store.get(spec, "mem_old"),
            lambda: store.change(spec, "mem_old", {"namespace": "x"}),
            lambda: store.change(spec, "mem_old", {"namespace": "x"}, expected_version="1"),
            lambda: store.remove(spec, "mem_old"),
            lambda: store.removal_preview(spec, "mem_old"),
        ):
            with pytest.raises(EntityNotFoundError):
                await attempt()


async def test_a_memory_disappears_while_a_transaction_is_open(database: Database, alice: int) -> None:
    spec = spec_of(MemoryEntry)
    async with database.begin(alice) as db:
        db.add(MemoryEntry(id="mem_1", user_id=alice, namespace="n", key_name="k", value=1))
        store = EntityStore(db, alice)
        assert await store.get(spec, "mem_1")
        await db.execute(update(MemoryEntry).values(expires_at=text("clock_timestamp()")))
        assert (await store.find(spec, Query())).items == []


async def keys_found(store: EntityStore, spec: EntitySpec[Any], query: Query) -> set[str]:
    return {row["key_name"] for row in (await store.find(spec, query)).items}


async def test_pending_changes_of_the_callers_session_are_seen(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        db.add(ClientProfile(user_id=alice, name="Acme"))
        page = await EntityStore(db, alice).find(CLIENT, Query())
        assert [row["name"] for row in page.items] == ["Acme"]


async def test_figures_are_grouped_and_sorted_by_value(database: Database, alice: int, bob: int) -> None:
    async with store_of(database, bob) as store:
        await store.add(CARD, {"title": "bob's", "priority": "low"})
    async with store_of(database, alice) as store:
        for priority, client in (("high", None), ("high", None), ("low", "Acme")):
            client_id = (await store.add(CLIENT, {"name": client}))["id"] if client else None
            await store.add(CARD, {"title": "t", "priority": priority, "clientId": client_id})
        counted = await store.aggregate(CARD, Aggregate(metric="count", group_by=["priority"]))
        assert counted.items == [
            {"group": {"priority": "high"}, "value": 2},
            {"group": {"priority": "low"}, "value": 1},
        ]
        assert not counted.truncated
        with_client = await store.aggregate(CARD, Aggregate(metric="count", field="clientId"))
        assert with_client.items == [{"group": {}, "value": 1}]
        low = Aggregate(metric="count", where=[Filter("priority", "eq", "low")], text="t")
        assert (await store.aggregate(CARD, low)).items == [{"group": {}, "value": 1}]


async def test_figures_keep_their_precision(database: Database, alice: int) -> None:
    spec = spec_of(KnowledgeEntry)
    async with store_of(database, alice) as store:
        for confidence in ("0.10", "0.20"):
            await store.add(spec, {"category": "c", "content": "c", "confidence": confidence})
        values: list[Any] = []
        for metric, field in (
            ("sum", "confidence"),
            ("max", "confidence"),
            ("sum", "usageCount"),
            ("count", "content"),
        ):
            figures = await store.aggregate(spec, Aggregate(metric=metric, field=field))  # type: ignore[arg-type]
            values.append(figures.items[0]["value"])
        assert values == ["0.30", "0.20", 0, 2]
        average = (await store.aggregate(spec, Aggregate(metric="avg", field="confidence"))).items[0]["value"]
        assert Decimal(average) == Decimal("0.15")
        newest = (await store.aggregate(spec, Aggregate(metric="max", field="createdAt"))).items[0]["value"]
        assert datetime.fromisoformat(newest).tzinfo == UTC
        nothing = Aggregate(metric="sum", field="usageCount", where=[Filter("category", "eq", "none")])
        assert (await store.aggregate(spec, nothing)).items == [{"group": {}, "value": None}]


async def test_figures_of_the_wrong_columns_are_refused(database: Database, alice: int) -> None:
    async with store_of(database, alice) as store:
        for question in (
            Aggregate(metric="sum", field="title"),
            Aggregate(metric="avg", field="createdAt"),
            Aggregate(metric="max", field="tags"),
            Aggregate(metric="min", field="nope"),
            Aggregate(metric="count", group_by=["description"]),
            Aggregate(metric="count", group_by=["createdAt"]),
            Aggregate(metric="count", group_by=["tags"]),
        ):
            with pytest.raises(FieldNotAllowedError):
                await store.aggregate(CARD, question)
        for question in (Aggregate(metric="sum"), Aggregate(metric="count", group_by=["priority"] * 4)):
            with pytest.raises(InvalidFilterError):
                await store.aggregate(CARD, question)


async def test_more_groups_than_100_are_cut_and_said_so(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        db.add_all(ClientProfile(user_id=alice, name=f"c{n:03}") for n in range(101))
        figures = await EntityStore(db, alice).aggregate(CLIENT, Aggregate(metric="count", group_by=["name"]))
    assert len(figures.items) == 100
    assert figures.truncated


Attempt = Callable[[EntityStore, int | str], Awaitable[object]]


def attempts(spec: EntitySpec[Any]) -> dict[str, Attempt]:
    """Every verb that takes an id, as far as the entity has it; the id is the only thing that differs."""
    found: dict[str, Attempt] = {
        "get": lambda store, key: store.get(spec, key),
        "find": lambda store, key: store.find(spec, Query(where=filters_by_key(spec, key))),
        "count": lambda store, key: store.aggregate(spec, Aggregate(metric="count", where=filters_by_key(spec, key))),
    }
    if spec.changes:
        patch = {spec.writable[0]: wanted(spec.fields[spec.writable[0]])}
        found["change"] = lambda store, key: store.change(spec, key, patch)
        found["change at a version"] = lambda store, key: store.change(spec, key, patch, expected_version="1")
    if spec.removes:
        found["remove"] = lambda store, key: store.remove(spec, key)
        found["removal_preview"] = lambda store, key: store.removal_preview(spec, key)
    return found


def wanted(field: Field) -> object:
    if field.nullable:
        return None
    values: dict[str, Any] = {"text": "x", "json": {}, "boolean": True}
    return values[field.kind]


def filters_by_key(spec: EntitySpec[Any], key: int | str) -> list[Filter]:
    parts: list[int | str] = [int(part) for part in str(key).split(":")] if len(spec.key) > 1 else [key]
    return [Filter(column.name, "eq", part) for column, part in zip(spec.key, parts, strict=True)]


async def outcome(database: Database, user_id: int, attempt: Attempt, key: int | str) -> object:
    """Return what the attempt answers, with the id blanked out."""
    try:
        async with store_of(database, user_id) as store:
            answer = await attempt(store, key)
            return answer.items if isinstance(answer, Page) else answer
    except StorageError as error:
        return type(error), str(error).replace(repr(key), "ID")


def random_like(key: int | str) -> int | str:
    if isinstance(key, int):
        return key + 10**12
    return f"{10**12}:1" if ":" in key else f"{key[:4]}{uuid.uuid4().hex}"


async def test_another_tenants_ids_answer_exactly_like_random_ones(database: Database, alice: int, bob: int) -> None:
    async with database.begin(bob) as db:
        ids = await row_of_each(db, bob)
    assert ids.keys() == {spec.name for spec in all_specs()}
    for spec in all_specs():
        for verb, attempt in attempts(spec).items():
            theirs = await outcome(database, alice, attempt, ids[spec.name])
            nobodys = await outcome(database, alice, attempt, random_like(ids[spec.name]))
            assert theirs == nobodys, (spec.name, verb)
    async with store_of(database, bob) as store:
        for spec in all_specs():
            assert await store.get(spec, ids[spec.name]), spec.name
        for spec in all_specs():
            for verb, attempt in attempts(spec).items():
                if verb not in {"remove", "change at a version"}:
                    await attempt(store, ids[spec.name])


async def test_linking_to_another_tenants_row_answers_like_linking_to_none(
    database: Database, alice: int, bob: int
) -> None:
    async with store_of(database, bob) as store:
        theirs = (await store.add(CLIENT, {"name": "Acme"}))["id"]
    answers: list[str] = []
    for client_id in (theirs, 10**12):
        with pytest.raises(EntityConflictError) as caught:
            async with store_of(database, alice) as store:
                await store.add(CARD, {"title": "a", "clientId": client_id})
        answers.append(str(caught.value))
    assert answers[0] == answers[1]
    assert "'clientId'" in answers[0]


async def test_the_store_keeps_to_its_tenant_even_without_row_level_security(
    database: Database, alice: int, bob: int
) -> None:
    async with database.begin(bob) as db:
        card = AgencyTask(user_id=bob, title="bob's")
        db.add(card)
        await db.flush()
        store = EntityStore(db, alice)  # bob's transaction shows bob's rows; the store is told alice
        assert (await store.find(CARD, Query())).items == []
        assert (await store.aggregate(CARD, Aggregate(metric="count"))).items == [{"group": {}, "value": 0}]
        for attempt in (
            lambda: store.get(CARD, card.id),
            lambda: store.change(CARD, card.id, {"title": "x"}),
            lambda: store.remove(CARD, card.id),
            lambda: store.removal_preview(CARD, card.id),
        ):
            with pytest.raises(EntityNotFoundError):
                await attempt()
