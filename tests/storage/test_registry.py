"""The registry of entities: complete, checked against the columns, and shut where it must be."""

import pytest
from pydantic import ValidationError

from storage.base import Base
from storage.entity_inputs import create_model_for, patch_model_for
from storage.errors import FieldNotAllowedError, UnknownEntityError
from storage.models.crm import AgencyTask, Document
from storage.models.identity import User
from storage.models.messaging import InboundMessage
from storage.policy import NOT_ENTITIES, POLICIES, RULES, Policy
from storage.registry import EntitySpec, all_specs, build_spec, spec_named, spec_of
from storage.tenancy import Database

VERBS = ("creates", "changes", "removes")


def test_every_table_is_an_entity_or_says_why_it_is_none() -> None:
    assert {*POLICIES, *NOT_ENTITIES} == set(Base.metadata.tables)
    assert not POLICIES.keys() & NOT_ENTITIES.keys()
    assert [spec.name for spec in all_specs()] == sorted(POLICIES)


def test_a_model_and_a_name_lead_to_the_same_entity() -> None:
    assert spec_of(AgencyTask) is spec_named("agencyTasks")
    assert spec_of(AgencyTask).model is AgencyTask


def test_an_unknown_name_is_answered_with_all_known_ones() -> None:
    with pytest.raises(UnknownEntityError) as caught:
        spec_named("sessions")
    assert caught.value.known == tuple(sorted(POLICIES))


@pytest.mark.parametrize("column", ["nope", "client_id", 'title"; DROP TABLE users; --'])
def test_a_policy_with_a_column_that_does_not_exist_fails_at_once(column: str) -> None:
    for policy in (
        Policy(label=column, shown=()),
        Policy(label="title", shown=(column,)),
        Policy(label="title", shown=(), writable=(column,)),
        Policy(label="title", shown=(), redacted=(column,)),
    ):
        with pytest.raises(TypeError, match="do not exist"):
            build_spec(AgencyTask, policy)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(label="title", shown=(), writable=("id",)),
        Policy(label="title", shown=(), writable=("userId",)),
        Policy(label="title", shown=(), writable=("searchVector",)),
        Policy(label="title", shown=("status",), redacted=("status",)),
        Policy(label="title", shown=(), redacted=("title",)),
        Policy(label="title", shown=(), redacted=("id",)),
        Policy(label="title", shown=(), writable=("status",), redacted=("status",)),
    ],
)
def test_a_policy_cannot_open_keys_owners_or_secrets(policy: Policy) -> None:
    with pytest.raises(TypeError, match="opens"):
        build_spec(AgencyTask, policy)


def test_rows_cannot_be_created_without_a_column_that_has_no_default() -> None:
    with pytest.raises(TypeError, match="s3Key"):
        build_spec(Document, Policy(label="filename", shown=(), writable=("filename",), creates=True))


@pytest.mark.parametrize(
    ("entity", "secret"),
    [
        ("users", "password"),
        ("apiKeys", "keyHash"),
        ("userWebhooks", "webhookToken"),
        ("userWebhooks", "config"),
        ("inboundMessages", "rawBody"),
        ("browserSessions", "connectUrl"),
        ("agencyTasks", "searchVector"),
    ],
)
def test_a_secret_cannot_be_named_for_any_use(entity: str, secret: str) -> None:
    spec = spec_named(entity)
    for use in ("readable", "writable", "sortable", "groupable"):
        with pytest.raises(FieldNotAllowedError) as caught:
            spec.field(secret, use)
        assert secret not in caught.value.legal
    assert secret not in spec.fields


@pytest.mark.parametrize(
    ("entity", "columns"),
    [
        ("agencyTasks", {"status", "completedAt", "intent", "conversationId", "webhookId", "executionId"}),
        ("user_credits", {"balance", "totalPurchased", "totalUsed"}),
        ("userWebhooks", {"messageCount", "lastMessageAt", "type"}),
        ("knowledgeEntries", {"usageCount"}),
        ("documents", {"s3Key", "size"}),
        ("users", {"username", "email", "role", "stripeCustomerId", "subscriptionStatus"}),
        ("generatedProjects", {"status"}),
    ],
)
def test_a_column_with_a_rule_is_not_writable(entity: str, columns: set[str]) -> None:
    assert columns <= set(spec_named(entity).readable)
    assert not columns & set(spec_named(entity).writable)


