"""What a client sees before it calls anything: names, order, hints, schemas, and what they cost."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import Tool
from sqlalchemy import text

from mcp_server.app import App, OpenedApp, OpeningApp
from mcp_server.errors import UnknownToolsetError
from mcp_server.server import build_server
from mcp_server.surface import TABLE, TOOLSETS
from mcp_server.verbs import VERBS
from storage.errors import DatabaseUnavailableError
from tests.server.calls import data, refusal

ALL = [line.function.__name__ for line in TABLE]

WRITERS = {
    "entity_create",
    "entity_update",
    "entity_delete",
    "agent_run",
    "agent_run_cancel",
    "agent_run_reply",
    "memory_write",
    "task_move",
}


@asynccontextmanager
async def down() -> AsyncGenerator[App]:
    """An app whose database does not answer."""
    raise DatabaseUnavailableError("localhost:1/agency", "connection refused")
    yield


async def tools_of(server: Any) -> list[Tool]:
    async with Client(server) as client:
        return (await client.list_tools()).tools


async def test_tools_are_listed_without_a_database() -> None:
    tools = await tools_of(build_server(OpeningApp(down)))
    assert [tool.name for tool in tools] == ALL
    assert ALL[:5] == ["entity_describe", "entity_find", "entity_get", "entity_aggregate", "activity_report"]


async def test_every_tool_says_what_it_is_and_what_to_expect_of_it() -> None:
    for tool in await tools_of(build_server(OpeningApp(down))):
        assert re.fullmatch("[a-z_]{1,40}", tool.name)
        assert tool.title
        assert tool.description
        assert "  " not in tool.description
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (tool.name not in WRITERS)
        assert tool.annotations.open_world_hint is tool.name.startswith("agent_run")
        if tool.name in WRITERS:
            assert tool.annotations.destructive_hint is (
                tool.name not in {"entity_create", "agent_run", "agent_run_reply"}
            )
            assert tool.annotations.idempotent_hint is (
                tool.name not in {"entity_create", "agent_run", "agent_run_reply"}
            )


async def test_no_schema_mentions_the_caller() -> None:
    for tool in await tools_of(build_server(OpeningApp(down))):
        assert {"app", "user_id", "ctx"}.isdisjoint(tool.input_schema["properties"])


async def test_the_list_of_tools_costs_less_than_five_thousand_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    tools = await tools_of(build_server(OpeningApp(down)))
    sizes = {tool.name: len(tool.model_dump_json(by_alias=True, exclude_none=True)) for tool in tools}
    tokens = sum(sizes.values()) // 4
    with capsys.disabled():
        print(f"tools/list: {len(tools)} tools, {tokens} tokens")  # noqa: T201 -- the figure is asked for
    assert tokens <= 5_000


async def test_read_only_mode_leaves_the_tools_that_read(app: App) -> None:
    async with Client(build_server(OpenedApp(app), read_only=True)) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == [name for name in ALL if name not in WRITERS]
        result = await client.call_tool("entity_create", {"entity": "agencyTasks", "data": {"title": "x"}})
        assert result.is_error
        assert (await data(client, "task_board"))["returned"] == 0


async def test_reading_transactions_cannot_write(app: App) -> None:
    async with app.reading() as db:
        assert (await db.execute(text("SHOW transaction_read_only"))).scalar_one() == "on"


@pytest.mark.parametrize("toolset", TOOLSETS)
async def test_a_toolset_leaves_its_tools_only(toolset: str) -> None:
    tools = await tools_of(build_server(OpeningApp(down), toolsets=[toolset]))
    assert [tool.name for tool in tools] == [line.function.__name__ for line in TABLE if line.toolset == toolset]
    assert tools


async def test_an_unknown_toolset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownToolsetError) as refused:
        build_server(OpeningApp(down), toolsets=["core", "cores"])
    assert refused.value.names == ("cores",)
    assert refused.value.known == TOOLSETS


async def test_every_verb_is_a_tool() -> None:
    assert set(VERBS) <= set(ALL)


async def test_a_call_without_a_database_says_what_to_do() -> None:
    source = OpeningApp(down, retry_s=60)
    words = ""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.run)
        async with Client(build_server(source)) as client:
            words = await refusal(client, "task_board")
        source.close()
    assert words.startswith("unavailable: no PostgreSQL answers at localhost:1/agency: connection refused")
    assert words.endswith("Nothing was done. Call again in a few seconds; if it stays so, tell the user.")


async def test_a_call_during_a_long_start_is_answered_in_time() -> None:
    async with Client(build_server(OpeningApp(down, patience_s=0.01))) as client:
        assert (await refusal(client, "task_board")).startswith("unavailable: the database is still starting.")


async def test_a_call_waits_for_the_database_to_open(app: App) -> None:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[App]:
        yield app

    source = OpeningApp(opened)
    async with anyio.create_task_group() as tasks, Client(build_server(source)) as client:
        answers: list[dict[str, Any]] = []

        async def ask() -> None:
            answers.append(await data(client, "task_board"))

        async with anyio.create_task_group() as asking:
            asking.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert answers == []
            tasks.start_soon(source.run)
        assert answers[0]["returned"] == 0
        source.close()
