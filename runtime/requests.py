"""From a session's journal to the next model request. Pure.

Every tool_use gets exactly one tool_result here, whatever happened to the call, so a session can never be bricked.
"""

from collections.abc import Iterable, Sequence

from runtime.events import Compacted, Event, ModelReplied, ToolReturned, UserSpoke
from runtime.ports import Json

NOT_RUN = "not run: the execution ended before this call"

OUTGREW = "model_context_window_exceeded"
"""The reason to stop of a reply that the window had no room for; it is asked for again when there is some."""


class Transcript:
    """The history of a session as the Messages API wants it, kept up to date event by event.

    To build it anew for every request would make a long session dear: at 1,000 messages it costs more than the commits.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = []
        """Every event, oldest first."""
        self.context_tokens = 0
        """What the session takes of the window, as the provider counted it last; 0: unknown since it was summed up."""
        self._messages: list[Json] = []
        self._open_calls: list[str] = []
        self.add(*events)

    @property
    def messages(self) -> Sequence[Json]:
        """User and assistant messages in turns. What has been handed out is never changed."""
        return tuple(self._messages)

    def add(self, *events: Event) -> None:
        """Append events."""
        for event in events:
            self.events.append(event)
            if isinstance(event, Compacted):
                self._fold(event)
            else:
                self._take(event)

    def _fold(self, compacted: Compacted) -> None:
        self._messages, self._open_calls = [], []
        self._append("user", [{"type": "text", "text": f"<summary>\n{compacted.summary}\n</summary>"}])
        for event in self.events[compacted.steps :]:
            if not isinstance(event, Compacted):
                self._take(event)
        self.context_tokens = 0

    def _take(self, event: Event) -> None:
        match event:
            case UserSpoke():
                blocks = [*_unanswered(self._open_calls), *_said(event)]
                self._open_calls = []
                self._append("user", blocks)
            case ModelReplied(stop_reason=reason) if reason != OUTGREW:
                # Not `event.calls`: to read the arguments of a thousand calls takes longer than to load them.
                self._open_calls = [block["id"] for block in event.content if block["type"] == "tool_use"]
                self._append("assistant", list(event.content))
                self.context_tokens = event.usage.total_tokens
            case ToolReturned() if event.call_id in self._open_calls:
                self._open_calls.remove(event.call_id)
                self._append("user", [tool_result(event.call_id, event.content, is_error=event.is_error)])
            case _:
                pass

    def _append(self, role: str, blocks: list[Json]) -> None:
        """Add blocks, to the last message when it has the same role: the API wants the roles to alternate."""
        if not blocks:
            return
        if self._messages and self._messages[-1]["role"] == role:
            # A new message instead of a longer one: a request that was handed out may still be read.
            blocks = [*self._messages.pop()["content"], *blocks]
        self._messages.append({"role": role, "content": blocks})


def tool_result(call_id: str, content: str, *, is_error: bool) -> Json:
    """Return the block that answers one call."""
    block: Json = {"type": "tool_result", "tool_use_id": call_id, "content": content}
    return block | {"is_error": True} if is_error else block


def _unanswered(call_ids: Iterable[str]) -> list[Json]:
    return [tool_result(call_id, NOT_RUN, is_error=True) for call_id in call_ids]


def _said(event: UserSpoke) -> list[Json]:
    """Return what was said; the API refuses a text block without words."""
    context = [{"type": "text", "text": f"<context>\n{event.context}\n</context>"}] if event.context else []
    words = [{"type": "text", "text": event.text}] if event.text.strip() else []
    return [*context, *words]
