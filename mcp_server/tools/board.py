"""The board of cards."""

from typing import Annotated

from mcp_types import CallToolResult
from pydantic import Field

from mcp_server.app import CurrentApp
from mcp_server.parameters import Limit, Number
from mcp_server.results import Page, Receipt, page_result, receipt_result
from mcp_server.verbs import perform_verb
from storage.models.crm import CardPriority, CardStatus


async def task_board(
    app: CurrentApp,
    text: Annotated[str | None, Field(max_length=500, description="Words in title or description.")] = None,
    status: CardStatus | None = None,
    priority: CardPriority | None = None,
    client: Annotated[str | None, Field(max_length=255, description="Name of the client.")] = None,
    limit: Limit = 50,
) -> Annotated[CallToolResult, Page]:
    """Show the board: cards with status, priority, due date and client, open ones first, then by due date.

    Use it to see what is to be done; entity_get(entity='agencyTasks') has a card's details. An unknown client has no
    cards.
    """
    found = await perform_verb(
        app, "task_board", text=text, status=status, priority=priority, client=client, limit=limit
    )
    is_full = found["returned"] == limit
    hint = "There may be more: narrow it, or use entity_find(entity='agencyTasks') with a cursor." if is_full else None
    if not found["items"]:
        hint = found.get("note") or "No card matches."
    return page_result(found["items"], truncated=is_full, hint=hint, untrusted=True)


async def task_move(
    app: CurrentApp,
    id: Annotated[Number, Field(description="The card's id.")],  # noqa: A002 -- the wire's name of the key
    status: CardStatus,
) -> Annotated[CallToolResult, Receipt]:
    """Move one card to another column of the board; done also records when.

    Use entity_update for its other fields. Fails when there is no such card.
    """
    card = await perform_verb(app, "task_move", id=id, status=status)
    item = {name: card[name] for name in ("id", "status", "priority", "dueDate")}
    return receipt_result(f"Moved card {card['id']} to {card['status']}", item)
