"""What a request's messages tell the offline model: the exchanges so far, their tool results, the cards they touched.

Pure. The messages have the shape of the Messages API; foreign content is parsed here and nowhere else.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast
from zoneinfo import ZoneInfo

from runtime.ports import Json

_CONTEXT = re.compile(r"\s*<context>\n(?P<lines>.*?)\n?</context>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a tool answered."""

    text: str
    is_error: bool = False
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The JSON object of the text; empty when it is something else."""

    @property
    def items(self) -> tuple[Mapping[str, Any], ...]:
        """The objects under "items"."""
        found = self.data.get("items")
        if not isinstance(found, list):
            return ()
        items = (cast("Mapping[str, Any]", item) for item in cast("list[object]", found) if isinstance(item, dict))
        return tuple(_unfenced(item) for item in items)


def _unfenced(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read a memory that stands between marks of untrusted; a table of patterns obeys nobody."""
    marked = _FENCED.fullmatch(str(item.get("value")))
    return item if marked is None else {**item, "value": json.loads(marked["json"])}


_FENCED = re.compile(r"<<<untrusted>>>\n(?P<json>.*)\n<<<end of untrusted>>>")


@dataclass(slots=True, kw_only=True)
class Made:
    """A tool call of the history, and its result once there is one."""

    id: str
    name: str
    arguments: Json
    result: Result | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A card as a tool result showed it."""

    id: int
    title: str
    client: str = ""
    status: str = ""
    priority: str = ""
    due: str = ""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """What a person said, and what was done about it until the answer."""

    words: list[str] = field(default_factory=list[str])
    now: datetime | None = None
    """The person's clock, from the context."""
    calls: list[Made] = field(default_factory=list[Made])
    answer: str | None = None
    """The text of the `reply` call, or of a reply without calls; None while the work goes on."""

    @property
    def text(self) -> str:
        """The person's words, one text block per line."""
        return "\n".join(self.words)

    @property
    def is_over(self) -> bool:
        """New words do not belong to it any more: it was answered, or it was interrupted while tools ran."""
        return self.answer is not None or bool(self.calls)


def exchanges(messages: Sequence[Json]) -> list[Exchange]:
    """Cut the messages into exchanges, oldest first.

    Whatever a person says opens a new one, with its own context where there is one; an answer ends it: a reply without
    calls, or one that calls `reply`.
    """
    found = [Exchange()]
    made: dict[str, Made] = {}
    for message in messages:
        if message["role"] == "assistant":
            _add_assistant(found[-1], _blocks(message), made)
        else:
            _add_user(found, _blocks(message), made)
    return found


def _blocks(message: Json) -> list[Json]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _add_assistant(exchange: Exchange, blocks: list[Json], made: dict[str, Made]) -> None:
    calls = [block for block in blocks if block["type"] == "tool_use"]
    for block in calls:
        call = Made(id=block["id"], name=block["name"], arguments=block["input"])
        made[call.id] = call
        exchange.calls.append(call)
    answers = [str(block["input"].get("text", "")) for block in calls if block["name"] == "reply"]
    if answers:
        exchange.answer = answers[0]
    elif not calls and exchange.answer is None:
        exchange.answer = "".join(block["text"] for block in blocks if block["type"] == "text")


def _add_user(found: list[Exchange], blocks: list[Json], made: dict[str, Made]) -> None:
    for block in blocks:
        if block["type"] == "tool_result" and (call := made.get(block["tool_use_id"])) is not None:
            call.result = read_result(block)
    after_context = False
    for text in (block["text"] for block in blocks if block["type"] == "text"):
        # Words follow their context, so what looks like a context right after one is what somebody wrote.
        context = None if after_context else _CONTEXT.fullmatch(text)
        if found[-1].is_over or (context and found[-1].words):
            found.append(Exchange())
        if context:
            found[-1].now = read_clock(context["lines"])
        elif text.strip():
            found[-1].words.append(text.strip())
        after_context = context is not None


def read_clock(lines: str) -> datetime | None:
    """Read `now:` and `timezone:` of a context block; None without a usable `now`, which must carry an offset."""
    values: dict[str, str] = {}
    for line in lines.splitlines():
        key, _, value = line.partition(":")
        # The first one counts: a later line may hold a participant's own words.
        values.setdefault(key.strip(), value.strip())
    try:
        now = datetime.fromisoformat(values.get("now", ""))
    except ValueError:
        return None
    if now.tzinfo is None:
        return None
    try:
        return now.astimezone(ZoneInfo(values["timezone"]))
    except (KeyError, ValueError, OSError):
        # An unknown or missing zone: the offset of `now` is still the person's clock.
        return now


def read_result(block: Json) -> Result:
    """Read a tool_result block; its content is JSON text, or a list of text blocks."""
    content = block.get("content", "")
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    return Result(
        text=text,
        is_error=bool(block.get("is_error", False)),
        data=cast("Mapping[str, Any]", data) if isinstance(data, dict) else {},
    )


def read_card(data: Mapping[str, Any]) -> Card | None:
    """Read a card from a tool result; None when it has no id."""
    number = data.get("id")
    if isinstance(number, str) and number.isdigit():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    text = {key: str(data.get(key) or "") for key in ("title", "client", "status", "priority", "dueDate")}
    return Card(
        id=number,
        title=text["title"] or f"card {number}",
        client=text["client"],
        status=text["status"],
        priority=text["priority"],
        due=text["dueDate"],
    )


def touched(exchange: Exchange) -> tuple[Card, ...]:
    """Give the cards that an exchange was about: those it made or changed, else those that its answer named.

    Each once, as last seen. What a search found and the answer kept back is nothing that "it" could mean.
    """
    if written := _cards(exchange, ("create_task", "update_task")):
        return written
    named = set(re.findall(r"#(\d+)", exchange.answer or ""))
    return tuple(card for card in _cards(exchange, ("find_tasks",)) if str(card.id) in named)


def _cards(exchange: Exchange, tools: tuple[str, ...]) -> tuple[Card, ...]:
    found: dict[int, Card] = {}
    for call in exchange.calls:
        if call.name not in tools or call.result is None or call.result.is_error:
            continue
        for data in call.result.items or (call.result.data,):
            if card := read_card(data):
                found[card.id] = card
    return tuple(found.values())
