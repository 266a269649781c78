"""The provider's prompt cache, computed: which part of a request is new, which was seen before.

Follows https://platform.claude.com/docs/en/build-with-claude/prompt-caching: prefixes are compared by exact content in
the order tools, system, messages, end at marks, and are looked up from each mark over at most 20 blocks backwards.
Tokens are bytes / 4.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runtime.ports import Json

MAX_MARKS = 4
_LOOKBACK_BLOCKS = 20


@dataclass(frozen=True, slots=True)
class _Prefix:
    digest: bytes
    tokens: int
    is_marked: bool


class PromptCache:
    """Remembers the prefixes of earlier requests; nothing expires."""

    def __init__(self, minimum_tokens: int) -> None:
        self._minimum_tokens = minimum_tokens
        self._known: set[bytes] = set()

    def usage(self, body: Json) -> dict[str, int]:
        """Return the input side of `usage` for this request, and remember its marked prefixes."""
        prefixes = list(_prefixes(body))
        marks = [place for place, prefix in enumerate(prefixes) if prefix.is_marked and self._is_long(prefix)]
        near = (prefixes[max(0, mark - _LOOKBACK_BLOCKS + 1) : mark + 1] for mark in marks)
        read = max((prefix.tokens for group in near for prefix in group if prefix.digest in self._known), default=0)
        cached = prefixes[marks[-1]].tokens if marks else 0
        self._known.update(prefixes[mark].digest for mark in marks)
        return {
            "input_tokens": prefixes[-1].tokens - cached,
            "cache_creation_input_tokens": cached - read,
            "cache_read_input_tokens": read,
        }

    def _is_long(self, prefix: _Prefix) -> bool:
        return prefix.tokens >= self._minimum_tokens


def input_tokens(body: Json) -> int:
    """Return how long the whole prompt is."""
    return [prefix.tokens for prefix in _prefixes(body)][-1]


def marked_blocks(body: Json) -> list[Json]:
    """Return the blocks that carry a cache_control mark."""
    return [block for _, block in _blocks(body) if block.get("cache_control") is not None]


def _prefixes(body: Json) -> Iterator[_Prefix]:
    digest = hashlib.sha256(_canonical(body.get("model")))
    size_bytes = 0
    for place, block in _blocks(body):
        bare = _canonical({name: value for name, value in block.items() if name != "cache_control"})
        digest.update(_canonical(place) + bare)
        size_bytes += len(bare)
        yield _Prefix(digest.digest(), size_bytes // 4, is_marked=block.get("cache_control") is not None)


def _blocks(body: Json) -> Iterator[tuple[Any, Json]]:
    """Yield each block of the prompt with what its meaning depends on beside its own content."""
    for tool in body.get("tools", ()):
        yield "tools", tool
    for block in _as_blocks(body.get("system") or ()):
        yield "system", block
    # Changing these keeps tools and system cached, but not the messages.
    options = [body.get("thinking"), body.get("tool_choice")]
    for index, message in enumerate(body.get("messages", ())):
        for block in _as_blocks(message["content"]):
            yield [options, index, message["role"]], block


def _as_blocks(content: Any) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _canonical(value: Any) -> bytes:
    # The order of keys stays: the provider renders what it was sent, so another order is another prompt.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
