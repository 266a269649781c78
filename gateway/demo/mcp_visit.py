"""The demo's MCP client: the official one, over stdio, with `agency mcp` as its child, as in Claude Desktop."""

import os
from collections.abc import Sequence
from typing import Any, cast

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import TextResourceContents

from gateway.errors import DemoFailedError
from runtime.local import Local
from runtime.ports import Json
from storage.memory import MemoryStore
from storage.queries import board

REMEMBERED = "the demo has run"


async def visit(local: Local, command: Sequence[str], messages: Sequence[Json]) -> Json:
    """Connect, look around, move a card to done, keep a memory; then check both in Postgres.

    Raises:
        DemoFailedError: the server's answers and the rows do not agree.
    """
    server = StdioServerParameters(
        command=command[0],
        args=[*command[1:], "mcp", "--no-worker"],
        env=dict(os.environ),  # noqa: TID251 -- the child is to reach the same database
    )
    done: Json = {}
    card_ids: list[int] = [card["id"] for story in messages for card in story["cards"]]
    async with Client(stdio_client(server)) as client:
        tools = await client.list_tools()
        done["tools"] = len(tools.tools)
        if card_ids:
            card = await _call(client, "entity_get", {"entity": "agencyTasks", "id": str(card_ids[0])})
            done["card"] = {"id": card_ids[0], "title": card["item"]["title"]}
            await _call(client, "task_move", {"id": card_ids[0], "status": "done"})
        execution_ids = [story["execution"]["id"] for story in messages if story["execution"]]
        if execution_ids:
            uri = f"agency://executions/{execution_ids[0]}/transcript"
            contents = (await client.read_resource(uri)).contents
            texts = [content.text for content in contents if isinstance(content, TextResourceContents)]
            done["transcript"] = {"uri": uri, "characters": sum(map(len, texts))}
        await _call(client, "memory_write", {"key": "demo", "value": REMEMBERED})
        recalled = await _call(client, "memory_search", {"text": "demo"})
        done["recalled"] = [item["value"] for item in recalled["items"] if item["key"] == "demo"]
    await _verify(local, card_ids, done)
    return done


async def _call(client: Client, name: str, arguments: Json) -> dict[str, Any]:
    result = await client.call_tool(name, arguments)
    content = cast("dict[str, Any] | None", result.structured_content)  # a JSON object has text keys
    if result.is_error or content is None:
        raise DemoFailedError(f"MCP tool {name} failed: {result.content}")
    return content


async def _verify(local: Local, card_ids: Sequence[int], done: Json) -> None:
    async with local.database.begin(local.user_id, read_only=True) as db:
        memory = await MemoryStore(db, local.user_id).get("user", "demo")
        card = await board.card(db, card_ids[0]) if card_ids else None
    if memory is None or memory.value != REMEMBERED or REMEMBERED not in done["recalled"]:
        raise DemoFailedError("the memory that was written over MCP is not in cf_memory_store")
    if card is not None and card.row.status != "done":
        raise DemoFailedError(f"card {card_ids[0]} was moved to done over MCP and is {card.row.status}")
