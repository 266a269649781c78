"""Another tenant's ids answer exactly like random ids, through every tool and resource."""

from typing import Any

import pytest
from mcp import Client, MCPError

from mcp_server.surface import TABLE
from tests.server.calls import add_card, data, text_of

NOBODY = 987654


async def said(client: Client, tool: str, arguments: dict[str, Any]) -> str:
    return text_of(await client.call_tool(tool, arguments))


ASKS_FOR_AN_ID: dict[str, tuple[str, dict[str, Any]]] = {
    "entity_get": ("agencyTasks", {"entity": "agencyTasks", "id": ...}),
    "entity_update": ("agencyTasks", {"entity": "agencyTasks", "id": ..., "patch": {"title": "mine"}}),
    "entity_delete": ("agencyTasks", {"entity": "agencyTasks", "id": ...}),
    "task_move": ("agencyTasks", {"id": ..., "status": "done"}),
    "agent_run": ("agentSessions", {"task": "x", "session_id": ...}),
    "agent_run_status": ("agentExecutions", {"id": ...}),
    "agent_run_cancel": ("agentExecutions", {"id": ...}),
    "agent_run_reply": ("agentExecutions", {"id": ..., "text": "x"}),
    "entity_create": ("clientProfiles", {"entity": "agencyTasks", "data": {"title": "x", "clientId": ...}}),
}

ASKS_FOR_A_LIST: dict[str, dict[str, Any]] = {
    "entity_find": {"entity": "agencyTasks"},
    "entity_aggregate": {"entity": "agencyTasks", "group_by": ["title"]},
    "activity_report": {},
    "memory_search": {"text": "hers"},
    "task_board": {},
}

TELLS_NOTHING = {"entity_describe", "memory_write"}


def test_every_tool_is_tried() -> None:
    assert {line.function.__name__ for line in TABLE} == {*ASKS_FOR_AN_ID, *ASKS_FOR_A_LIST, *TELLS_NOTHING}


async def hers(client: Client) -> dict[str, int]:
    """Make a row of each kind for alice and return their ids."""
    profile = await data(client, "entity_create", entity="clientProfiles", data={"name": "hers"})
    run = await data(client, "agent_run", task="hers")
    await data(client, "memory_write", key="k", value="hers")
    return {
        "agencyTasks": await add_card(client, title="hers"),
        "clientProfiles": profile["item"]["id"],
        "agentExecutions": run["item"]["id"],
        "agentSessions": run["item"]["sessionId"],
    }


def with_id(arguments: Any, key: int) -> Any:
    if isinstance(arguments, dict):
        return {name: with_id(value, key) for name, value in arguments.items()}  # pyright: ignore[reportUnknownVariableType] -- JSON
    return key if arguments is ... else arguments


async def test_an_id_of_another_tenant_is_an_id_of_nobody(client: Client, bobs_client: Client) -> None:
    ids = await hers(client)
    for tool, (entity, arguments) in ASKS_FOR_AN_ID.items():
        key = ids[entity]
        about_hers = await said(bobs_client, tool, with_id(arguments, key))
        about_nobody = await said(bobs_client, tool, with_id(arguments, NOBODY))
        assert about_hers.replace(str(key), "#") == about_nobody.replace(str(NOBODY), "#"), tool
        assert about_hers.startswith(("not_found: ", "conflict: ")), tool
    board = await data(client, "task_board")
    assert [(card["title"], card["status"]) for card in board["items"]] == [("hers", "backlog")]


async def test_lists_show_the_rows_of_their_own_tenant_only(client: Client, bobs_client: Client) -> None:
    await hers(client)
    for tool, arguments in ASKS_FOR_A_LIST.items():
        assert (await data(bobs_client, tool, **arguments))["items"] == [], tool
        assert (await data(client, tool, **arguments))["items"], tool


async def test_the_same_key_of_two_tenants_is_two_keys(client: Client, bobs_client: Client) -> None:
    call: dict[str, Any] = {"task": "x", "idempotency_key": "k"}
    assert (await data(client, "agent_run", **call))["item"] != (await data(bobs_client, "agent_run", **call))["item"]


@pytest.mark.parametrize("uri", ["agency://agencyTasks/{}", "agency://executions/{}/transcript"])
async def test_a_resource_of_another_tenant_is_a_resource_of_nobody(
    client: Client, bobs_client: Client, uri: str
) -> None:
    ids = await hers(client)
    key = ids["agencyTasks" if "Tasks" in uri else "agentExecutions"]
    with pytest.raises(MCPError) as about_hers:
        await bobs_client.read_resource(uri.format(key))
    with pytest.raises(MCPError) as about_nobody:
        await bobs_client.read_resource(uri.format(NOBODY))
    assert str(about_hers.value).replace(str(key), "#") == str(about_nobody.value).replace(str(NOBODY), "#")
    assert await client.read_resource(uri.format(key))
