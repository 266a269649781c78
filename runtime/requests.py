"""From a session's journal to the next model request. Pure.

Every tool_use gets exactly one tool_result here, whatever happened to the call, so a session can never be bricked.
"""

from collections.abc import Iterable, Sequence

from runtime.events import Event, ModelReplied, ToolReturned, UserSpoke
from runtime.ports import Json

NOT_RUN = "not run: the execution ended before this call"


def messages_of(events: Sequence[Event]) -> list[Json]:
    """Return the Messages API history that these events amount to; user and assistant alternate."""
    messages: list[Json] = []
    open_calls: list[str] = []
    for event in events:
        match event:
            case UserSpoke():
                blocks = [*_unanswered(open_calls), *_said(event)]
                open_calls = []
                _append(messages, "user", blocks)
            case ModelReplied():
                open_calls = [call.id for call in event.calls]
                _append(messages, "assistant", list(event.content))
            case ToolReturned() if event.call_id in open_calls:
                open_calls.remove(event.call_id)
                _append(messages, "user", [tool_result(event.call_id, event.content, is_error=event.is_error)])
            case _:
                pass
    return messages


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


def _append(messages: list[Json], role: str, blocks: list[Json]) -> None:
    """Add blocks, to the last message when it has the same role: the API wants the roles to alternate."""
    if not blocks:
        return
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"].extend(blocks)
    else:
        messages.append({"role": role, "content": blocks})
