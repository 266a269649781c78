"""Describing, finding, getting and counting rows of any entity."""

from typing import Any

import pytest
from mcp import Client

from mcp_server.app import App
from storage.models.crm import AgencyTask, ClientProfile
from storage.registry import all_specs, spec_named
from tests.server.calls import add_card, answer, data, refusal


async def add_client(client: Client, name: str = "Acme Dental") -> int:
    made = await data(client, "entity_create", entity="clientProfiles", data={"name": name})
    return made["item"]["id"]


async def test_describe_names_every_entity_and_what_may_be_done_with_it(client: Client) -> None:
    page, text = await answer(client, "entity_describe")
    assert [item["entity"] for item in page["items"]] == [spec.name for spec in all_specs()]
    assert "agencyTasks | title | find get aggregate create update delete" in text
    assert page["nextCursor"] is None
    assert page["truncated"] is False


async def test_describe_names_the_fields_of_one_entity(client: Client) -> None:
    page = await data(client, "entity_describe", entity="agencyTasks")
    fields = {item["field"]: item for item in page["items"]}
    assert list(fields) == list(spec_named("agencyTasks").readable)
    assert fields["status"]["legal"] == "backlog todo in_progress review done"
    assert fields["status"]["filters"] == "eq ne in is_null"
    assert "write" not in fields["status"]["may"]
    assert fields["title"] == {
        "field": "title",
        "type": "text(500)",
        "filters": "eq ne in is_null contains starts_with",
        "may": "write required sort group",
        "legal": None,
    }
    assert fields["clientId"]["legal"] == "id of clientProfiles"
    assert "clientProfiles" in page["hint"]


async def test_every_entity_can_be_described_found_and_counted(client: Client) -> None:
    for spec in all_specs():
        assert (await data(client, "entity_describe", entity=spec.name))["returned"] == len(spec.readable)
        await data(client, "entity_find", entity=spec.name, fields=list(spec.readable))
        counted = await data(client, "entity_aggregate", entity=spec.name)
        assert list(counted["items"][0]) == ["count"]


@pytest.mark.parametrize("tool", ["entity_describe", "entity_find", "entity_aggregate"])
async def test_an_unknown_entity_is_refused_with_the_known_ones(client: Client, tool: str) -> None:
    words = await refusal(client, tool, entity="tasks")
    assert words.startswith("unknown_entity: no entity 'tasks'; known: agencyTasks, agentDefinitions, ")


async def test_find_filters_orders_and_pages(client: Client) -> None:
    ids = [await add_card(client, title=f"card {n}", priority="high" if n % 2 else "low") for n in range(5)]
    where = [{"field": "priority", "op": "in", "value": ["high"]}]
    page, text = await answer(client, "entity_find", entity="agencyTasks", where=where, limit=1)
    assert [item["id"] for item in page["items"]] == [ids[3]]
    assert page["truncated"] is True
    assert page["nextCursor"] in text
    rest = await data(client, "entity_find", entity="agencyTasks", where=where, limit=1, cursor=page["nextCursor"])
    assert [item["id"] for item in rest["items"]] == [ids[1]]
    assert rest["nextCursor"] is None
    found = await data(client, "entity_find", entity="agencyTasks", text="card 4", fields=["title"], order_by="-title")
    assert found["items"] == [{"id": ids[4], "title": "card 4", "_version": found["items"][0]["_version"]}]