@pytest.mark.parametrize(
    "entity",
    [
        "agentExecutions",
        "agentSessions",
        "agentSteps",
        "auditLogs",
        "cf_memory_store",
        "cf_tasks",
        "inboundMessages",
        "outboundMessages",
        "toolExecutions",
        "user_credits",
    ],
)
def test_what_machinery_owns_is_read_only(entity: str) -> None:
    spec = spec_named(entity)
    assert not any((spec.creates, spec.changes, spec.removes))


def test_every_check_on_a_writable_column_has_words() -> None:
    for spec in all_specs():
        closed = {f"ck_{spec.name}_{name}" for name, field in spec.fields.items() if field.choices}
        named = {str(check.name) for check in spec.table.constraints if str(check.name).startswith("ck_")}
        guarded = {name for name in named - closed if name.removeprefix(f"ck_{spec.name}_") in spec.writable}
        assert guarded <= RULES.keys()


async def test_the_role_may_do_what_the_registry_offers(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        connection = await db.connection()
        for spec in all_specs():
            for privilege, offered in (("INSERT", spec.creates), ("DELETE", spec.removes), ("SELECT", True)):
                held = await connection.exec_driver_sql(f"SELECT has_table_privilege('\"{spec.name}\"', '{privilege}')")
                assert held.scalar_one() or not offered, (spec.name, privilege)
            for column in spec.writable:
                held = await connection.exec_driver_sql(
                    f"SELECT has_column_privilege('\"{spec.name}\"', '{column}', 'UPDATE')"
                )
                assert held.scalar_one(), (spec.name, column)


def test_fields_know_their_lists_limits_and_targets() -> None:
    fields = spec_of(AgencyTask).fields
    assert fields["priority"].choices == ("low", "medium", "high", "urgent")
    assert fields["title"].max_length == 500
    assert fields["title"].required
    assert not fields["status"].required
    assert fields["clientId"].references == "clientProfiles"
    assert fields["clientId"].high == 2**63 - 1
    assert fields["tags"].shape == "list"
    assert fields["extractedData"].shape == "object"
    assert "contains" in fields["tags"].operators
    assert "contains" not in spec_named("agentSteps").fields["body"].operators
    assert "starts_with" not in fields["priority"].operators


@pytest.mark.parametrize("spec", [spec for spec in all_specs() if spec.changes], ids=lambda spec: spec.name)
def test_input_models_have_the_columns_names_and_nothing_else(spec: EntitySpec[Base]) -> None:
    created = create_model_for(spec).model_json_schema(by_alias=True)
    patched = patch_model_for(spec).model_json_schema(by_alias=True)
    assert tuple(created["properties"]) == tuple(patched["properties"]) == spec.writable
    assert created.get("required", []) == [name for name in spec.writable if spec.fields[name].required]
    assert "required" not in patched
    assert created["additionalProperties"] is patched["additionalProperties"] is False
    assert all("default" not in entry for entry in patched["properties"].values())


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"title": "a", "status": "done"},
        {"title": "a" * 501},
        {"title": None},
        {"title": "a", "priority": "highest"},
        {"title": "a", "clientId": "12"},
        {"title": "a", "clientId": 2**63},
        {"title": "a", "tags": {}},
        {"title": "a", "dueDate": "2026-11-20T09:00:00"},
    ],
)
def test_the_input_model_refuses_what_the_columns_refuse(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        create_model_for(spec_of(AgencyTask)).model_validate(wrong)


def test_an_input_gives_back_only_what_was_sent_under_the_columns_names() -> None:
    spec = build_spec(InboundMessage, Policy(label="body", shown=(), writable=("from", "to", "body")))
    given = patch_model_for(spec).model_validate({"from": "+49", "body": None})
    assert given.model_dump(by_alias=True, exclude_unset=True) == {"from": "+49", "body": None}


def test_keys_of_the_swarm_tables_are_ours_to_make() -> None:
    prefixes = {spec.name: spec.id_prefix for spec in all_specs() if spec.key[0].type.python_type is str}
    assert all(prefixes.values())
    assert len(set(prefixes.values())) == len(prefixes)


def test_the_owner_of_users_is_the_row_itself() -> None:
    assert spec_of(User).owner is spec_of(User).key[0]
