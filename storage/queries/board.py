"""The board: cards, and the clients they are for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Select, func, literal_column, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from storage.base import JsonObject
from storage.errors import EntityNotFoundError
from storage.models.crm import AgencyTask, CardPriority, CardStatus, ClientProfile
from storage.models.messaging import BotConversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A card together with the name of its client."""

    row: AgencyTask
    client_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCard:
    """What a card is made from."""

    user_id: int
    title: str
    intent: str
    description: str | None = None
    priority: CardPriority = "medium"
    due_date: datetime | None = None
    client_id: int | None = None
    task_type: str | None = None
    tags: Sequence[str] = ()
    extracted_data: JsonObject = field(default_factory=dict[str, Any])
    webhook_id: int | None = None
    conversation_id: int | None = None
    execution_id: int | None = None


async def client_named(db: AsyncSession, name: str) -> ClientProfile | None:
    """Return the client with this name, in any case; the oldest when there are several."""
    wanted = func.lower(ClientProfile.name) == name.strip().lower()
    return await db.scalar(select(ClientProfile).where(wanted).order_by(ClientProfile.id).limit(1))


async def put_card(db: AsyncSession, new: NewCard) -> tuple[int, bool]:
    """Insert the card, or update the open card that this conversation already has for this intent.

    Returns its id and whether it is new. Outside a conversation a card is always new.
    """
    values: dict[Any, Any] = {
        AgencyTask.user_id: new.user_id,
        AgencyTask.title: new.title,
        AgencyTask.intent: new.intent,
        AgencyTask.description: new.description,
        AgencyTask.priority: new.priority,
        AgencyTask.due_date: new.due_date,
        AgencyTask.client_id: new.client_id,
        AgencyTask.task_type: new.task_type,
        AgencyTask.tags: list(new.tags),
        AgencyTask.extracted_data: dict(new.extracted_data),
        AgencyTask.webhook_id: new.webhook_id,
        AgencyTask.conversation_id: new.conversation_id,
        AgencyTask.execution_id: new.execution_id,
    }
    statement = insert(AgencyTask).values(values)
    columns = ("title", "description", "priority", "dueDate", "clientId", "tags", "extractedData")
    changed = {name: statement.excluded[name] for name in columns}
    upsert = statement.on_conflict_do_update(
        index_elements=["userId", "conversationId", "intent"],
        # Spelled out: as a parameter it would not match the partial index once Postgres plans generically.
        index_where=text("status <> 'done'"),
        set_={**changed, "updatedAt": func.now()},
    )
    # A row that was just inserted has no updating transaction: its xmax is 0.
    is_new = literal_column('"agencyTasks".xmax = 0', Boolean)
    row = (await db.execute(upsert.returning(AgencyTask.id, is_new))).one()
    return row[0], row[1]


def _cards() -> Select[AgencyTask, str]:
    link = (ClientProfile.id == AgencyTask.client_id) & (ClientProfile.user_id == AgencyTask.user_id)
    return select(AgencyTask, ClientProfile.name).outerjoin(ClientProfile, link)


async def card(db: AsyncSession, card_id: int) -> Card:
    """Return one card.

    Raises:
        EntityNotFoundError: no such card for this tenant.
    """
    row = (await db.execute(_cards().where(AgencyTask.id == card_id))).one_or_none()
    if row is None:
        raise EntityNotFoundError("agencyTasks", card_id)
    return Card(row=row[0], client_name=row[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """The participant of a conversation, who speaks for a client if a person has said so."""

    conversation_id: int
    client_id: int | None = None


def _linked_to(viewer: Viewer) -> ColumnElement[bool]:
    """Select the cards of the conversation, and those of the client that no stranger has put there.

    Anybody may name a client in a chat, so the client of a card counts only if the agency made the card, or a
    conversation that itself belongs to the client.
    """
    here = AgencyTask.conversation_id == viewer.conversation_id
    if viewer.client_id is None:
        return here
    of_client = BotConversation.context["clientId"].astext == str(viewer.client_id)
    known = select(BotConversation.id).where(of_client)
    is_theirs = or_(AgencyTask.conversation_id.is_(None), AgencyTask.conversation_id.in_(known))
    return or_(here, (AgencyTask.client_id == viewer.client_id) & is_theirs)


_IS_KEPT_BACK = AgencyTask.extracted_data["confidentiality"].astext == "tenant"


async def card_of(db: AsyncSession, card_id: int, viewer: Viewer) -> Card:
    """Return one card of a participant, even if it is kept back from them.

    Raises:
        EntityNotFoundError: no such card, or it is not theirs.
    """
    row = (await db.execute(_cards().where(AgencyTask.id == card_id, _linked_to(viewer)))).one_or_none()
    if row is None:
        raise EntityNotFoundError("agencyTasks", card_id)
    return Card(row=row[0], client_name=row[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFilter:
    """Which cards; a field that is None does not restrict."""

    text: str | None = None
    status: CardStatus | None = None
    priority: CardPriority | None = None
    client_id: int | None = None
    seen_by: Viewer | None = None
    limit: int = 20


async def cards(db: AsyncSession, which: CardFilter) -> list[Card]:
    """Return the matching cards: open ones first, then by due date, then the newest."""
    statement = _cards().order_by((AgencyTask.status == "done"), AgencyTask.due_date.nulls_last(), AgencyTask.id.desc())
    if which.text:
        words = func.websearch_to_tsquery("simple", which.text)
        statement = statement.where(AgencyTask.search_vector.op("@@")(words))
    equals = (
        (AgencyTask.status, which.status),
        (AgencyTask.priority, which.priority),
        (AgencyTask.client_id, which.client_id),
    )
    for column, value in equals:
        if value is not None:
            statement = statement.where(column == value)
    if which.seen_by is not None:
        statement = statement.where(_linked_to(which.seen_by), _IS_KEPT_BACK.is_not(True))
    rows = await db.execute(statement.limit(which.limit))
    return [Card(row=row[0], client_name=row[1]) for row in rows]


async def change_card(db: AsyncSession, card_id: int, changes: dict[str, Any]) -> None:
    """Set these attributes (Python names) of a card; a card that moves to done gets its time of completion.

    `extracted_data` is merged into what is there.

    Raises:
        EntityNotFoundError: no such card for this tenant.
    """
    values: dict[Any, Any] = {getattr(AgencyTask, name): value for name, value in changes.items()}
    if "extracted_data" in changes:
        values[AgencyTask.extracted_data] = AgencyTask.extracted_data.concat(changes["extracted_data"])
    if "status" in changes:
        values[AgencyTask.completed_at] = func.now() if changes["status"] == "done" else None
    statement = update(AgencyTask).where(AgencyTask.id == card_id).values(values).returning(AgencyTask.id)
    if (await db.execute(statement.execution_options(synchronize_session=False))).one_or_none() is None:
        raise EntityNotFoundError("agencyTasks", card_id)
