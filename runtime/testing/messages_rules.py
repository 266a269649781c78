"""What the Messages API refuses with 400, in its own words where they are documented or on record.

Roles other than user and assistant, server tools and files are not spoken here and pass unchecked or are refused.
"""

from collections.abc import Iterator
from typing import Any, cast

from runtime.ports import Json
from runtime.testing.messages_tools import tool_problems
from runtime.testing.prompt_cache import MAX_MARKS, marked_blocks

_FIELDS = frozenset(
    {
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
"""The parameters of https://platform.claude.com/docs/en/api/messages/create."""
_COUNTED_FIELDS = frozenset(
    {"cache_control", "messages", "model", "output_config", "speed", "system", "thinking", "tool_choice", "tools"}
)
"""The parameters of https://platform.claude.com/docs/en/api/messages/count_tokens."""
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


class IssuedBlocks:
    """Remembers what the API signed or will continue, and so accepts back only as it was."""

    def __init__(self) -> None:
        self._thinking: list[Json] = []
        self._paused: list[Json] = []

    def remember(self, message: Json) -> None:
        """Take note of a reply that was sent."""
        self._thinking += [block for block in message["content"] if is_thinking(block)]
        if message["stop_reason"] == "pause_turn":
            self._paused += message["content"]

    def is_known(self, block: Json) -> bool:
        """Whether this thinking block is one that was sent, unchanged."""
        return block in self._thinking

    def was_paused(self, message: Json) -> bool:
        """Whether this assistant message continues a reply that stopped with `pause_turn`."""
        return all(block in self._paused for block in blocks_of(message))


def first_problem(body: Json, issued: IssuedBlocks) -> str | None:
    """Return the message of the 400 for this request, None when it is right."""
    return next(_problems(body, issued), None)


def first_counting_problem(body: Json, issued: IssuedBlocks) -> str | None:
    """Return the message of the 400 for this request to count tokens, None when it is right."""
    extra = next(iter(sorted(body.keys() - _COUNTED_FIELDS)), None)
    if extra is not None:
        return f"{extra}: Extra inputs are not permitted"
    # A reply's length is the one thing that it must not say and a message must.
    return first_problem({"max_tokens": 1, **body}, issued)


def is_thinking(block: Json) -> bool:
    """Whether the block is one of thinking, readable or not."""
    return block.get("type") in {"thinking", "redacted_thinking"}


def blocks_of(message: Json) -> list[Json]:
    """Return a message's content in its long form."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _problems(body: Json, issued: IssuedBlocks) -> Iterator[str]:
    yield from _field_problems(body)
    yield from tool_problems(body.get("tools") or [])
    yield from _role_problems(body["messages"], issued)
    yield from _content_problems(body, issued)
    yield from _pair_problems(_turns(body["messages"]))
    marks = marked_blocks(body)
    if len(marks) > MAX_MARKS:
        yield f"A maximum of {MAX_MARKS} blocks with cache_control may be provided. Found {len(marks)}."
    if any(is_thinking(block) for block in marks):
        yield "cache_control: Extra inputs are not permitted on thinking blocks"


def _field_problems(body: Json) -> Iterator[str]:
    for name in sorted(body.keys() - _FIELDS):
        yield f"{name}: Extra inputs are not permitted"
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            yield f"{name}: Field required"
    if not isinstance(body["max_tokens"], int) or body["max_tokens"] < 1:
        yield "max_tokens: Input should be greater than or equal to 1"
    if not isinstance(body["messages"], list):
        yield "messages: Input should be a valid list"
    if not body["messages"]:
        yield "messages: at least one message is required"
    effort = cast("Json", body.get("output_config") or {}).get("effort")
    if effort is not None and effort not in _EFFORTS:
        yield f"output_config.effort: Input should be {', '.join(map(repr, _EFFORTS[:-1]))} or {_EFFORTS[-1]!r}"


def _role_problems(messages: list[Any], issued: IssuedBlocks) -> Iterator[str]:
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            yield f"messages.{index}: Input should be an object"
            continue
        parsed = cast("Json", message)
        for name in sorted(parsed.keys() - {"role", "content"}):
            yield f"messages.{index}.{name}: Extra inputs are not permitted"
        if parsed.get("role") not in {"user", "assistant"}:
            yield f'messages: Unexpected role {parsed.get("role")!r}. Allowed roles are "user" or "assistant".'
        if not isinstance(parsed.get("content"), str | list):
            yield f"messages.{index}.content: Field required"
    if messages[0]["role"] != "user":
        yield 'messages: first message must use the "user" role'
    if messages[-1]["role"] == "assistant" and not issued.was_paused(messages[-1]):
        yield "This model does not support assistant message prefill. The conversation must end with a user message."


def _content_problems(body: Json, issued: IssuedBlocks) -> Iterator[str]:
    system = body.get("system")
    if isinstance(system, list) and any(not block.get("text") for block in cast("list[Json]", system)):
        yield "system: text content blocks must be non-empty"
    for index, message in enumerate(body["messages"]):
        blocks = blocks_of(message)
        if not blocks:
            yield f"messages.{index}: all messages must have non-empty content"
        for place, block in enumerate(blocks):
            yield from _block_problems(f"messages.{index}.content.{place}", message["role"], block, issued)


def _block_problems(path: str, role: str, block: Json, issued: IssuedBlocks) -> Iterator[str]:
    match block.get("type"):
        case "text":
            yield from _text_problems(block.get("text") or "")
        case "thinking" | "redacted_thinking" as kind:
            if not issued.is_known({name: value for name, value in block.items() if name != "cache_control"}):
                yield f"{path}: Invalid `signature` in `{kind}` block"
        case "tool_use":
            yield from _call_problems(path, role, block)
        case "tool_result":
            yield from _result_problems(path, role, block)
        case None:
            yield f"{path}.type: Field required"
        case _:
            pass


def _text_problems(text: str) -> Iterator[str]:
    if not text:
        yield "messages: text content blocks must be non-empty"
    elif not text.strip():
        yield "messages: text content blocks must contain non-whitespace text"


def _call_problems(path: str, role: str, block: Json) -> Iterator[str]:
    if role != "assistant":
        yield f"{path}: `tool_use` blocks can only be in `assistant` messages"
    for name in ("id", "name"):
        if not block.get(name):
            yield f"{path}.tool_use.{name}: Field required"
    if not isinstance(block.get("input"), dict):
        yield f"{path}.tool_use.input: Input should be an object"


def _result_problems(path: str, role: str, block: Json) -> Iterator[str]:
    if role != "user":
        yield f"{path}: `tool_result` blocks can only be in `user` messages"
    if not block.get("tool_use_id"):
        yield f"{path}.tool_result.tool_use_id: Field required"


def _turns(messages: list[Json]) -> list[tuple[str, list[Json]]]:
    """Return role and blocks of each turn: the API joins consecutive messages of one role."""
    turns: list[tuple[str, list[Json]]] = []
    for message in messages:
        if turns and turns[-1][0] == message["role"]:
            turns[-1][1].extend(blocks_of(message))
        else:
            turns.append((message["role"], list(blocks_of(message))))
    return turns


def _pair_problems(turns: list[tuple[str, list[Json]]]) -> Iterator[str]:
    seen: set[str] = set()
    calls: list[str] = []
    for index, (_, blocks) in enumerate([*turns, ("end", [])]):
        # Results count only before any other block of their turn.
        leading = _leading_results(blocks)
        missing = [call for call in calls if call not in leading]
        if missing:
            yield (
                f"messages.{index - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                "next message."
            )
        if len(set(leading)) != len(leading):
            yield f"messages.{index}: each tool_use must have a single result. Found multiple `tool_result` blocks"
        for result in (block["tool_use_id"] for block in blocks if block["type"] == "tool_result"):
            if result not in calls:
                yield (
                    f"messages.{index}: unexpected `tool_use_id` found in `tool_result` blocks: {result}. Each "
                    "`tool_result` block must have a corresponding `tool_use` block in the previous message."
                )
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if len(set(calls)) != len(calls) or seen & set(calls):
            yield "messages: `tool_use` ids must be unique"
        seen |= set(calls)


def _leading_results(blocks: list[Json]) -> list[str]:
    leading: list[str] = []
    for block in blocks:
        if block["type"] != "tool_result":
            break
        leading.append(block["tool_use_id"])
    return leading
