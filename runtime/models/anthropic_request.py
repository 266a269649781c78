"""From a `ModelRequest` to the body of POST /v1/messages, with the marks that make the provider cache its prefix. Pure.

The provider caches tools, then system, then messages, up to each mark, by exact content
(https://platform.claude.com/docs/en/build-with-claude/prompt-caching).
"""

from collections.abc import Sequence
from typing import Any

from runtime.models.strict_tools import strict_tools
from runtime.ports import Json, ModelRequest, ToolSpec

_MARK = {"type": "ephemeral"}


def request_body(request: ModelRequest, *, model: str, max_tokens: int | None, strict: bool = False) -> Json:
    """Return the body for this request; nothing of the request is changed or shared with a mark.

    Four marks at most, the provider's limit: the last tool, the system prompt, and the ends of the last two user
    messages. The earlier of the two is where the call before this one ended. It guarantees the hit when a turn added
    more than the 20 blocks that the provider looks back from a mark (a reply with many parallel calls).

    Args:
        request: What to ask.
        model: Used unless the request names one.
        max_tokens: The most one reply may use; None: what the request says.
        strict: Mark the tools that qualify, so that the provider holds the model to their schemas.
    """
    body: Json = {
        "model": request.model or model,
        "max_tokens": request.max_tokens if max_tokens is None else min(request.max_tokens, max_tokens),
        "messages": _messages(request.messages),
    }
    if request.system.strip():
        body["system"] = [{"type": "text", "text": request.system, "cache_control": _MARK}]
    if request.tools:
        marked = strict_tools(request.tools) if strict else frozenset[str]()
        *others, last = (_tool(spec, is_strict=spec.name in marked) for spec in request.tools)
        body["tools"] = [*others, {**last, "cache_control": _MARK}]
    return body


def _tool(spec: ToolSpec, *, is_strict: bool) -> Json:
    if spec.api_type is not None:
        # The provider knows its schema and how to describe it, and takes neither from us.
        return {"type": spec.api_type, "name": spec.name}
    tool = {"name": spec.name, "description": spec.description, "input_schema": spec.input_schema}
    return tool | {"strict": True} if is_strict else tool


def _messages(messages: Sequence[Json]) -> list[Json]:
    sendable = [message for message in map(_sendable, messages) if message["content"]]
    marked = [index for index, message in enumerate(sendable) if message["role"] == "user"][-2:]
    return [_marked(message) if index in marked else message for index, message in enumerate(sendable)]


def _sendable(message: Json) -> Json:
    """Return the message as blocks, without those blocks of a reply that the API sends but does not take back.

    One such block would make every later request of its session fail. An assistant message may end up without blocks;
    the caller leaves it out, and the API joins the user messages around it.
    """
    blocks = _blocks(message["content"])
    if message["role"] == "assistant":
        blocks = [block for block in blocks if _goes_back(block)]
    return {**message, "content": blocks}


def _blocks(content: Any) -> list[Json]:
    # Always the long form: a text that is a string in one call and a block in the next is one cache key less to trust.
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _goes_back(block: Json) -> bool:
    match block["type"]:
        case "text":
            return bool(block["text"].strip())
        case "thinking":
            # A reply cut at max_tokens while thinking has no signature yet.
            return bool(block.get("signature"))
        case _:
            return True


def _marked(message: Json) -> Json:
    *others, last = message["content"]
    return {**message, "content": [*others, {**last, "cache_control": _MARK}]}
