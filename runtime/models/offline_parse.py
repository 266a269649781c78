"""From a person's words to requests: sentences, politeness, slots, and the table of `runtime.models.offline_grammar`.

Pure and without state. What a sentence does not say is an empty slot; a sentence that no rule covers is `unknown`.
"""

import re
import unicodedata
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cache, lru_cache

from runtime.models import offline_dates as dates
from runtime.models import offline_slots as slots
from runtime.models.offline_grammar import ACTING, BROKEN_THEN_FIX, RULES, VERBS, Intent, Rule
from runtime.models.offline_readers import Slots, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One thing that a message asks for. Every slot that was not named is empty."""

    intent: Intent
    words: str
    """The sentences it came from, as written."""
    title: str = ""
    client: str = ""
    maybe_client: str = ""
    """Lower-case words at the end of the title which name a client only if `get_client` says so."""
    priority: str = ""
    due: str = ""
    unclear_due: str = ""
    """A deadline in words that do not say one date."""
    ref: str = ""
    """The card meant: "it", "them", "#12", or the words that name it."""
    new_title: str = ""
    status: str = ""
    due_by: str = ""
    """For a list: "overdue", or the last due date to show."""
    name: str = ""
    text: str = ""
    question: str = ""
    value: str = ""
    goal: str = ""
    parts: tuple[str, ...] = ()
    choice: str = ""

    @property
    def named(self) -> dict[str, str | tuple[str, ...]]:
        """The slots that were named."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value and name not in ("intent", "words")}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sentence:
    """One sentence, prepared for the table."""

    raw: str
    words: str
    core: str
    priority: str = ""
    due: dates.Due | None = None
    is_asked: bool = False
    """It was put as a request ("could you ...")."""
    is_question: bool = False

    @property
    def has_mark(self) -> bool:
        return bool(self.priority or self.due)


_GREETING = (
    r"(?:hi|hello|hey|hallo|dear|good (?:morning|afternoon|evening|day))"
    r"(?: (?:there|team|all|everyone|everybody|folks|guys|(?-i:[A-Z]\w+)))?\s*[,!.:–-]*\s+"
)
_FILLER = (
    r"(?:(?:ok|okay|so|well|great|perfect|cool|also|and|then|and then|just|actually|btw|by the way|one more thing"
    r"|oh|ah|sorry"
    r"|(?:two|three|four|some|a few|several) (?:small |quick )?things[,:]|one more[,:]|additionally|thanks|thank"
    r" you|plus|quick one|and also)[,:.!]*|(?:first|second|third|next|finally|lastly)[,:])\s+"
)
_PLEASE = r"(?:please|pls|plz|pleas|kindly)[,:]*\s+|@\w+[,:]?\s+"
_ASKING = (
    r"(?:can|could|would|will)\s+(?:you|u|someone|somebody|anyone|anybody|one of you|your team|the team)"
    r"(?:\s+(?:guys|folks|all|team))?(?:\s+(?:maybe|perhaps|possibly|also|quickly|just))?\s+"
    r"|(?:can|could) we\s+(?:please\s+)?(?!get\b|have\b|talk\b|speak\b|chat\b)"
    r"|(?:i|we)(?:'d| would)?\s+(?:like|love|want|need|ask)\s+(?:you|someone|somebody|your team)\s+to\s+"
    r"|(?:i|we)(?:'d| would)?\s+(?:(?:urgently|really|also|still)\s+)*(?:need|have|want|like|love)\s+to\s+"
    r"|(?:it )?would (?:it )?be (?:great|nice|good|lovely|awesome|helpful|possible)\s+(?:if (?:you|someone|we)"
    r" could|to)\s+"
    r"|is it possible to\s+|be so kind (?:as|and) to\s+|(?:let's|lets)\s+|(?:someone|somebody) (?:should|please"
    r"|needs to|has to)\s+"
    r"|(?:don'?t|do not) forget to\s+|remember to\s+|(?:please )?(?:make sure|ensure)(?: to| that you| you)\s+"
)
_ASKED = re.compile(_ASKING, re.IGNORECASE)
_POLITE = re.compile(f"(?:{_GREETING}|{_FILLER}|{_PLEASE})", re.IGNORECASE)
_CLOSING = re.compile(
    r"[\s,.!?;:–-]+(?:please|pls|plz|many thanks|thanks?(?: you)?(?: (?:so|very) much| a lot| in advance)?|thx|ty"
    r"|cheers|ok|okay"
    r"|if possible|if you can|when you can|when you get a chance|will you|would you|too|as well)[\s,.!?]*$",
    re.IGNORECASE,
)
_TYPOS = {
    "crete": "create", "creat": "create", "udpate": "update", "upadte": "update", "updat": "update", "pelase": "please",
    "plase": "please", "plese": "please", "prepair": "prepare", "prepaire": "prepare", "desing": "design",
    "wirte": "write", "chekc": "check", "fxi": "fix", "repalce": "replace", "remeber": "remember", "rember": "remember",
    "tommorow": "tomorrow", "tomorow": "tomorrow", "tmrw": "tomorrow", "wensday": "wednesday", "wednsday": "wednesday",
    "thrusday": "thursday", "firday": "friday", "urgend": "urgent", "shedule": "schedule",
}  # fmt: skip
_TYPO = re.compile(r"\b(?:" + "|".join(_TYPOS) + r")\b", re.IGNORECASE)