async def test_find_says_so_when_nothing_matches(client: Client) -> None:
    page, text = await answer(client, "entity_find", entity="agencyTasks")
    assert page["items"] == []
    assert page["untrusted"] is False
    assert "Nothing matches" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"where": [{"field": "colour", "value": "red"}]},
            "field_not_allowed: agencyTasks has no readable field 'colour'; readable: id,",
        ),
        ({"fields": ["colour"]}, "field_not_allowed: agencyTasks has no readable field 'colour'"),
        ({"order_by": "-colour"}, "field_not_allowed: agencyTasks has no sortable field 'colour'; sortable: "),
        (
            {"where": [{"field": "status", "op": "like", "value": "x"}]},
            "invalid_filter: where[0]: status has no operator 'like'; legal: eq, ne, in, is_null.",
        ),
        (
            {"where": [{"field": "status", "value": "open"}]},
            "invalid_filter: where[0] (status eq): is 'open'; legal: backlog",
        ),
        ({"where": [{"feld": "status"}]}, "invalid_arguments: where.0: unknown key 'feld'; legal: field, op, value."),
        ({"where": ["status"]}, 'invalid_arguments: where.0: expects an object such as {"field": "status"'),
        ({"limit": 101}, "invalid_arguments: limit: input should be less than or equal to 100."),
        ({"cursor": "x"}, "invalid_filter: this is no cursor of this listing"),
        (
            {"filter": "x"},
            "invalid_arguments: unknown argument 'filter'; legal: entity, where, text, fields, order_by, limit, cursor",
        ),
        ({"entity": 7}, "invalid_arguments: entity: input should be a valid string."),
    ],
)
async def test_a_wrong_question_is_refused_with_what_is_legal(
    client: Client, arguments: dict[str, Any], words: str
) -> None:
    said = await refusal(client, "entity_find", **({"entity": "agencyTasks"} | arguments))
    assert said.startswith(words)
    assert "\n" not in said


async def test_a_missing_argument_is_named(client: Client) -> None:
    said = await refusal(client, "entity_get", entity="agencyTasks")
    assert said == ("invalid_arguments: id: field required. Nothing was done. Correct this and call entity_get again.")


async def test_get_returns_everything_readable_and_what_is_around(client: Client) -> None:
    client_id = await add_client(client)
    card_id = await add_card(client, clientId=client_id, tags=["web"])
    row, text = await answer(client, "entity_get", entity="agencyTasks", id=card_id, include=["clientProfiles"])
    assert row["item"]["title"] == "Fix the page"
    assert row["item"]["tags"] == ["web"]
    assert row["item"].keys() == {*spec_named("agencyTasks").readable, "_version"}
    assert [item["name"] for item in row["included"]["clientProfiles"]] == ["Acme Dental"]
    assert "clientProfiles (1):" in text
    around = await data(client, "entity_get", entity="clientProfiles", id=str(client_id), include=["agencyTasks"])
    assert [item["id"] for item in around["included"]["agencyTasks"]] == [card_id]
    assert around["untrusted"] is True


async def test_a_row_that_staff_wrote_is_not_fenced(client: Client) -> None:
    client_id = await add_client(client)
    row, text = await answer(client, "entity_get", entity="clientProfiles", id=client_id)
    assert row["untrusted"] is False
    assert "untrusted" not in text


async def test_get_refuses_what_is_not_linked(client: Client) -> None:
    card_id = await add_card(client)
    said = await refusal(client, "entity_get", entity="agencyTasks", id=card_id, include=["apiKeys"])
    assert said.startswith(
        "invalid_arguments: include: 'apiKeys' is not linked; legal: agentExecutions, botConversations"
    )


@pytest.mark.parametrize("key", [9, "9", "nine", 10**30, "", "1:2", -1, "\0"])
async def test_an_id_that_does_not_exist_is_not_found(client: Client, key: int | str) -> None:
    said = await refusal(client, "entity_get", entity="agencyTasks", id=key)
    assert said.startswith("not_found: no agencyTasks row ")
    assert said.endswith(". Use entity_find(entity='agencyTasks') to see the ids that exist.")


