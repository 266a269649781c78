"""What a tool of another server returned, as a row keeps it and a model reads it."""

from typing import cast

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)

from runtime.ports import Json
from storage.errors import InvalidValueError
from storage.values import check_json


def result_of(answer: CallToolResult) -> Json:
    """Return the structured content, or else the texts as `text`; what is no text is described under `attachments`.

    Characters that cannot be stored become U+FFFD: the effect has taken place, and losing its result would hide that.
    """
    texts = [text for block in answer.content if (text := _text(block)) is not None]
    attachments = [words for block in answer.content if (words := _described(block)) is not None]
    structured = None if answer.is_error else answer.structured_content
    kept: Json
    if structured is None:
        kept = {"text": "\n".join(texts)}
    elif isinstance(structured, dict) and not attachments:
        kept = cast("Json", structured)
    else:
        kept = {"result": structured}
    if attachments:
        kept["attachments"] = attachments
    return _kept(cast("Json", _storable(kept)))


def _kept(result: Json) -> Json:
    try:
        check_json(result, "the result")
    except InvalidValueError as error:
        return {"text": f"the call succeeded, but {error}; so it is not shown"}
    return result


def _text(block: ContentBlock) -> str | None:
    match block:
        case TextContent():
            return block.text
        case EmbeddedResource(resource=resource) if not isinstance(resource, BlobResourceContents):
            return resource.text
        case _:
            return None


def _described(block: ContentBlock) -> str | None:
    match block:
        case ImageContent() | AudioContent():
            return f"{block.type} {block.mime_type}, {_size(block.data)}"
        case EmbeddedResource(resource=BlobResourceContents() as resource):
            return f"file {resource.uri} {resource.mime_type or ''}, {_size(resource.blob)}"
        case ResourceLink():
            return f"link {block.uri}"
        case _:
            return None


def _size(base64_text: str) -> str:
    return f"{len(base64_text) * 3 // 4:,} bytes"


def _storable(value: object) -> object:
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case dict():
            pairs = cast("Json", value).items()
            return {key.replace("\0", "\ufffd"): _storable(item) for key, item in pairs}
        case list():
            return [_storable(item) for item in cast("list[object]", value)]
        case _:
            return value
