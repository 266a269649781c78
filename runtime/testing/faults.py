"""What `FakeMessagesAPI` can do wrong: each value is an answer that a script may give instead of a reply."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.events import ModelReplied
from runtime.ports import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFault:
    """An error status with the API's error body (https://platform.claude.com/docs/en/api/errors)."""

    status: int
    kind: str = "api_error"
    message: str = "Internal server error"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class HtmlPage:
    """The page of a proxy, answered with success."""

    status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The first `size_bytes` of the body, then the end."""

    reply: ModelReplied | Json
    size_bytes: int
    is_clean: bool = True
    """True: the body ends as if it were whole, as behind a proxy; False: the connection drops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """The first `size_bytes` of the body, then silence until the client leaves; with `reply` None not even a head."""

    reply: ModelReplied | Json | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """No fault but a reply at the pace of a real one: each event of its stream comes `interval_s` after the last."""

    reply: ModelReplied | Json
    interval_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PingForever:
    """A stream that begins well and then only shows that it lives, until the client leaves."""

    interval_s: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamError:
    """The first `events` of the stream, then an `error` event; as one JSON body it is that error's status."""

    reply: ModelReplied | Json
    events: int
    kind: str = "overloaded_error"
    message: str = "Overloaded"


Fault = HttpFault | HtmlPage | Cut | Stall | Paced | PingForever | StreamError
