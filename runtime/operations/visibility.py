"""What the participant of a conversation may see, and how rows are labelled when an operation reads them.

In a conversation, generic reads return what its participant may see, unless the agent asks for the tenant's rows; these
label its context, and then an answer to the participant waits for a person (see `runtime.labels`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from runtime.labels import Confidentiality, Integrity, Label
from runtime.operation import Context, Conversation
from runtime.ports import Json
from storage.base import JsonObject
from storage.memory import MemoryItem
from storage.namespaces import client_namespace, conversation_namespace
from storage.queries import identity
from storage.queries.board import Card, Viewer

Scope = Annotated[
    Literal["tenant"] | None,
    Field(
        description="In a conversation you read only what its participant may see. tenant: everything of the agency; "
        "after that a person has to allow each reply."
    ),
]

STAFF_ONLY = Label(Integrity.STAFF, Confidentiality.TENANT)

ALWAYS_PUBLIC = ("name", "industry", "website")
"""The fields of a client that participants may know unless the owner says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicList:
    """What the owner lets every participant know: `userProfiles.preferences.public`."""

    client_fields: tuple[str, ...] = ALWAYS_PUBLIC
    knowledge_categories: tuple[str, ...] = ()


async def public_list(ctx: Context) -> PublicList:
    """Return the owner's public list; what is not a list of texts in it counts as empty."""
    said: Any = await identity.public_list(ctx.db)
    if not isinstance(said, Mapping):
        return PublicList()
    given = cast("Mapping[str, Any]", said)  # JSON has text keys
    return PublicList(
        client_fields=_texts(given.get("clientFields", ALWAYS_PUBLIC)),
        knowledge_categories=_texts(given.get("knowledgeCategories", ())),
    )


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        return ()
    entries = cast("Sequence[object]", value)  # of any kind
    return tuple(entry for entry in entries if isinstance(entry, str))


def viewer(ctx: Context, scope: str | None = None) -> Viewer | None:
    """Return whose rows may be read; None: all of the tenant's."""
    if ctx.conversation is None or scope is not None:
        return None
    return Viewer(conversation_id=ctx.conversation.id, client_id=ctx.conversation.client_id)


def saw_cards(ctx: Context, cards: Sequence[Card], seen_by: Viewer | None) -> None:
    """Label a result that shows these cards, which `seen_by` has let through."""
    ctx.saw(STAFF_ONLY if seen_by is None else Label(Integrity.STAFF, Confidentiality.PARTICIPANT))
    for card in cards:
        is_external = card.row.conversation_id is not None or card.row.extracted_data.get(INTEGRITY) == "external"
        is_tenants = seen_by is None or card.row.extracted_data.get(CONFIDENTIALITY) == "tenant"
        ctx.saw(
            Label(
                Integrity.EXTERNAL if is_external else Integrity.STAFF,
                Confidentiality.TENANT if is_tenants else Confidentiality.PARTICIPANT,
            )
        )


INTEGRITY, CONFIDENTIALITY = "integrity", "confidentiality"
"""Keys of `agencyTasks.extractedData` for what a card's links do not tell."""


def marks(ctx: Context) -> JsonObject:
    """Return what a card that is written in this context has to remember of it.

    A card of a conversation is its participant's to see, but not when what the agency keeps to itself went into it;
    and one that is of no conversation counts as the staff's, but not when people outside took part in writing it.
    """
    if ctx.conversation is None:
        return {INTEGRITY: "external"} if ctx.label.is_external else {}
    return {} if ctx.label.is_for_participant else {CONFIDENTIALITY: "tenant"}


def namespaces_of(conversation: Conversation) -> Sequence[str]:
    """Return where what its participant may read is remembered."""
    own = conversation_namespace(conversation.id)
    return (own,) if conversation.client_id is None else (own, client_namespace(conversation.client_id))


def is_quarantined(item: MemoryItem) -> bool:
    """Tell whether people outside took part in writing it, and nobody has released it."""
    return item.provenance.get("quarantined") is True


def saw_memories(ctx: Context, items: Sequence[MemoryItem]) -> None:
    """Label a result that shows these memories by where they come from."""
    theirs = () if ctx.conversation is None else namespaces_of(ctx.conversation)
    for item in items:
        is_participants = item.namespace in theirs and item.provenance.get("confidentiality") not in (
            "tenant",
            "secret",
        )
        ctx.saw(
            Label(
                Integrity.EXTERNAL if item.provenance.get("integrity") == "external" else Integrity.STAFF,
                Confidentiality.PARTICIPANT if is_participants else Confidentiality.TENANT,
            )
        )


def provenance(ctx: Context) -> Json:
    """Return where a value comes from that is remembered in this context; what is tainted waits for a person."""
    written: Json = {"door": ctx.door, "executionId": ctx.execution_id}
    if not ctx.is_tainted:
        return written
    return written | {
        "conversationId": None if ctx.conversation is None else ctx.conversation.id,
        "integrity": Integrity.EXTERNAL.value,
        "confidentiality": ctx.label.confidentiality.value,
        "quarantined": True,
    }
