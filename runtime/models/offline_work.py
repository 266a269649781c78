"""How the offline model carries out each kind of request: one generator per intent.

A generator yields the tool calls it needs and is sent their results; what it returns is its share of the answer. It is
started anew for every reply and fed with the results that the history already holds, so the model keeps no state.
"""

import json
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

from runtime.models import offline_slots as slots
from runtime.models.offline_dates import spoken
from runtime.models.offline_grammar import RULES
from runtime.models.offline_history import Card, Result, read_card
from runtime.models.offline_parse import Request
from runtime.ports import Json

QUESTION = "Which card do you mean"
"""How the model asks back; it recognises its own question by these words when the answer comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call that a request needs."""

    name: str
    arguments: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A request's share of the answer."""

    text: str
    touched: tuple[Card, ...] = ()
    """Cards it made or changed."""


Work = Generator[Call, Result, Outcome]


@dataclass(slots=True, kw_only=True)
class Scene:
    """What the requests of one message can see besides their own words."""

    offered: Collection[str]
    now: datetime | None = None
    earlier: Sequence[tuple[Card, ...]] = ()
    """The cards of the exchanges before, oldest first."""
    current: dict[int, Card] = field(default_factory=dict[int, Card])
    """The cards that this message made or changed."""

    @property
    def at_hand(self) -> tuple[Card, ...]:
        """The cards that "it" and "them" can mean: those of the last exchange that touched any."""
        groups = [group for group in (*self.earlier, tuple(self.current.values())) if group]
        return groups[-1] if groups else ()

    @property
    def visible(self) -> dict[int, Card]:
        """All cards of the conversation, as last seen."""
        return {card.id: card for group in self.earlier for card in group} | self.current


def work_on(request: Request, scene: Scene) -> Work:
    """Return the generator that carries out a request."""
    return _WORK[request.intent](request, scene)


# --- cards ---


def _add(request: Request, scene: Scene) -> Work:
    title, client = request.title, request.client
    if request.maybe_client:
        client = yield from _verified_client(request.maybe_client, scene)
        title = slots.without_client(title, request.maybe_client) if client else title
    arguments = {
        "title": title,
        # One open card per conversation and intent: the same work for another client is another card.
        "intent": slug(f"{title} {client}"),
        "description": request.words,
        "priority": request.priority or "medium",
        "due": request.due,
        "client": client,
    }
    result = yield Call(name="create_task", arguments=_given(arguments))
    card = read_card(result.data)
    if result.is_error or card is None:
        return Outcome(text=f"I could not put '{title}' on the board: {result.text}")
    head = "is already on the board; I updated it" if result.data.get("created") is False else "is on the board"
    priority = "" if request.priority in ("", "medium") else f", {request.priority}"
    due = f", due {spoken(request.due, scene.now)}" if request.due else ""
    text = f"Done: '{card.title}'{_for_client(card)} {head}{priority}{due}.{_note(result)}{_unclear(request)}"
    return Outcome(text=text, touched=(card,))


def _verified_client(name: str, scene: Scene) -> Generator[Call, Result, str]:
    """Give the client's name if these lower-case words are one, else nothing."""
    for card in scene.visible.values():
        if card.client.lower() == name.lower():
            return card.client
    if "get_client" not in scene.offered:
        return ""
    result = yield Call(name="get_client", arguments={"name": name})
    return "" if result.is_error else str(result.data.get("name") or "")


def _for_client(card: Card) -> str:
    return f" for {card.client}" if card.client else ""


def _note(result: Result) -> str:
    note = str(result.data.get("note") or "").strip(" .")
    return f" Note: {note}." if note else ""


def _unclear(request: Request) -> str:
    if not request.unclear_due:
        return ""
    return (
        f" I did not set a due date, because '{request.unclear_due}' does not tell me one date in the future;"
        " write it as 2026-11-27 or '27 November'."
    )


def _given(arguments: Mapping[str, Any]) -> Json:
    return {name: value for name, value in arguments.items() if value}


def slug(text: str) -> str:
    """Give a key for a text: lower case, joined by hyphens, at most 100 characters as agencyTasks.intent allows."""
    words = "-".join("".join(char if char.isalnum() else " " for char in text.lower()).split())
    return words[:100].rstrip("-") or "general"


