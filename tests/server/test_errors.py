"""What a client reads when something goes wrong below the tools, and what it never reads."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Annotated

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, ToolAnnotations
from sqlalchemy import text

from mcp_server.app import App, AppSource, CurrentApp, OpenedApp, hand_on
from mcp_server.results import Receipt, receipt_result
from mcp_server.server import build_server
from mcp_server.tool import contract_tool
from storage.engine import Address
from storage.tenancy import Database
from tests.server.calls import refusal

Serve = Callable[[], AbstractAsyncContextManager[Client]]


async def run_sql(app: CurrentApp, sql: str) -> Annotated[CallToolResult, Receipt]:
    """Run SQL, which no tool of ours does."""
    async with app.writing() as db:
        await db.execute(text(sql))
    return receipt_result("Ran it", {})


@pytest.fixture
def served(app: App) -> Serve:
    """A server with a tool that can make Postgres refuse anything."""

    @asynccontextmanager
    async def serve() -> AsyncGenerator[Client]:
        tool = contract_tool(run_sql, title="Run SQL", annotations=ToolAnnotations(read_only_hint=False))
        server: MCPServer[AppSource] = MCPServer("t", tools=[tool], lifespan=lambda _: hand_on(OpenedApp(app)))
        async with Client(server) as client:
            yield client

    return serve


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT 1/0", "invalid_value: a value cannot be stored as it is. Nothing was changed."),
        ("DO $$ BEGIN RAISE EXCEPTION 'hidden words' USING ERRCODE = '57P01'; END $$", "unavailable: the database is"),
        ("DO $$ BEGIN RAISE EXCEPTION 'hidden words' USING ERRCODE = '08006'; END $$", "unavailable: the connection"),
        ("SELECT 'hidden words' FROM no_such_table", "internal: run_sql failed for a reason of its own."),
        ("DO $$ BEGIN RAISE EXCEPTION 'hidden words' USING ERRCODE = '57014'; END $$", "timeout: the database took"),
        ("DO $$ BEGIN RAISE EXCEPTION 'hidden words' USING ERRCODE = '40P01'; END $$", "conflict: another change got"),
        ("DO $$ BEGIN RAISE EXCEPTION 'hidden words' USING ERRCODE = '55P03'; END $$", "conflict: another change of"),
        ("DO $$ BEGIN RAISE EXCEPTION 'hidden words' USING ERRCODE = '53300'; END $$", "unavailable: the database is"),
    ],
)
async def test_what_postgres_refuses_is_said_without_its_words(served: Serve, sql: str, words: str) -> None:
    async with served() as client:
        said = await refusal(client, "run_sql", sql=sql)
    assert said.startswith(words)
    assert "hidden words" not in said
    assert "SELECT" not in said


async def test_a_database_that_went_away_is_unavailable(app: App) -> None:
    gone = Database(Address(dsn="postgresql://x@127.0.0.1:1/x", direct_dsn="", pooled=False))
    async with Client(build_server(OpenedApp(replace(app, database=gone)))) as client:
        said = await refusal(client, "task_board")
    await gone.close()
    assert said.startswith("unavailable: no PostgreSQL answers at 127.0.0.1:1/x")


async def test_an_unknown_tool_is_an_error(client: Client) -> None:
    assert await refusal(client, "no_such_tool") == "Unknown tool: no_such_tool"
