"""From what a pattern captured to the slots of a request: one reader per group name of the grammar's patterns.

A reader gives the slots that its words stand for, or None when they are not what the group's name says, which turns the
pattern down.
"""

import re
from collections.abc import Callable
from datetime import datetime

from runtime.models import offline_dates as dates
from runtime.models import offline_slots as slots
from runtime.models.offline_grammar import VERBS

Slots = dict[str, str | tuple[str, ...]]


def read(match: re.Match[str], now: datetime | None) -> Slots | None:
    """Read every group that took part in the match; None when one of them is not what its name says."""
    groups = {re.sub(r"\d$", "", name): value for name, value in match.groupdict().items() if value is not None}
    found: Slots = {}
    for name, value in groups.items():
        read = _READERS[name](value, groups, now)
        if read is None:
            return None
        found |= read
    return found


def _read_ref(value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    ref = slots.reference(value)
    return {"ref": ref} if ref else None


def _read_status(value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    status = slots.status(value)
    return {"status": status} if status else None


def _read_priority(value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    priority = slots.priority(value)
    return {"priority": priority} if priority else None


def _read_when(value: str, _groups: dict[str, str], now: datetime | None) -> Slots | None:
    # "to Friday, urgent": the deadline may carry a priority.
    rest, priority = slots.extract_priority(value)
    due = dates.resolve(slots.tidy(rest), now)
    if due is None:
        return None
    found: Slots = {"due": due.value} if due.value else {"unclear_due": due.words}
    return found | ({"priority": priority} if priority else {})


def _read_client(value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    name = slots.client(value)
    return {"client": name} if name else None


def _read_who(value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    name = slots.client(value)
    return {"name": name} if name else None


def _read_name(value: str, groups: dict[str, str], _now: datetime | None) -> Slots | None:
    name = value.strip(" '\"")
    return {"client" if "ref" in groups else "name": name} if len(name.split()) <= 6 else None


def _read_title(value: str, groups: dict[str, str], now: datetime | None) -> Slots | None:
    return _card(_without_article(value), groups, now)


# "We need a refund" or "can I get a call?" is a matter for a person, "we need a refund page" is work.
_NOT_NEEDED = re.compile(
    r"\S+ (?:\w+ )?(?:refund|discount|passwords?|access|person|human|call|moment|minute|break|coffee|answer|help"
    r"|money|meeting"
    r"|appointment|word|question|problem|idea|yes|no)s?(?: (?:for|from|with|to|on|about|of|back)\b.*)?",
    re.IGNORECASE,
)


def _read_need(value: str, groups: dict[str, str], now: datetime | None) -> Slots | None:
    if _NOT_NEEDED.fullmatch(value):
        return None
    card = _card(_without_article(value), groups, now)
    return card | {"need": "yes"} if card else None


_NOT_WORK = re.compile(
    r"check (?:out|in)\b.*|call (?:me|us|back|it|them|him|her)\b.*|post (?:no|it)\b.*|book in\b.*|plan (?:to|on)\b.*"
    r"|send (?:me|us|him|her|them|all|everyone|everybody|our customers|the customers|money)\b.*|add (?-i:[A-Z])\w+"
    r" to .*"
    r"|[a-z]+(?: (?:up|into|with|together|out))* (?:it|them|him|her|me|you|yourself|itself|one|everything|anything"
    r"|nothing|something|everyone|everybody)\b.*"
    r"|remove (?!.*\b(?:from|on|in)\b).*"
    r"|[a-z]+(?: (?:up|into|with|together|out))* (?:this|that|these|those|that one|this one|both|all)"
    r"|.*(?<!business )(?<!gift )(?<!loyalty )(?<!greeting )(?<!credit )(?<!christmas )(?<!post )\bcards?\b.*"
    r"|.*\b(?:tasks?|tickets?|the board|passwords?|credentials|api keys?|admin (?:access|rights))(?! reset)\b.*"
    r"|(?:change|set up|update|post|remove|test|create) (?:the |an? )?(?:priority|deadline|due date|status|title"
    r"|swarm)\b.*",
    re.IGNORECASE,
)
_OBJECT_OF_US = re.compile(r"(?P<verb>\w+) us (?=an?\b|the\b|some\b|new\b|two\b|three\b|\d)", re.IGNORECASE)


def _read_work(value: str, groups: dict[str, str], now: datetime | None) -> Slots | None:
    if _NOT_WORK.fullmatch(_OBJECT_OF_US.sub(r"\g<verb> ", value)):
        return None
    return _card(value, groups, now)


_PARTICIPLES = {
    f"{verb[:-1]}ied" if verb.endswith("y") else f"{verb}d" if verb.endswith("e") else f"{verb}ed": verb
    for verb in VERBS
    if " " not in verb
} | {"rewritten": "rewrite", "written": "write", "redone": "redo", "built": "build", "sent": "send", "planned": "plan"}


def _read_participle(value: str, groups: dict[str, str], now: datetime | None) -> Slots | None:
    verb = _PARTICIPLES.get(value.lower())
    if verb is None or slots.reference(groups["subject"]) in (slots.IT, slots.THEM, None):
        return None
    return _card(f"{verb} {slots.as_object(groups['subject'])}", groups, now)


def _card(text: str, groups: dict[str, str], _now: datetime | None) -> Slots | None:
    """Read the words of a new card: its title, and the client when one is named in them."""
    text = slots.tidy(text)
    if len(text) > 1 and text[0] in "'\"“" and text[-1] in "'\"”":
        text = text[1:-1]
    client = ""
    if "client" not in groups:
        # The verb is capitalised like a name, and is none.
        head, _, tail = text.partition(" ")
        tail, client = slots.extract_client(tail)
        text = f"{head} {tail}"
    title = slots.tidy(text)
    # Quotes around a part of the words have lost their partner with what was taken out.
    title = title.replace('"', "").strip("' ") if title.count('"') % 2 else title
    if not title or slots.reference(title) in (slots.IT, slots.THEM) or title == client:
        return None
    found: Slots = {"title": (title[:1].upper() + title[1:])[:200].rstrip()}
    if client:
        found["client"] = client
    elif "client" not in groups and (maybe := slots.maybe_client(title)):
        found["maybe_client"] = maybe
    return found


def _without_article(text: str) -> str:
    return re.sub(r"^(?:the|an?|some)\s+", "", text.strip(" '\"“”"), flags=re.IGNORECASE)


def _read_new_title(value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    title = value.strip(" '\"“”")
    return {"new_title": title[:1].upper() + title[1:]} if title else None


def _read_question(value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    return {"question": value.strip()}


def _read_goal(value: str, groups: dict[str, str], _now: datetime | None) -> Slots | None:
    parts = re.split(r"\s*(?:,\s*and|,|&|\band\b|;)\s*", groups.get("parts", value).strip())
    return {"goal": value.strip(), "parts": tuple(part for part in parts if part)}


def _read_topic(value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    text = _without_article(value).strip(" ?.!")
    return {"text": text} if text and text.lower() not in ("it", "this", "that", "everything", "all", "me") else None


def _read_value(value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    return {"value": value.strip(" .!")} if len(value.split()) > 1 else None


_NOISE = re.compile(
    r"\b(?:all|the|my|our|your|a|an|any|list|overview|of|show|me|us|cards?|tasks?|tickets?|to-?dos?|items?|(?:on"
    r"|from) the board|board|do we"
    r"|have|has|are|is|there|currently|right now|now|at the moment|still|every|which|what|that|in|column|with"
    r"|priority|how many|today|for"
    r"|anything|everything|whole|entire|full|complete list)\b|[,.?!'\"]",
    re.IGNORECASE,
)
_LISTED_STATUS = re.compile(
    r"\b(?P<status>in[ _-]?progress|(?:in |under )?review|(?:in )?(?:the )?backlog|to[ -]do|done|finished"
    r"|completed|closed|open|unfinished)\b",
    re.IGNORECASE,
)
_LISTED_PRIORITY = re.compile(
    r"\b(?P<priority>urgent|critical|important|(?:high|low|medium|normal)(?:[ -]prio(?:rity)?)?)\b", re.IGNORECASE
)
_LISTED_TEXT = re.compile(r"\b(?:about|containing|named|called|matching|mentioning)\s+(?P<text>.+)", re.IGNORECASE)
_LISTED_CLIENT = re.compile(r"\b(?:of|for)\s+(?P<client>[a-z][\w&'.-]*(?:\s+[a-z&][\w&'.-]*){0,3})$")


def _read_filter(value: str, _groups: dict[str, str], now: datetime | None) -> Slots | None:
    rest, found = _filters(value, now)
    return None if rest or "unclear" in found else found


def _read_search(value: str, _groups: dict[str, str], now: datetime | None) -> Slots | None:
    rest, found = _filters(value, now)
    if "unclear" in found or len(rest.split()) > 6 or not (rest or found):
        return None
    return found | ({"text": rest} if rest else {})


def _read_doing(_value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    return {"status": "in_progress"}


def _filters(text: str, now: datetime | None) -> tuple[str, Slots]:
    """Take the filters of a list out of its words: what is left besides noise, and the filters."""
    found: Slots = {}
    if match := _LISTED_TEXT.search(text):
        found["text"] = _without_article(match["text"]).strip(" ?.!")
        text = text[: match.start()]
    if re.search(r"\boverdue\b|\blate\b", text, re.IGNORECASE):
        text, found["due_by"] = re.sub(r"\boverdue\b|\blate\b", "", text, flags=re.IGNORECASE), "overdue"
    rest, due = dates.extract(text, now)
    if due:
        text, last_day = rest, due.value[:10] or dates.last_day(due.words, now)
        found["due_by" if last_day else "unclear"] = last_day or due.words
    text, client = slots.extract_client(text)
    if client:
        found["client"] = client
    for name, pattern, read in (
        ("status", _LISTED_STATUS, _listed_status),
        ("priority", _LISTED_PRIORITY, slots.priority),
    ):
        if match := pattern.search(text):
            found[name] = read(match[0]) or ""
            text = text[: match.start()] + text[match.end() :]
    if (
        (match := _LISTED_CLIENT.search(text.strip(" ?.!")))
        and not client
        and slots.reference(match["client"]) != slots.IT
    ):
        text, maybe = slots.without_client(text, match["client"]), match["client"]
        if slots.maybe_client(f"for {maybe}"):
            found["client"] = maybe
    return re.sub(r"\s+", " ", _NOISE.sub(" ", text)).strip(), found


def _listed_status(words: str) -> str | None:
    if words.lower() in ("open", "unfinished"):
        return "open"
    return slots.status(re.sub(r"^(?:in )?the |^in (?=backlog)", "", words, flags=re.IGNORECASE))


def _fixed(name: str, value: str) -> Callable[[str, dict[str, str], datetime | None], Slots | None]:
    return lambda _value, _groups, _now: {name: value}


def _nothing(_value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    return {}


def _read_choice(value: str, _groups: dict[str, str], _now: datetime | None) -> Slots | None:
    return {"choice": value.strip()}


_READERS: dict[str, Callable[[str, dict[str, str], datetime | None], Slots | None]] = {
    "ref": _read_ref,
    "status": _read_status,
    "priority": _read_priority,
    "adjective": _read_priority,
    "who": _read_who,
    "when": _read_when,
    "client": _read_client,
    "name": _read_name,
    "title": _read_title,
    "need": _read_need,
    "work": _read_work,
    "subject": _nothing,
    "participle": _read_participle,
    "new_title": _read_new_title,
    "question": _read_question,
    "goal": _read_goal,
    "parts": _nothing,
    "text": _read_topic,
    "value": _read_value,
    "filter": _read_filter,
    "search": _read_search,
    "doing": _read_doing,
    "choice": _read_choice,
    "in_progress": _fixed("status", "in_progress"),
    "done": _fixed("status", "done"),
    "todo": _fixed("status", "todo"),
    "high": _fixed("priority", "high"),
    "low": _fixed("priority", "low"),
}