def _change(request: Request, scene: Scene) -> Work:
    wanted = {
        "title": request.new_title,
        "status": request.status,
        "priority": request.priority,
        "due": request.due,
        "client": request.client,
    }
    arguments = _given(wanted)
    if not arguments:
        return Outcome(text=f"I changed nothing.{_unclear(request)}")
    found = yield from _meant(request.ref, scene)
    if isinstance(found, str):
        return Outcome(text=found)
    changed: list[Card] = []
    texts: list[str] = []
    for card in found:
        result = yield Call(name="update_task", arguments={"id": card.id, **arguments})
        after = read_card(result.data)
        if result.is_error or after is None:
            texts.append(f"I could not change {_short(card)}: {result.text}")
            continue
        changed.append(after)
        texts.append(f"Done: {_short(after)} is now {_changes(request, scene)}.{_note(result)}")
    return Outcome(text=" ".join(texts) + _unclear(request), touched=tuple(changed))


def _changes(request: Request, scene: Scene) -> str:
    said = (
        (request.status, f"in {_spoken_status(request.status)}" if request.status != "done" else "done"),
        (request.priority, f"{request.priority} priority" if request.priority != "urgent" else "urgent"),
        (request.due, f"due {spoken(request.due, scene.now)}"),
        (request.client, f"for {request.client}"),
        (request.new_title, "renamed"),
    )
    return ", ".join(text for value, text in said if value)


def _spoken_status(status: str) -> str:
    return status.replace("_", " ")


def _short(card: Card) -> str:
    return f"#{card.id} '{card.title}'"


def _show(request: Request, scene: Scene) -> Work:
    found = yield from _meant(request.ref, scene, is_shown=True)
    if isinstance(found, str):
        return Outcome(text=found)
    return Outcome(text="\n".join(_line(card, scene) for card in found))


def _line(card: Card, scene: Scene) -> str:
    facts = (
        _spoken_status(card.status),
        card.priority if card.priority != "medium" else "",
        f"due {spoken(card.due, scene.now)}" if card.due else "",
        card.client,
    )
    return f"#{card.id} {card.title}: " + (", ".join(fact for fact in facts if fact) or "no details")


# --- which card is meant ---

_Meant = Generator[Call, Result, tuple[Card, ...] | str]
"""Ends with the cards meant, or with what to ask the person."""


def _meant(ref: str, scene: Scene, *, is_shown: bool = False) -> _Meant:
    if ref == slots.IT:
        return (yield from _at_hand(scene))
    if ref == slots.THEM:
        cards = scene.at_hand
        return cards if len(cards) > 1 else f"{QUESTION}? I do not see several cards in what we just spoke about."
    if ref.startswith("#"):
        return (yield from _numbered(int(ref[1:]), scene, is_shown=is_shown))
    return (yield from _named(ref, scene))


def _at_hand(scene: Scene) -> _Meant:
    if cards := scene.at_hand:
        return cards if len(cards) == 1 else _which(cards)
    remembered = yield from _remembered(scene)
    return (
        (remembered,) if remembered else f"{QUESTION}? I see no card in this conversation; give me its number or title."
    )


def _remembered(scene: Scene) -> Generator[Call, Result, Card | None]:
    """Look up the card of an earlier conversation, which `remember` stored under "last_card"."""
    if "recall" not in scene.offered:
        return None
    result = yield Call(name="recall", arguments={"text": "last_card"})
    values = [item.get("value") for item in result.items if item.get("key") == "last_card"]
    if len(values) != 1 or not isinstance(values[0], dict):
        return None
    return read_card(cast("Mapping[str, Any]", values[0]))


def _numbered(number: int, scene: Scene, *, is_shown: bool) -> _Meant:
    """A number is exact, so a change needs no look-up; to show the card, its latest state is read."""
    card = scene.visible.get(number, Card(id=number, title=f"card {number}"))
    if not is_shown:
        return (card,)
    if number in scene.visible and "find_tasks" not in scene.offered:
        return (card,)
    result = yield Call(name="find_tasks", arguments={"limit": 100})
    found = tuple(card for card in _cards_of(result) if card.id == number)
    return found or f"I found no card #{number} among the first {len(result.items)} cards."


def _named(name: str, scene: Scene) -> _Meant:
    """Look in the conversation first, then on the board. The card's own words must hold the whole name."""
    visible = _fitting(name, tuple(scene.visible.values()))
    if visible:
        return visible if len(visible) == 1 else _which(visible)
    result = yield Call(name="find_tasks", arguments={"text": slots.search_words(name)})
    found = _fitting(name, _cards_of(result))
    if not found and slots.client(name):
        result = yield Call(name="find_tasks", arguments={"client": name})
        found = _fitting(name, _cards_of(result))
    if result.is_error:
        return f"I could not look for '{name}': {result.text}"
    if not found:
        return f"{QUESTION}? I found no card for '{name}'; give me its number or title."
    return found if len(found) == 1 else _which(found)


