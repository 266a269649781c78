"""From what the Messages API sent to a `ModelReplied` that counts, or an error. Pure.

Strict where the SDK's accumulator is lenient: it takes half a tool call for a whole one, accepts NaN, and parses a
call's input anew for each of its deltas. Blocks are kept as the API sent them, because it compares thinking blocks with
what it signed.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NoReturn, TypeVar, assert_never

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from runtime.errors import ModelReplyInvalidError
from runtime.events import ModelReplied, Usage
from runtime.models.anthropic_errors import provider_error
from runtime.ports import Json, OnText

_T = TypeVar("_T")

_CUT = frozenset({"max_tokens", "model_context_window_exceeded", "refusal", "stop_sequence"})
"""Stop reasons that may fall in the middle of a block."""
_CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})


class _Parsed(BaseModel):
    """Base of the parts we look into; what we do not know is ignored here and kept in the blocks."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Usage(_Parsed):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(_Parsed):
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Json]
    stop_reason: str | None = None
    usage: _Usage = _Usage()


class _MessageStart(_Parsed):
    type: Literal["message_start"]
    message: _Message


class _BlockStart(_Parsed):
    type: Literal["content_block_start"]
    index: int
    content_block: Json


class _BlockDelta(_Parsed):
    type: Literal["content_block_delta"]
    index: int
    delta: Json


class _BlockStop(_Parsed):
    type: Literal["content_block_stop"]
    index: int


class _Stop(_Parsed):
    stop_reason: str | None = None


class _MessageDelta(_Parsed):
    type: Literal["message_delta"]
    delta: _Stop
    usage: _Usage = _Usage()


class _MessageStop(_Parsed):
    type: Literal["message_stop"]


class _ErrorDetail(_Parsed):
    type: str
    message: str = ""


class _Error(_Parsed):
    type: Literal["error"]
    error: _ErrorDetail


class _Count(_Parsed):
    input_tokens: int


_Event = Annotated[
    _MessageStart | _BlockStart | _BlockDelta | _BlockStop | _MessageDelta | _MessageStop | _Error,
    Field(discriminator="type"),
]
_event_adapter: TypeAdapter[_Event] = TypeAdapter(_Event)
_whole_adapter: TypeAdapter[_Message | _Error] = TypeAdapter(Annotated[_Message | _Error, Field(discriminator="type")])
_count_adapter: TypeAdapter[_Count] = TypeAdapter(_Count)
_EVENT_NAMES = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    }
)


@dataclass(slots=True)
class _Block:
    """A content block that may still be growing."""

    start: Json
    parts: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Pieces by field, joined once at the end; those of `input` are JSON text."""
    is_closed: bool = False

    def add(self, delta: Json) -> None:
        match delta:
            case {"type": "text_delta", "text": str(piece)}:
                self._grow("text", piece)
            case {"type": "thinking_delta", "thinking": str(piece)}:
                self._grow("thinking", piece)
            case {"type": "input_json_delta", "partial_json": str(piece)}:
                self._grow("input", piece)
            case {"type": "signature_delta", "signature": str(signature)}:
                self.start["signature"] = signature
            case {"type": "citations_delta", "citation": citation}:
                self.start["citations"] = [*(self.start.get("citations") or []), citation]
            case _:
                # Leaving out a piece that we do not know would send a different block back.
                _reject(f"a delta of unknown shape ({delta.get('type')!r})")

    def finished(self) -> Json:
        grown = {name: "".join(parts) for name, parts in self.parts.items()}
        # A call without arguments has only empty pieces, and keeps the `{}` that it started with.
        raw_input = grown.pop("input", "")
        return self.start | grown | ({"input": _strict_json(raw_input)} if raw_input else {})

    def _grow(self, name: str, piece: str) -> None:
        if name not in self.parts:
            # Texts start empty, but nothing says that they must; the `{}` of an input is only a place holder.
            match self.start.get(name):
                case str(beginning) if name != "input":
                    self.parts[name].append(beginning)
                case dict() if name == "input":
                    pass
                case _:
                    _reject(f"a piece of {name} for a {self.start.get('type')!r} block")
        self.parts[name].append(piece)


class ReplyAssembly:
    """Puts a reply together from the events of its stream, in their order."""

    def __init__(self, on_text: OnText | None = None) -> None:
        """`on_text` gets each piece of the reply's words as it is fed."""
        self._on_text = on_text
        self._message: _Message | None = None
        self._usage: dict[str, int] = {}
        self._stop_reason: str | None = None
        self._blocks: list[_Block] = []
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        """Whether message_stop was seen; nothing after it belongs to the reply."""
        return self._is_complete

    def feed(self, name: str | None, data: str) -> None:
        """Take one server-sent event: the value of its `event` line and of its `data` lines.

        Raises:
            ModelReplyInvalidError: the event cannot stand here.
            ModelUnavailableError: the provider broke off and may answer later.
            ModelRequestError: the provider broke off and would again.
        """
        if name is None and data:
            _reject("an event without a name")
        if name not in _EVENT_NAMES:
            # Pings, and kinds of event that later versions of the API may add.
            return
        event = _parsed(_event_adapter, data)
        if event.type != name:
            _reject(f"an event named {name!r} that says {event.type!r}")
        self._take(event)

    def finish(self) -> ModelReplied:
        """Return the reply, once the stream has ended.

        Raises:
            ModelReplyInvalidError: it does not count (see `whole_reply` for the rules).
        """
        if self._message is None or not self._is_complete:
            _reject("the stream ended before message_stop")
        if not all(block.is_closed for block in self._blocks):
            _reject("message_stop came before the end of a block")
        return _reply(self._message.model, self._stop_reason, self._blocks, self._usage)

    def _take(self, event: _Event) -> None:
        match event:
            case _MessageStart(message=message):
                self._begin(message)
            case _BlockStart(index=index, content_block=block):
                self._open(index, block)
            case _BlockDelta(index=index, delta=delta):
                self._growing(index).add(delta)
                if delta["type"] == "text_delta":
                    self._tell(delta["text"])
            case _BlockStop(index=index):
                self._growing(index).is_closed = True
            case _MessageDelta(delta=delta, usage=usage):
                self._stop_reason = delta.stop_reason or self._stop_reason
                self._count(usage)
            case _MessageStop():
                self._is_complete = True
            case _Error(error=error):
                raise provider_error(error.type, error.message)
            case _ as unreachable:
                assert_never(unreachable)

    def _begin(self, message: _Message) -> None:
        if self._message is not None:
            _reject("a second message_start")
        self._message = message
        self._stop_reason = message.stop_reason
        self._blocks = [_Block(block, is_closed=True) for block in message.content]
        for block in message.content:
            self._tell_beginning(block)
        self._count(message.usage)

    def _open(self, index: int, block: Json) -> None:
        if self._message is None or index != len(self._blocks):
            _reject(f"block {index} starts out of order")
        self._blocks.append(_Block(block))
        self._tell_beginning(block)

    def _tell_beginning(self, block: Json) -> None:
        match block:
            case {"type": "text", "text": str(beginning)}:
                self._tell(beginning)
            case _:
                pass

    def _tell(self, piece: str) -> None:
        if self._on_text is not None and piece:
            self._on_text(piece)

    def _growing(self, index: int) -> _Block:
        if not 0 <= index < len(self._blocks) or self._blocks[index].is_closed:
            _reject(f"an event for block {index}, which is not open")
        return self._blocks[index]

    def _count(self, usage: _Usage) -> None:
        # A message_delta carries totals so far, and leaves out what does not apply: overwrite, but never with nothing.
        self._usage |= usage.model_dump(exclude_none=True)


