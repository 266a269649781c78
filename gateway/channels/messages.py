"""Values that cross between the channels and the rest: a message that came in, and what became of one that went out."""

from dataclasses import dataclass, field

from pydantic import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundMessage:
    """One message of a participant, whichever provider carried it; fits the columns of inboundMessages."""

    provider_message_id: str
    """The provider's own id of the message: what duplicates are found by."""
    sender: str
    """1 to 255 characters; becomes the conversation's participant."""
    to: str = ""
    body: str = ""
    media_urls: tuple[str, ...] = ()
    """By reference; nothing is fetched here."""
    thread_key: str = ""
    """Separates conversations of one participant; '' where the provider has no threads."""
    raw_payload: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue], repr=False)
    """The body as parsed; Postgres can store it as jsonb."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The provider took the message."""

    external_id: str | None = None
    """The receiver's id of it; None: it did not give one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The same message would be refused again."""

    reason: str
    status: int | None = None
    """The HTTP status; None: no request was made."""
    gone: bool = False
    """The receiver wants no more messages at all: disable the channel's replies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Nothing proves that the message arrived; try again under the same id."""

    reason: str
    status: int | None = None
    """The HTTP status; None: there was no answer."""
    after_s: float | None = None
    """Not before so many seconds, as the receiver asks; None: as the schedule says."""


SendOutcome = Sent | Refused | Retry
