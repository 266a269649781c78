"""Operations on the board: cards and clients."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from runtime.errors import ToolError
from runtime.labels import Tier
from runtime.operation import Context, operation
from runtime.operations.visibility import STAFF_ONLY, Scope, marks, public_list, saw_cards, viewer
from runtime.ports import Json
from storage.models.crm import CardPriority, CardStatus, ClientProfile
from storage.queries import board

Title = Annotated[
    str, Field(min_length=1, max_length=500, description="What is to be done, without deadline and urgency.")
]


def _no_bare_number(value: object) -> object:
    """Refuse digits alone, which pydantic would take for seconds since 1970."""
    if isinstance(value, int | float) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit()):
        message = "give YYYY-MM-DD or an ISO date-time with offset"
        raise ValueError(message)
    return value


Due = Annotated[
    date | datetime | None,
    BeforeValidator(_no_bare_number),
    Field(
        description="Deadline: YYYY-MM-DD (end of that day in the user's time zone) or an ISO date-time with offset.",
    ),
]
ClientName = Annotated[str | None, Field(max_length=255, description="Name of the agency's client the work is for.")]
CardId = Annotated[int, Field(ge=1, description="Id of the card.")]


def due_instant(due: date | datetime | None, ctx: Context) -> datetime | None:
    """Return the instant that a deadline means: a bare date ends at 23:59:59 in the user's zone."""
    if due is None:
        return None
    if isinstance(due, datetime):
        return (due if due.tzinfo else due.replace(tzinfo=ctx.zone)).astimezone(UTC)
    return datetime.combine(due, time(23, 59, 59), tzinfo=ctx.zone).astimezone(UTC)


def slug(words: str) -> str:
    """Return `words` as a slug of at most 100 characters."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:100] or "general"


def card_view(card: board.Card, ctx: Context) -> Json:
    """Return a card as models and clients see it; the due date is in the user's zone."""
    row = card.row
    return {
        "id": row.id,
        "title": row.title,
        "status": row.status,
        "priority": row.priority,
        "dueDate": None if row.due_date is None else row.due_date.astimezone(ctx.zone).isoformat(),
        "client": card.client_name,
    }


async def _client_id(ctx: Context, name: str | None) -> tuple[int | None, str | None]:
    """Return the client's id, and what to note when the agency has no such client, or a participant may not know."""
    if not name:
        return None, None
    client = await board.client_named(ctx.db, name)
    if client is None or "name" not in await _shown_fields(ctx, client):
        return None, f"unknown client {name!r}"
    return client.id, None


async def _shown_fields(ctx: Context, client: ClientProfile, scope: str | None = None) -> Sequence[str]:
    """Return what may be told of a client; a participant knows the name of their own."""
    if ctx.conversation is None or scope is not None:
        return tuple(_CLIENT_FIELDS)
    shown = (await public_list(ctx)).client_fields
    return ("name", *shown) if client.id == ctx.conversation.client_id else shown


_CLIENT_FIELDS: Mapping[str, Callable[[ClientProfile], str | None]] = MappingProxyType(
    {
        "name": lambda client: client.name,
        "industry": lambda client: client.industry,
        "website": lambda client: client.website,
        "brandVoice": lambda client: client.brand_voice,
        "targetAudience": lambda client: client.target_audience,
    }
)
"""What can be told of a client, by the names that the owner's public list uses."""


@operation(effect="db", tier=Tier.T2)
async def create_task(
    ctx: Context,
    title: Title,
    intent: Annotated[
        str | None, Field(max_length=100, description="Short slug of what is wanted; another wish, another slug.")
    ] = None,
    description: Annotated[str | None, Field(max_length=20_000, description="Details worth keeping.")] = None,
    priority: Annotated[CardPriority, Field(description="urgent only if the person said so.")] = "medium",
    due: Due = None,
    client: ClientName = None,
    tags: Annotated[list[str] | None, Field(max_length=20, description="Free labels.")] = None,
    task_type: Annotated[str | None, Field(max_length=50, description="Category, e.g. design.")] = None,
) -> Json:
    """Put a card on the agency's board and return it.

    Use it when somebody asks for work to be done. In a conversation there is one open card per intent: the same intent
    again updates that card. An unknown client is kept as text and noted, never invented.
    """
    client_id, note = await _client_id(ctx, client)
    extracted: dict[str, Any] = {"client": client} if client else {}
    if due is not None:
        extracted["due"] = due.isoformat()
    conversation = ctx.conversation
    card_id, created = await board.put_card(
        ctx.db,
        board.NewCard(
            user_id=ctx.user_id,
            title=title,
            intent=slug(intent or title),
            description=description,
            priority=priority,
            due_date=due_instant(due, ctx),
            client_id=client_id,
            task_type=task_type,
            tags=tags or (),
            extracted_data=extracted | marks(ctx),
            webhook_id=conversation.webhook_id if conversation else None,
            conversation_id=conversation.id if conversation else None,
            execution_id=ctx.execution_id,
        ),
    )
    view = card_view(await board.card(ctx.db, card_id), ctx) | {"created": created}
    return view | {"note": note} if note else view