def _fitting(name: str, cards: tuple[Card, ...]) -> tuple[Card, ...]:
    wanted = slots.content_words(name)
    exact = tuple(card for card in cards if card.title.lower() == name.lower())
    return exact or tuple(
        card for card in cards if wanted and wanted <= slots.content_words(f"{card.title} {card.client}")
    )


def _which(cards: Sequence[Card]) -> str:
    return f"{QUESTION}: {' or '.join(_short(card) for card in cards[:10])}?"


def _cards_of(result: Result) -> tuple[Card, ...]:
    return tuple(card for item in result.items if (card := read_card(item)))


# --- the board ---


def _list(request: Request, scene: Scene) -> Work:
    limit = 100 if request.due_by or request.status == "open" else 20
    arguments = {
        "text": request.text,
        "status": "" if request.status == "open" else request.status,
        "client": request.client,
        "priority": request.priority,
        "limit": limit,
    }
    result = yield Call(name="find_tasks", arguments=_given(arguments))
    if result.is_error:
        return Outcome(text=f"I could not read the board: {result.text}")
    cards = [card for card in _cards_of(result) if _is_listed(card, request, scene)]
    if not cards:
        return Outcome(text="I found no such card.")
    bound = f" (of the first {len(result.items)} cards)" if len(result.items) >= limit else ""
    lines = "\n".join(_line(card, scene) for card in cards)
    return Outcome(text=f"{len(cards)} card{'s' if len(cards) > 1 else ''}{bound}:\n{lines}")


def _is_listed(card: Card, request: Request, scene: Scene) -> bool:
    if request.status == "open" and card.status == "done":
        return False
    if not request.due_by:
        return True
    if not card.due or card.status == "done":
        return False
    day = _local_day(card.due, scene.now)
    if request.due_by == "overdue":
        return scene.now is not None and day < scene.now.date().isoformat()
    return day <= request.due_by


def _local_day(value: str, now: datetime | None) -> str:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return value[:10]
    return (moment.astimezone(now.tzinfo) if now and moment.tzinfo else moment).date().isoformat()


def _status(_request: Request, _scene: Scene) -> Work:
    result = yield Call(name="find_tasks", arguments={"limit": 100})
    if result.is_error:
        return Outcome(text=f"I could not read the board: {result.text}")
    cards = _cards_of(result)
    counts = {name: sum(card.status == name for card in cards) for name in slots.STATUSES}
    said = ", ".join(f"{count} {_spoken_status(name)}" for name, count in counts.items() if count)
    return Outcome(text=f"On the board: {said}." if said else "The board is empty.")


# --- clients and memory ---


def _client(request: Request, _scene: Scene) -> Work:
    result = yield Call(name="get_client", arguments={"name": request.name})
    if result.is_error or not result.data.get("name"):
        return Outcome(text=f"I found no client '{request.name}'.")
    facts = [f"{key}: {value}" for key, value in result.data.items() if key not in ("id", "name") and _is_fact(value)]
    return Outcome(text=f"{result.data['name']} is a client." + (f" {'; '.join(facts)}." if facts else ""))


