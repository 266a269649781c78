"""A message as the server-sent events that the Messages API streams it in.

Every event has its `event` line, and its name equals the `type` of its data: the SDK skips what has no name
(https://platform.claude.com/docs/en/build-with-claude/streaming).
"""

import json
from collections.abc import Iterator

from runtime.ports import Json

_PIECE = 7
"""Characters per delta: small, so that words, escapes and numbers are torn apart."""


def event_frame(data: Json) -> bytes:
    """Return one event, named after its data."""
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def message_frames(message: Json) -> Iterator[bytes]:
    """Yield the events of a whole message, one by one.

    The `input` of a call may be a string: then it is the raw JSON text that the model wrote, right or wrong.
    """
    usage = {**message["usage"], "output_tokens": 1}
    yield event_frame(
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None, "usage": usage}}
    )
    yield event_frame({"type": "ping"})
    for index, block in enumerate(message["content"]):
        start, deltas = _opened(block)
        yield event_frame({"type": "content_block_start", "index": index, "content_block": start})
        for delta in deltas:
            yield event_frame({"type": "content_block_delta", "index": index, "delta": delta})
        yield event_frame({"type": "content_block_stop", "index": index})
    yield event_frame(
        {
            "type": "message_delta",
            "delta": {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]},
            "usage": {"output_tokens": message["usage"]["output_tokens"]},
        }
    )
    yield event_frame({"type": "message_stop"})


def _opened(block: Json) -> tuple[Json, list[Json]]:
    """Return a block as it starts, and the deltas that complete it."""
    match block:
        case {"type": "text", "text": str(text)}:
            return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in _pieces(text)]
        case {"type": "thinking", "thinking": str(text), "signature": str(signature)}:
            deltas: list[Json] = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(text)]
            return {**block, "thinking": "", "signature": ""}, [*deltas, _signature(signature)]
        case {"type": "tool_use" | "server_tool_use", "input": value}:
            raw = value if isinstance(value, str) else json.dumps(value)
            # A call without arguments streams only the empty piece, and keeps the `{}` that it started with.
            pieces = ["", *_pieces("" if raw == "{}" else raw)]
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        case _:
            # Redacted thinking and the results of server tools come whole.
            return block, []


def _signature(signature: str) -> Json:
    return {"type": "signature_delta", "signature": signature}


def _pieces(text: str) -> list[str]:
    return [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