@operation(effect="db", tier=Tier.T2)
async def update_task(
    ctx: Context,
    id: CardId,  # noqa: A002 -- the wire name of the key
    title: Annotated[str | None, Field(min_length=1, max_length=500, description="New title.")] = None,
    description: Annotated[str | None, Field(max_length=20_000, description="New details.")] = None,
    status: Annotated[CardStatus | None, Field(description="Column of the board to move to.")] = None,
    priority: Annotated[CardPriority | None, Field(description="New priority.")] = None,
    due: Due = None,
    client: ClientName = None,
) -> Json:
    """Change or move one card and return it. What is not given stays as it is. Fails if there is no such card.

    In a conversation only that participant's cards can be changed.
    """
    seen_by = viewer(ctx)
    if seen_by is not None:
        await board.card_of(ctx.db, id, seen_by)
    client_id, note = await _client_id(ctx, client)
    given = {
        "title": title,
        "description": description,
        "status": status,
        "priority": priority,
        "due_date": due_instant(due, ctx),
        "client_id": client_id,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise ToolError(
            note or "nothing to change: give at least one of title, description, status, priority, due, client"
        )
    if marked := marks(ctx):
        changes["extracted_data"] = marked
    await board.change_card(ctx.db, id, changes)
    changed = await board.card(ctx.db, id)
    saw_cards(ctx, [changed], seen_by)
    view = card_view(changed, ctx)
    return view | {"note": note} if note else view


@operation(effect="none", tier=Tier.T0)
async def find_tasks(
    ctx: Context,
    text: Annotated[str | None, Field(max_length=500, description="Words in title or description.")] = None,
    status: Annotated[CardStatus | None, Field(description="Only this column.")] = None,
    priority: Annotated[CardPriority | None, Field(description="Only this priority.")] = None,
    client: ClientName = None,
    limit: Annotated[int, Field(ge=1, le=100, description="At most this many.")] = 20,
    scope: Scope = None,
) -> Json:
    """Find cards on the board: open ones first, then by due date. In a conversation, only that participant's cards."""
    seen_by = viewer(ctx, scope)
    saw_cards(ctx, [], seen_by)
    client_id, note = await _client_id(ctx, client)
    if note:
        return {"items": [], "returned": 0, "note": note}
    which = board.CardFilter(
        text=text,
        status=status,
        priority=priority,
        client_id=client_id,
        seen_by=seen_by,
        limit=limit,
    )
    found = await board.cards(ctx.db, which)
    saw_cards(ctx, found, seen_by)
    items = [card_view(card, ctx) for card in found]
    return {"items": items, "returned": len(items)}


@operation(effect="none", tier=Tier.T0)
async def get_client(
    ctx: Context,
    name: Annotated[str, Field(min_length=1, max_length=255, description="The client's name.")],
    scope: Scope = None,
) -> Json:
    """Return one client of the agency; in a conversation what participants may know of it, such as its website."""
    if viewer(ctx, scope) is None:
        ctx.saw(STAFF_ONLY)
    client = await board.client_named(ctx.db, name)
    shown = () if client is None else await _shown_fields(ctx, client, scope)
    if client is None or "name" not in shown:
        raise ToolError(f"the agency has no client {name!r}; leave the client out or ask for the right name")
    return {"id": client.id} | {field: tell(client) for field, tell in _CLIENT_FIELDS.items() if field in shown}
