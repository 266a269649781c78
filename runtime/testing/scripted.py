"""A `Model` that says what a test tells it to say, and builders for replies."""

import copy
import hashlib
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from runtime.events import ModelReplied, Usage
from runtime.models.words import tell
from runtime.ports import ModelRequest, OnText

Scripted = ModelReplied | Exception | Callable[[ModelRequest], ModelReplied]
"""What a script holds: a reply, an error to raise, or a function that looks at the request first."""

MODEL_NAME = "scripted-model"
"""What built replies and the scripted model call themselves."""


class ScriptedModel:
    """Gives its replies one by one; a call beyond them fails at once, and an unused one when the script is closed.

    ```python
    async with ScriptedModel(call_reply(("create_task", {"title": "x"})), text_reply("Done.")) as model:
        ...
    ```
    """

    def __init__(self, *replies: Scripted) -> None:
        self._replies = replies
        self.requests: list[ModelRequest] = []
        """Every request so far, copied as it was when it came."""

    @property
    def name(self) -> str:
        """Says that no model is behind it."""
        return MODEL_NAME

    async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
        """Return, compute or raise what the script has next.

        Raises:
            AssertionError: the script has no more replies.
            Exception: the one that stands next in the script.
        """
        index = len(self.requests)
        self.requests.append(copy.deepcopy(request))
        if index >= len(self._replies):
            message = f"unexpected model call {index + 1}: the script has {len(self._replies)} replies; last message: "
            raise AssertionError(message + repr(request.messages[-1:]))
        scripted = self._replies[index]
        if isinstance(scripted, Exception):
            raise scripted
        reply = scripted if isinstance(scripted, ModelReplied) else scripted(request)
        tell(reply, on_text)
        return reply

    def assert_done(self) -> None:
        """Fail if replies are left.

        Raises:
            AssertionError: the model was called less often than the script expects.
        """
        unused = self._replies[len(self.requests) :]
        if unused:
            message = (
                f"{len(unused)} of {len(self._replies)} scripted replies were never asked for; next: {unused[0]!r}"
            )
            raise AssertionError(message)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.assert_done()


def text_reply(text: str, *, usage: Usage | None = None) -> ModelReplied:
    """Return a reply of these words that ends the turn."""
    content = ({"type": "text", "text": text},)
    return ModelReplied(content=content, stop_reason="end_turn", model=MODEL_NAME, usage=usage or Usage())


def call_reply(
    *calls: tuple[str, dict[str, Any]], text: str = "", tag: str = "", usage: Usage | None = None
) -> ModelReplied:
    """Return a reply that calls these tools (name, arguments), after `text` if there is some.

    A call's id follows from its name, arguments and place, so tests may compare whole replies; scripts that repeat a
    call give each reply its own `tag`, because ids are unique within an execution.
    """
    words = [{"type": "text", "text": text}] if text else []
    blocks = [
        {"type": "tool_use", "id": _call_id(name, arguments, f"{tag}{place}"), "name": name, "input": arguments}
        for place, (name, arguments) in enumerate(calls)
    ]
    return ModelReplied(content=(*words, *blocks), stop_reason="tool_use", model=MODEL_NAME, usage=usage or Usage())


def _call_id(name: str, arguments: dict[str, Any], salt: str) -> str:
    canonical = json.dumps([name, arguments, salt], sort_keys=True)
    return f"toolu_{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"
