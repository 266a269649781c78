"""Where the runtime meets the world: the protocols, and the values that cross them.

Pure. Real sides: `runtime/models/*` for `Model`; fakes: `runtime/testing`. Messages have the shape of the Messages API
(https://platform.claude.com/docs/en/api/messages), used directly rather than through a lowest common interface.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from runtime.events import ModelReplied

Json = dict[str, Any]

OnText = Callable[[str], None]
"""Gets each piece of a reply's words as it arrives; called from the event loop, so it must not take long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the model sees it; `input_schema` is JSON Schema of an object."""

    name: str
    description: str
    input_schema: Json
    api_type: str | None = None
    """Set for a tool whose schema the provider knows by this name, such as `memory_20250818`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One model call.

    `messages` alternate user and assistant and end with user, or with a paused assistant turn that is to go on; every
    tool_use has its tool_result. The tools' order is
    part of the provider's cache key, so it is fixed per agent.
    """

    system: str
    messages: Sequence[Json]
    tools: Sequence[ToolSpec] = ()
    model: str | None = None
    """None: the model of the settings."""
    is_minor: bool = False
    """A cheaper model will do, where the settings name one and `model` does not."""
    max_tokens: int = 8192


class Model(Protocol):
    """A language model, or something that behaves like one."""

    @property
    def name(self) -> str:
        """What output calls this model; the offline one always says that it is offline."""
        ...

    async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
        """Return one whole reply that counts: stop_reason set, every tool input parsed strictly.

        Joined, what `on_text` gets is the text blocks of the reply, without thinking and calls. When this raises, the
        pieces so far belong to a reply that does not count, and whoever asks again begins anew.

        Raises:
            ModelUnavailableError: try again later.
            ModelReplyInvalidError: the reply was cut or malformed; asking again is safe.
            ModelRequestError: the provider refuses this request.
        """
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """What a `Model` may offer beside its replies: the size of a request before it is made."""

    async def count_tokens(self, request: ModelRequest) -> int:
        """Return how many tokens the request's prompt has, tools and system included.

        Raises:
            ModelUnavailableError, ModelReplyInvalidError, ModelRequestError: as for `Model.reply`.
        """
        ...