def whole_reply(raw: bytes) -> ModelReplied:
    """Return the reply that one JSON body holds.

    A reply counts only if its stop_reason is set and the input of every tool call parses strictly as an object: no NaN,
    no number beyond a double, no repeated name, no text that UTF-8 cannot carry.

    When the stop reason is one that may fall in mid-block (`max_tokens` and its like), a call at the end is left out of
    `content`, whether or not its input happens to parse: nobody can tell half of a call from a whole one. The stop
    reason stays, and calls before it stay.

    Raises:
        ModelReplyInvalidError: it does not count.
        ModelUnavailableError: it is an error of the provider that may pass.
        ModelRequestError: it is an error of the provider that stays.
    """
    match _parsed(_whole_adapter, raw):
        case _Message() as message:
            blocks = [_Block(block) for block in message.content]
            return _reply(message.model, message.stop_reason, blocks, message.usage.model_dump(exclude_none=True))
        case _Error(error=error):
            raise provider_error(error.type, error.message)


def counted_tokens(raw: bytes) -> int:
    """Return what one JSON body of count_tokens says.

    Raises:
        ModelReplyInvalidError: it is none.
    """
    return _parsed(_count_adapter, raw).input_tokens


def _reply(model: str, stop_reason: str | None, blocks: Sequence[_Block], usage: dict[str, int]) -> ModelReplied:
    if not stop_reason:
        _reject("it has no stop_reason")
    if stop_reason in _CUT and blocks and blocks[-1].start.get("type") in _CALLS:
        blocks = blocks[:-1]
    content = tuple(block.finished() for block in blocks)
    for block in content:
        _check_block(block)
    _check_calls(stop_reason, [block["id"] for block in content if block["type"] == "tool_use"])
    _check_text(content)
    return ModelReplied(content=content, stop_reason=stop_reason, model=model, usage=Usage(**usage))


def _check_block(block: Json) -> None:
    match block:
        case {"type": "text", "text": str()} | {"type": "thinking", "thinking": str()}:
            pass
        case {"type": "tool_use", "id": str(call_id), "name": str(name), "input": dict()} if call_id and name:
            pass
        case {"type": "text" | "thinking" | "tool_use" as kind}:
            _reject(f"a malformed {kind} block")
        case {"type": str()}:
            pass
        case _:
            _reject("a block without a type")


def _check_calls(stop_reason: str, ids: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        _reject("two calls with one id")
    if stop_reason == "tool_use" and not ids:
        _reject("stop_reason is 'tool_use' but there is no call")


def _check_text(content: tuple[Json, ...]) -> None:
    # JSON can spell half of a surrogate pair; neither Postgres nor the API takes it back.
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        _reject("text that is not valid Unicode")


def _parsed(adapter: TypeAdapter[_T], raw: str | bytes) -> _T:
    value = _strict_json(raw)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, problem["loc"])) or "top level" for problem in error.errors())
        _reject(f"unexpected shape at {places}")


def _strict_json(raw: str | bytes) -> Any:
    try:
        return json.loads(
            raw, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_repetition
        )
    except (ValueError, RecursionError) as error:
        reason = "JSON that does not parse strictly"
        raise ModelReplyInvalidError(reason) from error


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        _refuse_constant(digits)
    return number


def _without_repetition(pairs: Iterable[tuple[str, Any]]) -> Json:
    value: Json = {}
    for name, item in pairs:
        if name in value:
            # Which of the two counts depends on the reader: a person may approve the one and a tool run the other.
            message = "a name occurs twice in one object"
            raise ValueError(message)
        value[name] = item
    return value


def _reject(reason: str) -> NoReturn:
    raise ModelReplyInvalidError(reason)
