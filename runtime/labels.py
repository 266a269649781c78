"""Labels and tiers: how far what a model has read is trusted, who may see it, and what a tool may do after that. Pure.

We assume that a model obeys whoever wrote the worst thing in its context. So a context carries the join of the labels
of everything that was read into it, and `verdict` decides from that label and a tool's tier; never from the words.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cache

from runtime.events import Event, ToolReturned, UserSpoke


class Integrity(StrEnum):
    """Who may have written something, the most trusted first."""

    SYSTEM = "system"
    STAFF = "staff"
    EXTERNAL = "external"


class Confidentiality(StrEnum):
    """Who may see something, everybody first."""

    PUBLIC = "public"
    PARTICIPANT = "participant"
    """The participant of the conversation in which it is read."""
    TENANT = "tenant"
    SECRET = "secret"  # noqa: S105 -- a level, no password


_INTEGRITY, _CONFIDENTIALITY = list(Integrity), list(Confidentiality)


@dataclass(frozen=True, slots=True)
class Label:
    """What is known about something that was read; without arguments, that nothing was read."""

    integrity: Integrity = Integrity.SYSTEM
    confidentiality: Confidentiality = Confidentiality.PUBLIC

    def join(self, *others: "Label") -> "Label":
        """Return the label of something made from all of these: as little trusted and as secret as the worst."""
        every = (self, *others)
        return Label(
            max((label.integrity for label in every), key=_INTEGRITY.index),
            max((label.confidentiality for label in every), key=_CONFIDENTIALITY.index),
        )

    @property
    def is_external(self) -> bool:
        """Somebody outside may have written it."""
        return self.integrity is Integrity.EXTERNAL

    @property
    def is_for_participant(self) -> bool:
        """The participant of the conversation may see it."""
        return self.confidentiality in (Confidentiality.PUBLIC, Confidentiality.PARTICIPANT)

    def as_json(self) -> dict[str, str]:
        """Return the label as a row keeps it."""
        return {"integrity": self.integrity.value, "confidentiality": self.confidentiality.value}


NOTHING_READ = Label()
"""The neutral label: joined with another it changes nothing."""

BY_STAFF = Label(Integrity.STAFF, Confidentiality.PARTICIPANT)
"""Words of the agency's staff; said in a conversation they are meant for its participant."""

BY_PARTICIPANT = Label(Integrity.EXTERNAL, Confidentiality.PARTICIPANT)

UNLABELLED = Label(Integrity.EXTERNAL, Confidentiality.TENANT)
"""A result of which nobody recorded where it comes from."""


@cache
def label_from(integrity: str | None, confidentiality: str | None) -> Label | None:
    """Return the label that a row keeps; None when it keeps none, or one that this version does not know."""
    if integrity not in _INTEGRITY or confidentiality not in _CONFIDENTIALITY:
        return None
    return Label(Integrity(integrity), Confidentiality(confidentiality))


def label_of(event: Event) -> Label:
    """Return what an event says about itself.

    What a model says is made of what it has read, which is labelled already; so is a summary of steps that stay.
    """
    match event:
        case UserSpoke(origin="participant"):
            return BY_PARTICIPANT
        case UserSpoke(origin="staff"):
            return BY_STAFF
        case ToolReturned():
            return UNLABELLED
        case _:
            return NOTHING_READ


def kept_label(event: Event, label: Label) -> Label | None:
    """Return what a row has to keep of an event's label; None: that nothing was read, which the event says itself."""
    return None if label == NOTHING_READ == label_of(event) else label


class Tier(Enum):
    """What a tool does, as far as trust is concerned."""

    T0 = "reads the conversation it is in, or what everybody may know"
    T1 = "reads what only the tenant may see"
    T2 = "writes inside the tenant's database"
    T3 = "answers the participant of the conversation, and nobody else"
    T4 = "does something outward or irreversible"


@dataclass(frozen=True, slots=True)
class Ask:
    """A person has to allow the call."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody can allow the call."""

    reason: str


def verdict(tier: Tier, context: Label) -> Ask | Refuse | None:
    """Tell whether a call of this tier may run in this context; None: it may."""
    if tier not in (Tier.T3, Tier.T4):
        # T1 needs no question: what it returns labels the context, and with that label T3 and T4 ask.
        return None
    if context.confidentiality is Confidentiality.SECRET:
        return Refuse("a secret has been read, and nothing that was made after that may leave")
    if not context.is_external:
        return None
    if tier is Tier.T3 and context.is_for_participant:
        return None
    if tier is Tier.T3:
        return Ask("the answer may hold what only the agency may see, and people outside took part in writing it")
    return Ask("it acts outside, and people outside took part in what led to it")


def default_label(effect: str, tier: Tier) -> Label:
    """Return the label of what a tool returns when it does not say more.

    Outside our database anybody may have written it. A tool that reads for the tenant, or acts outside, returns what
    only the tenant may see.
    """
    integrity = Integrity.EXTERNAL if effect in ("external", "outbox") else Integrity.STAFF
    is_tenants = tier in (Tier.T1, Tier.T4)
    return Label(integrity, Confidentiality.TENANT if is_tenants else Confidentiality.PARTICIPANT)