async def test_aggregate_counts_by_group(client: Client) -> None:
    for priority in ("high", "high", "low"):
        await add_card(client, priority=priority)
    page, text = await answer(client, "entity_aggregate", entity="agencyTasks", group_by=["priority"])
    assert page["items"] == [{"priority": "high", "count": 2}, {"priority": "low", "count": 1}]
    assert "priority | count\nhigh | 2\nlow | 1" in text
    where = [{"field": "priority", "value": "low"}]
    assert (await data(client, "entity_aggregate", entity="agencyTasks", where=where))["items"] == [{"count": 1}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metric": "median"}, "invalid_arguments: metric: input should be 'count', 'sum', 'avg', 'min' or 'max'."),
        ({"metric": "sum", "field": "title"}, "field_not_allowed: agencyTasks has no sum field 'title'; sum: id"),
        ({"metric": "sum"}, "invalid_filter: sum needs a field."),
        ({"group_by": ["description"]}, "field_not_allowed: agencyTasks has no groupable field 'description'"),
    ],
)
async def test_a_figure_that_cannot_be_had_is_refused(client: Client, arguments: dict[str, Any], words: str) -> None:
    assert (await refusal(client, "entity_aggregate", entity="agencyTasks", **arguments)).startswith(words)


async def test_secrets_are_no_fields(client: Client) -> None:
    for entity, field in (("users", "password"), ("apiKeys", "keyHash"), ("userWebhooks", "webhookToken")):
        said = await refusal(client, "entity_find", entity=entity, fields=[field])
        assert said.startswith(f"field_not_allowed: {entity} has no readable field {field!r}")


async def test_a_long_field_is_clipped_in_a_list_and_whole_on_demand(client: Client) -> None:
    words = "landing page " * 1000
    card_id = await add_card(client, description=words)
    page = await data(client, "entity_find", entity="agencyTasks", fields=["description"])
    clipped = page["items"][0]["description"]
    assert clipped == f"{words[:398]}…(+{len(words) - 398} characters, entity_get detail=full)"
    brief = await data(client, "entity_get", entity="agencyTasks", id=card_id)
    assert brief["truncated"] is True
    assert brief["item"]["description"].endswith("entity_get detail=full)")
    full = await data(client, "entity_get", entity="agencyTasks", id=card_id, detail="full")
    assert full["item"]["description"] == words
    assert full["truncated"] is False


async def test_no_answer_exceeds_the_cap_and_no_row_is_lost(app: App, client: Client) -> None:
    nasty = ('\\"' * 300, "\x01\x02" * 400, "ü" * 3000, "line\nline\r\n" * 200, "a|b" * 500, "𝄞" * 900)
    async with app.writing() as db:
        db.add_all(
            AgencyTask(
                user_id=app.user_id,
                title=nasty[n % 6][:500],
                intent=str(n),
                description=nasty[(n + 1) % 6],
                extracted_data={nasty[(n + 2) % 6]: nasty[n % 6]},
            )
            for n in range(300)
        )
    fields = list(spec_named("agencyTasks").readable)
    seen: list[int] = []
    cursor = None
    while True:
        more = {"cursor": cursor} if cursor else {}
        result = await client.call_tool(
            "entity_find", {"entity": "agencyTasks", "fields": fields, "limit": 100, "order_by": "title"} | more
        )
        assert result.structured_content is not None
        assert len(result.model_dump_json(by_alias=True, include={"structured_content"})) <= 20_000
        assert sum(len(getattr(block, "text", "")) for block in result.content) <= 20_000
        seen += [item["id"] for item in result.structured_content["items"]]
        cursor = result.structured_content["nextCursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 300


async def test_a_row_that_is_larger_than_an_answer_is_cut_even_in_full(app: App, client: Client) -> None:
    async with app.writing() as db:
        profile = ClientProfile(user_id=app.user_id, name="x", brand_voice='"' * 300_000, target_audience="y" * 90_000)
        db.add(profile)
    result = await client.call_tool("entity_get", {"entity": "clientProfiles", "id": profile.id, "detail": "full"})
    assert result.structured_content is not None
    assert result.structured_content["truncated"] is True
    assert len(result.model_dump_json(by_alias=True)) <= 2 * 100_000 + 1_000
    assert "characters)" in result.structured_content["item"]["brandVoice"]