def _is_fact(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""


def _remember(request: Request, _scene: Scene) -> Work:
    arguments = {"key": slug(request.value)[:60].rstrip("-"), "value": request.value}
    result = yield Call(name="remember", arguments=arguments)
    if result.is_error:
        return Outcome(text=f"I could not note that: {result.text}")
    return Outcome(text=f"Noted: {request.value}.")


def _recall(request: Request, _scene: Scene) -> Work:
    result = yield Call(name="recall", arguments={"text": slots.search_words(request.text)})
    if result.is_error:
        return Outcome(text=f"I could not look that up: {result.text}")
    known = [_fact(item) for item in result.items if item.get("key") != "last_card"]
    return Outcome(text=f"I noted: {'; '.join(known)}." if known else f"I have nothing noted about '{request.text}'.")


def _fact(item: Mapping[str, Any]) -> str:
    value = item.get("value")
    if isinstance(value, dict):
        return f"{item.get('key')}: {json.dumps(value, ensure_ascii=False)}"
    return str(value).strip(" .")


def _forget(request: Request, scene: Scene) -> Work:
    """Delete the one fact that holds all the words; look it up even if `forget` is not offered, so as to say so."""
    if "forget" not in scene.offered:
        return (yield from _only(Call(name="forget", arguments={"key": ""})))
    result = yield Call(name="recall", arguments={"text": slots.search_words(request.text)})
    wanted = slots.content_words(request.text)
    fitting = [
        item for item in result.items if wanted and wanted <= slots.content_words(f"{item.get('key')} {_fact(item)}")
    ]
    if not fitting:
        return Outcome(text=f"I have nothing noted about '{request.text}', so there was nothing to forget.")
    if len(fitting) > 1:
        return Outcome(
            text=f"I deleted nothing, because several notes fit: {'; '.join(_fact(item) for item in fitting)}."
        )
    done = yield Call(name="forget", arguments={"key": str(fitting[0].get("key"))})
    if done.is_error or done.data.get("deleted") is not True:
        return Outcome(text=f"I could not forget that: {done.text}")
    return Outcome(text=f"Forgotten: {_fact(fitting[0])}.")


def _only(call: Call) -> Work:
    result = yield call
    return Outcome(text=result.text)


# --- people, swarms, and everything else ---


def _person(request: Request, scene: Scene) -> Work:
    """Hand over, which silences the bot; a mere question to somebody ("ask Anna whether ...") does not."""
    if "hand_over" in scene.offered and not request.question:
        result = yield Call(name="hand_over", arguments={"summary": request.words})
        if not result.is_error:
            return Outcome(text="A person will get back to you.")
    result = yield Call(name="ask_person", arguments={"question": request.words})
    if result.is_error:
        return Outcome(text=f"I could not reach a person: {result.text}")
    return Outcome(text="I passed that on to a person, who will get back to you.")


def _swarm(request: Request, scene: Scene) -> Work:
    tool = "delegate" if "delegate" in scene.offered and "swarm_start" not in scene.offered else "swarm_start"
    result = yield Call(name=tool, arguments={"goal": request.goal, "parts": list(request.parts)})
    if result.is_error:
        return Outcome(text=f"I could not start the swarm: {result.text}")
    count = len(request.parts)
    return Outcome(text=f"A swarm works on {count} part{'s' if count > 1 else ''}: {', '.join(request.parts)}.")


def _help(_request: Request, _scene: Scene) -> Work:
    yield from ()
    seen = {rule.intent: rule for rule in reversed(RULES) if rule.intent not in ("greet", "thank", "help", "choose")}
    lines = (f"- {rule.says} For example: {rule.examples[0]}" for rule in reversed(seen.values()))
    return Outcome(text="I am the offline model: I understand plain requests about the board.\n" + "\n".join(lines))


def _greet(_request: Request, _scene: Scene) -> Work:
    yield from ()
    return Outcome(text="Hello! Tell me what to put on the board, or ask for help.")


def _thank(_request: Request, _scene: Scene) -> Work:
    yield from ()
    return Outcome(text="All right.")


def _unknown(request: Request, scene: Scene) -> Work:
    nearest = _nearest(request.words)
    if "ask_person" not in scene.offered:
        return Outcome(text=f"I cannot do that offline. {nearest}")
    result = yield Call(name="ask_person", arguments={"question": request.words})
    if result.is_error:
        return Outcome(text=f"I cannot do that offline, and I could not reach a person: {result.text} {nearest}")
    return Outcome(text=f"I cannot do that offline, so a person will look at it. {nearest}")


def _nearest(words: str) -> str:
    """Name what the model can do whose examples share most words with these; the first of the table among equals."""
    said = slots.content_words(words)
    offers = [(rule, example) for rule in RULES if rule.intent != "choose" for example in rule.examples]
    rule, example = max(offers, key=lambda offer: len(said & slots.content_words(offer[1])))
    if not said & slots.content_words(example):
        return "Write 'help' to see what I can do."
    return f"The nearest thing I can do: {rule.says[:1].lower()}{rule.says[1:].rstrip('.')}, for example '{example}'."


_WORK: Mapping[str, Callable[[Request, Scene], Work]] = {
    "add": _add,
    "change": _change,
    "move": _change,
    "show": _show,
    "list": _list,
    "status": _status,
    "client": _client,
    "remember": _remember,
    "recall": _recall,
    "forget": _forget,
    "person": _person,
    "swarm": _swarm,
    "help": _help,
    "greet": _greet,
    "thank": _thank,
    "unknown": _unknown,
    "choose": lambda request, scene: _unknown(replace(request, intent="unknown"), scene),
}