_NO_END = "".join(
    rf"(?<!\b{word})"
    for word in (
        "Dr",
        "Mr",
        "Mrs",
        "Ms",
        "Prof",
        "St",
        "No",
        "no",
        "Nr",
        "nr",
        r"e\.g",
        r"i\.e",
        r"[ap]\.m",
        r"\d",
        r"\d\d",
    )
)
_SENTENCE_END = re.compile(rf"\n+|(?<=[!?;])\s+|{_NO_END}\.\s+")
_NEXT_VERB = "|".join(
    sorted(
        (*VERBS, "move", "mark", "close", "make", "set", "rename", "put", "postpone", "reopen", "show", "list", "add",
         "start", "who is", "what is", "what's", "tell", "run", "do"),
        key=len,
        reverse=True,
    )
)  # fmt: skip
# A verb is only taken for the start of another request when an object follows: "copy and design for the flyer" is one.
_JOINT = re.compile(
    r"(?:,?\s+(?:and also|and then|and|then|plus|as well as)\s+(?:also\s+|then\s+)?|,\s+(?:also\s+)?|\s+&\s+)"
    rf"(?=(?:(?:please|pls|can you|could you)\s+)?(?:(?:{_NEXT_VERB})\s+(?:the|an?|our|my|their|his|her|its?|them"
    rf"|both|this|that|these|those|all|some|new|two|three|us|on|to|[\"'#“]|(?-i:[A-Z0-9]))|remember that\b))",
    re.IGNORECASE,
)
_WITHDRAWN = re.compile(
    r"\b(?:changed (?:my|our) mind|scratch that|forget (?:it|about it)|never ?mind|no,? wait|on second thoughts?"
    r"|just kidding"
    r"|(?:ignore|disregard) (?:that|this|it|my|all|the|any|previous|your)\b|cancel (?:that|it)|forget"
    r" that(?=\s*(?:[.!?]|$)))",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(?:don'?t|do not|does(?:n'?t| not)|did(?:n'?t| not)|never|not|no need|no longer|stop|(?:is|are|was|wo|ca"
    r"|should|need|must)n'?t"
    r"|cannot|nobody|nothing|neither|instead of|rather than)\b",
    re.IGNORECASE,
)
_CONDITIONAL = re.compile(
    r"\b(?:if|unless|once|in case|provided|assuming|suppose|whether|when|as soon as|depending|maybe|perhaps|or"
    r"|either)\b",
    re.IGNORECASE,
)
_DETAIL = re.compile(
    r"(?!.*\b(?:delete|remove|erase|wipe|drop|pay|refund|transfer|cancel|ignore|grant|password|send|give|do|create"
    r"|all)\b)(?:the|it|it's|this|"
    r"that|there|our|my|we|i|they|he|she|an?|its|see|attached|here|because|right now|currently|especially|also the"
    r"|\w+ly)\b[^?]*",
    re.IGNORECASE | re.DOTALL,
)


_MAX_CHARS = 4000
"""Longer messages go to a person whole: what matters in them is not said in single sentences."""
_MAX_SENTENCE_CHARS = 500
"""The patterns take time quadratic in the length of a sentence: 15 ms at this one."""


# Every reply of an exchange reads the same message again.
@lru_cache(maxsize=256)
def parse(text: str, now: datetime | None) -> tuple[Request, ...]:
    """Return what a message asks for, in its order; empty for a message without words.

    `now` carries the person's time zone; None when it is not known, and relative dates are then unclear.
    """
    said = _cleaned(text)
    if not said:
        return ()
    if len(said) > _MAX_CHARS:
        return (Request(intent="unknown", words=said),)
    requests = [request for sentence in _sentences(_mended(said)) for request in _requests(sentence, now)]
    return tuple(_settled(requests, said))


def _cleaned(text: str) -> str:
    text = text.replace("’", "'").replace("‘", "'").replace("\r", "")
    text = "".join(
        char for char in text if char < "\u2190" or unicodedata.category(char) not in ("So", "Sk", "Mn", "Cf", "Cs")
    )
    text = _TYPO.sub(lambda match: _TYPOS[match[0].lower()], text.replace("\ufe0f", "").replace("\u200d", ""))
    lines = (
        re.sub(r"^\s*(?:[-*•–]|\d{1,2}[.)])\s+", "", line) for line in text.split("\n") if not line.startswith(">")
    )
    return "\n".join(
        line for line in (re.sub(r"\s+", " ", line).strip() for line in lines) if re.search(r"[\w?]", line)
    )


def _mended(text: str) -> str:
    """Turn "the form is broken, please fix it" into "fix the form"."""
    return re.sub(BROKEN_THEN_FIX, _mend, text, flags=re.IGNORECASE)


def _mend(match: re.Match[str]) -> str:
    subject = match["subject"].strip()
    if (
        re.match(r"(?:i|we|it|he|she|you|there|if|when|what|why|how|this|that)\b", subject, re.IGNORECASE)
        or len(subject.split()) > 8
    ):
        return match[0]
    return f"{match['polite'] or ''}{match['verb']} {slots.as_object(subject)}"


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def _requests(raw: str, now: datetime | None) -> list[Request]:
    """Read one sentence, as several requests where a verb and its object follow an "and"."""
    whole = _request(raw, now)
    if len(raw) > _MAX_SENTENCE_CHARS or whole.intent in ("remember", "recall", "forget", "person", "swarm"):
        return [whole]
    pieces = _JOINT.split(raw)
    if len(pieces) == 1:
        return [whole]
    found = [_request(piece, now) for piece in pieces]
    if any(request.intent in ("unknown", "choose") for request in found):
        return [whole]
    # "Fix the header and update the footer for Acme by Friday": whether Acme and Friday belong to both is not said, so
    # one card keeps the sentence together.
    shared = whole.intent == "add" and all(request.intent == "add" for request in found)
    if shared and not any(_marks(request) for request in found[:-1]) and _marks(found[-1]):
        return [whole]
    return found


def _marks(request: Request) -> bool:
    return bool(request.client or request.maybe_client or request.due or request.unclear_due or request.priority)


def _request(raw: str, now: datetime | None) -> Request:
    if len(raw) > _MAX_SENTENCE_CHARS:
        return Request(intent="unknown", words=raw)
    sentence = _prepared(raw, now)
    for rule in RULES:
        if request := _applied(rule, sentence, now):
            return request
    return Request(intent="unknown", words=raw)


def _prepared(raw: str, now: datetime | None) -> _Sentence:
    words, is_asked = _without_politeness(raw)
    rest, due = dates.extract(words, now)
    rest, priority = slots.extract_priority(rest)
    core, is_asked_inside = _without_politeness(slots.tidy(rest))
    return _Sentence(
        raw=raw,
        words=words or slots.tidy(raw),
        core=core,
        priority=priority,
        due=due,
        is_asked=is_asked or is_asked_inside,
        is_question=raw.rstrip(" !.").endswith("?"),
    )


def _without_politeness(text: str) -> tuple[str, bool]:
    is_asked = False
    rest = f"{slots.tidy(text)} "
    while True:
        if match := _POLITE.match(rest):
            rest = rest[match.end() :]
        elif match := _ASKED.match(rest):
            is_asked, rest = True, rest[match.end() :]
        else:
            break
    rest = rest.strip()
    while match := _CLOSING.search(rest):
        rest = rest[: match.start()]
    return slots.tidy(rest), is_asked


def _applied(rule: Rule, sentence: _Sentence, now: datetime | None) -> Request | None:
    if rule.needs_mark and not sentence.has_mark:
        return None
    text = {"raw": slots.tidy(sentence.raw), "words": sentence.words, "core": sentence.core}[rule.on]
    for pattern in rule.patterns:
        match = _compiled(pattern).fullmatch(text)
        found = read(match, now) if match else None
        if found is not None and not _turned_down(rule, found, sentence):
            return _built(rule, found, sentence)
    return None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _turned_down(rule: Rule, found: Slots, sentence: _Sentence) -> bool:
    if rule.intent not in ACTING:
        return False
    if _NEGATED.search(sentence.core) or _CONDITIONAL.search(sentence.core):
        return True
    # "Redesign the homepage?" asks for an opinion, "could you redesign the homepage?" for the work.
    return sentence.is_question and not sentence.is_asked and "need" not in found


def _built(rule: Rule, found: Slots, sentence: _Sentence) -> Request | None:
    found = {name: value for name, value in found.items() if name != "need"}
    if rule.intent in ("change", "move"):
        found.setdefault("ref", slots.IT)
    if rule.on == "core":
        found = _marked(found, sentence)
    # The dictionary's keys are the slots that the readers and `_marked` write, all of them fields of Request.
    return Request(intent=rule.intent, words=sentence.raw, **found)  # pyright: ignore[reportArgumentType]


def _marked(found: Slots, sentence: _Sentence) -> Slots:
    marks: Slots = {}
    if sentence.priority:
        marks["priority"] = sentence.priority
    if sentence.due:
        marks["due" if sentence.due.value else "unclear_due"] = sentence.due.value or sentence.due.words
    return found | marks


# --- the sentences of a message belong together ---


def _settled(requests: list[Request], said: str) -> list[Request]:
    """Fold afterthoughts and details into the request they belong to, and drop small talk beside requests."""
    wanted = [request for request in requests if request.intent not in ("greet", "thank")]
    if not wanted:
        return requests[:1]
    if any(request.intent in ACTING for request in wanted) and _WITHDRAWN.search(said):
        return [Request(intent="unknown", words=said)]
    if len(wanted) > 1 and wanted[1].intent == "add" and _is_heading(wanted[0], wanted[1]):
        wanted[:2] = [replace(wanted[1], words=f"{wanted[0].words} {wanted[1].words}", **_additions(wanted[0]))]
    settled: list[Request] = []
    for request in wanted:
        if not _folded(request, settled, wanted):
            settled.append(request)
    return settled


def _folded(request: Request, settled: list[Request], wanted: list[Request]) -> bool:
    """Merge a request into the one before it, if it is no request of its own."""
    adds = [place for place, other in enumerate(settled) if other.intent == "add"]
    if len(adds) == 1 and _is_afterthought(request, settled[adds[0]]):
        card = settled[adds[0]]
        settled[adds[0]] = replace(card, words=f"{card.words} {request.words}", **_additions(request))
        return True
    return request.intent == "unknown" and _is_detail(request, settled, wanted)


def _is_detail(request: Request, settled: list[Request], wanted: list[Request]) -> bool:
    """Merge a sentence that no rule covers: into the one before, or as a detail of the only card of the message."""
    last = settled[-1] if settled else None
    joined = f"{last.words} {request.words}" if last else request.words
    if last and last.intent == "unknown":
        settled[-1] = replace(last, words=joined)
        return True
    if sum(other.intent == "add" for other in wanted) != 1 or not _DETAIL.fullmatch(request.words):
        return False
    if last and last.intent == "add":
        settled[-1] = replace(last, words=joined)
    return True


def _is_heading(request: Request, card: Request) -> bool:
    """Tell whether a sentence only announces the next one: "Urgent!!! Fix the shop."."""
    names_card = re.search(r"\b(?:it|that|this|card|task|one)\b", request.words, re.IGNORECASE)
    return _is_afterthought(request, card) and not names_card


def _is_afterthought(request: Request, card: Request) -> bool:
    """Tell whether a sentence completes the card that the message makes: "Fix the form. It's urgent."."""
    is_about_it = request.intent == "change" and request.ref == slots.IT and not request.new_title
    return is_about_it and not any(name in card.named for name in _additions(request))


def _additions(request: Request) -> dict[str, str]:
    named = {
        "priority": request.priority,
        "due": request.due,
        "unclear_due": request.unclear_due,
        "client": request.client,
    }
    return {name: value for name, value in named.items() if value}
