"""What tests say to the server, and what they make of its answers."""

from typing import Any

from mcp import Client
from mcp_types import CallToolResult, TextContent
from sqlalchemy import text

from storage.tenancy import Database


def text_of(result: CallToolResult) -> str:
    """Return the text part of an answer."""
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def answer(client: Client, tool: str, /, **arguments: Any) -> tuple[dict[str, Any], str]:
    """Call a tool that must succeed; return its structured content and its text."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    assert result.structured_content is not None
    return result.structured_content, text_of(result)


async def data(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """Call a tool that must succeed; return its structured content."""
    return (await answer(client, tool, **arguments))[0]


async def refusal(client: Client, tool: str, /, **arguments: Any) -> str:
    """Call a tool that must refuse; return its words."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, text_of(result)
    return text_of(result)


async def rows(database: Database, user_id: int, query: str, **values: Any) -> list[tuple[Any, ...]]:
    """Return what a query finds as this tenant."""
    async with database.begin(user_id, read_only=True) as db:
        return [tuple(row) for row in await db.execute(text(query), values)]


async def add_card(client: Client, **fields: Any) -> int:
    """Create a card and return its id."""
    made = await data(client, "entity_create", entity="agencyTasks", data={"title": "Fix the page"} | fields)
    return made["item"]["id"]
