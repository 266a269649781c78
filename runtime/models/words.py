"""The words of a reply that is there at once, told piece by piece as a stream would. Pure."""

from runtime.events import ModelReplied
from runtime.ports import OnText

_PIECES = 4
"""A few, so that whoever watches a model without a stream sees that text comes in pieces."""


def tell(reply: ModelReplied, on_text: OnText | None) -> None:
    """Give the text blocks of a whole reply to `on_text`, in a few pieces each."""
    if on_text is None:
        return
    for block in reply.content:
        if block["type"] == "text":
            for piece in _pieces(block["text"]):
                on_text(piece)


def _pieces(text: str) -> list[str]:
    size = max(1, -(-len(text) // _PIECES))
    return [text[start : start + size] for start in range(0, len(text), size)]
