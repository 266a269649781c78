"""The words behind a slot: priorities, statuses, clients, and what a person calls a card.

Each reader takes a sentence (or the part a pattern captured) and gives the slot's value, or None when the words are not
such a value, so that the pattern does not apply.
"""

import re

PRIORITIES = {
    "urgent": r"urgent(?:ly)?|a\.?s\.?a\.?p\.?|as soon as possible|immediately|right away|critical|an emergency"
    r"|(?:top|highest|urgent|critical)[ -]prio(?:rity)?",
    "high": r"important|high(?:er)?[ -]prio(?:rity)?",
    "medium": r"(?:medium|normal)[ -]prio(?:rity)?",
    "low": r"not (?:that |so |very |really |too )?(?:urgent|important|critical)|(?:there(?:'s| is) )?no (?:rush|hurry)"
    r"|low(?:er|est)?[ -]prio(?:rity)?|whenever(?: (?:you|it|there|possible|convenient)[^,.;!?]*)?"
    r"|when (?:you have|there is|there's) time|in no hurry|take your time|can wait",
}
"""How people say each priority. Negations stand under "low": "not urgent" is a wish, not the lack of one."""

STATUSES = {
    "backlog": r"(?:the )?back\s?log",
    "todo": r"to[ -]?do|the to[ -]?do (?:column|list)|next up|open",
    "in_progress": r"in[ _-]?progress|doing|started|under way|being worked on|wip",
    "review": r"(?:in |for |ready for |the )?review(?: column)?|in review|under review|to be reviewed",
    "done": r"done|complete|completed|finished|closed|ready",
}
"""How people say each status of a card."""

_NAMED_PRIORITIES = PRIORITIES | {
    "high": PRIORITIES["high"] + "|high",
    "medium": PRIORITIES["medium"] + "|medium|normal",
    "low": PRIORITIES["low"] + "|low",
}
_PRIORITY_WORDS = "|".join(PRIORITIES[name] for name in ("low", "urgent", "high", "medium"))
_STRESS = r"(?:(?:very|super|really|quite|extremely|absolutely|also|a bit|rather|with|of)\s+)*"
# "the Urgent Care page" and "a post about critical CSS" are titles: a priority stands alone between punctuation, after
# "it is" or at an end; only adverbs may stand inside a sentence.
_ALONE = re.compile(
    r"(?:^|(?<=[,;:!(–-])|\b(?:(?:it|this|that)(?:'?s|\sis)|and|as|but)(?=\s)|(?<=\bis)|(?<=\bbe)|(?<=\bone))\s*"
    rf"{_STRESS}(?:{_PRIORITY_WORDS})(?=\s*(?:$|[,;:!?.)–-])|\s+(?:please|pls|and|too|by)\b)",
    re.IGNORECASE,
)
_ADVERB = re.compile(
    r"\b(?:urgently|a\.s\.a\.p\.?|asap|as soon as possible|immediately|right away)(?![\w-])"
    r"|\b(?:with (?:high|low|top|medium|normal|urgent) prio(?:rity)?|when(?:ever)? you (?:have|find) (?:the )?time"
    r"|no rush"
    r"|no hurry)\b",
    re.IGNORECASE,
)


def priority(words: str) -> str | None:
    """Read a phrase that is nothing but a priority ("high", "super urgent")."""
    text = re.sub(rf"^{_STRESS}", "", words.strip(" .,!'\""), flags=re.IGNORECASE)
    return _key(_NAMED_PRIORITIES, text)


def extract_priority(text: str) -> tuple[str, str]:
    """Take the priority out of a sentence: the sentence without it, and the first one named ("" when none is)."""
    found: list[str] = []
    while match := _ALONE.search(text) or _ADVERB.search(text):
        said = re.sub(
            r"^(?:(?:it|this|that)(?:'?s|\sis)|and|but|with|as(?! soon))\s+", "", match[0].strip(), flags=re.IGNORECASE
        )
        found.append(priority(said) or "")
        text = f"{text[: match.start()].rstrip()} {text[match.end() :].lstrip()}".strip()
    return text, next(filter(None, found), "")


def status(words: str) -> str | None:
    """Read a phrase that is nothing but a status."""
    text = re.sub(r"^(?:now|already|finally|all|status)\s+", "", words.strip(" .,!'\""), flags=re.IGNORECASE)
    return _key(STATUSES, text)


def _key(table: dict[str, str], words: str) -> str | None:
    # Later entries first: "not urgent" stands under "low" and must not be read as a kind of "urgent".
    for name in reversed(table):
        if re.fullmatch(table[name], words, re.IGNORECASE):
            return name
    return None


# Capitalised words that follow "for" or "of" and name no client.
_NO_CLIENT = re.compile(
    r"(?:Google|Instagram|Facebook|LinkedIn|TikTok|YouTube|Twitter|X|Pinterest|WhatsApp|WordPress|Shopify|Wix|Webflow"
    r"|Figma|Mailchimp|Slack|Excel|PowerPoint|Word|Chrome|Safari|Firefox|Android|Windows|SEO|SEA|FAQ|PDF|GDPR|CSS|HTML"
    r"|API|UX|UI|CMS|SSL|Black|Cyber|Christmas|Easter|Halloween|Thanksgiving|Valentine|New Year|Mother|Father"
    r"|English|German|French|Spanish|Italian|Dutch|Europe|Germany|Berlin|Munich|Hamburg|Vienna|London|Paris|I"
    r"|Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
    r"|\w+day|January|February|March|April|June|July|August|September|October|November|December|Q[1-4]"
    r"|What|Who|Where|When|How|It|That|This|There|Let|He|She|Here|Today|Tomorrow)\b"
)
NAME = r"(?-i:[A-Z0-9][\w&.'’+-]*(?:\s+(?:(?:&|and|und|de|von|van|of|the)\s+)?[A-Z0-9][\w&.'’+-]*)*)"
"""A capitalised name of one or more words, whatever the flags of the pattern it is used in."""
_NAME_END = r"(?=\s*(?:$|[,.;:!?)]|[–-]\s)|\s+(?-i:by|until|on|before|in|at|to|and|so|because|with|please|is|are|needs?|which|that|from|for|as|due|within|from)\b)"  # noqa: E501 -- one list of words
_OF_CLIENT = re.compile(rf"(?<!\w)(?P<lead>of|for|from)\s+(?:(?:our|the) client\s+)?(?P<name>{NAME}?){_NAME_END}")
_POSSESSIVE = re.compile(rf"(?<![\w'])(?P<name>{NAME}?)(?:'s|’s|(?<=s)['’])\s+(?=\w)")
_MAYBE = re.compile(r"(?:^|\s)(?:of|for)\s+(?P<name>[a-z][\w&'.-]*(?:\s+[a-z&][\w&'.-]*){0,3})$")
_NO_NAME = re.compile(
    r"(?:the|a|an|our|my|your|their|his|her|its|this|that|these|those|all|every|each|some|any|more|both|new|old|me"
    r"|us|it"
    r"|them|him|you|\w+ing)\b",
    re.IGNORECASE,
)


def client(words: str) -> str | None:
    """Read a phrase that is nothing but the capitalised name of a client."""
    name = words.strip(" .,!?'\"")
    return name if re.fullmatch(NAME, name) and not _NO_CLIENT.match(name) else None


def extract_client(text: str) -> tuple[str, str]:
    """Take "of/for/from Acme Dental" or "Acme Dental's" out of a sentence ("" when no client is named).

    "from" says where something comes from as often as whose it is, so its words also stay in the sentence.
    """
    for match in _OF_CLIENT.finditer(text):
        # "of Acme and Bright Smiles" may be one name or two.
        if _NO_CLIENT.match(match["name"]) or " and " in match["name"]:
            continue
        if match["lead"] == "from":
            return text, match["name"].rstrip(".")
        rest = f"{text[: match.start()].rstrip()} {text[match.end() :].lstrip()}".strip()
        return rest, match["name"].rstrip(".")
    if (match := _POSSESSIVE.search(text)) and not _NO_CLIENT.match(match["name"]):
        return f"{text[: match.start()]}the {text[match.end() :]}".strip(), match["name"]
    return text, ""


def maybe_client(text: str) -> str:
    """Give the lower-case words at the end which may name a client ("for acme dental"); the caller verifies them."""
    match = _MAYBE.search(text)
    return match["name"] if match and not _NO_NAME.match(match["name"]) else ""


def without_client(text: str, name: str) -> str:
    """Take a verified lower-case client off the end of a title."""
    return re.sub(rf"\s+(?:of|for)\s+{re.escape(name)}$", "", text)


IT = "it"
THEM = "them"
"""References by pronoun; a named one is the name, one by number is "#12"."""

_CARD = r"(?:cards?|tasks?|tickets?|to-?dos?|items?|one|issue|job)"
_PRONOUN = re.compile(
    rf"it|this|that|(?:this|that|the|the last|the latest|the same|the new) {_CARD}|this one|that one|the deadline"
    r"|its (?:deadline|due date|priority|status|title)",
    re.IGNORECASE,
)
_PLURAL = re.compile(
    r"them|both|these|those|them both|both of them|all of them|(?:both|these|those) (?:cards|tasks|tickets|ones?)",
    re.IGNORECASE,
)
_NUMBER = re.compile(rf"(?:the )?(?:{_CARD} )?(?:#|no\.? ?|number |nr\.? ?|id )?(?P<number>\d{{1,9}})", re.IGNORECASE)
_NOT_A_CARD = re.compile(
    r"(?:up|down|out|off|over|back|in|on|at|of|for|to|with|by|about|a|an|some|any|all|every|each|no|everything"
    r"|anything|nothing|everyone|everybody|new|me|us|you|i|we|he|she|they"
    r"|what|who|why|how|if|there|here|not|just|\d+)\b.*|.*\b(?:cards|tasks|tickets|to-?dos|board|backlog|database|not"
    r"|client|clients|password)\b.*|.*[,;:?]\s?.*|.*\bto (?:the )?(?:review|done|backlog|to-?do|in progress)\b.*"
    r"|(?:the |its )?(?:priority|status|title|deadline|due date|column) (?:of|for|on)\b.*"
    r"|.+\b(?:i|we|you|he|she|they|that|which|who|should|would|will|said|says|is|are|was|were|has|have)\b.*",
    re.IGNORECASE,
)


def reference(words: str) -> str | None:
    """Read what a person calls a card: "it", "them", "#12" or the words that name it; None when it is no card."""
    text = words.strip(" .,!?'\"“”")
    if _PRONOUN.fullmatch(text):
        return IT
    if _PLURAL.fullmatch(text):
        return THEM
    if number := _NUMBER.fullmatch(text):
        return f"#{int(number['number'])}"
    if not text or _NOT_A_CARD.fullmatch(text) or len(text.split()) > 7:
        return None
    text = re.sub(r"^(?:the|that|this|my|our)\s+", "", text, flags=re.IGNORECASE)
    text = re.sub(rf"\s+{_CARD}$|^{_CARD}\s+(?:for|about|called|named|of|with)?\s*", "", text, flags=re.IGNORECASE)
    return text.strip(" '\"“”") or None


_FILLERS = frozenset({"the", "a", "an", "of", "for", "to", "on", "in", "card", "one", "task", "about", "our", "my"})


def content_words(text: str) -> frozenset[str]:
    """The words that tell one text from another, lower case, without articles and plural endings."""
    words = re.findall(r"[^\W_]+", text.lower().replace("'s", ""))
    return frozenset(_singular(word) for word in words if word not in _FILLERS)


def search_words(text: str) -> str:
    """The words to search for: without articles, which a full-text search would insist on, and search operators."""
    words = re.findall(r"[\w'&.@-]*\w", text)
    return " ".join(word.lstrip("-") for word in words if word.lower() not in _FILLERS) or text


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def tidy(text: str) -> str:
    """Mend spaces and punctuation around what was taken out of a sentence."""
    text = re.sub(r"\s+([,.;:!?)])", r"\1", re.sub(r"\s+", " ", text))
    text = re.sub(r"\(\s*\)", "", re.sub(r"([,;])(?:\s*[,;.!])+", r"\1", text))
    return text.strip(" ,;:.!?–-")


def as_object(subject: str) -> str:
    """Fit the start of a sentence into its middle: "Website of Acme" becomes "the website of Acme"."""
    first, _, rest = subject.partition(" ")
    if re.fullmatch(r"the|our|my|your|their|an?|this|that|all|some|his|her", first, re.IGNORECASE):
        return f"{first.lower()} {rest}"
    if first.endswith("'s") or re.match(r"[A-Z]\w*(?:'s)?\b", rest):
        return subject
    return f"the {first[:1].lower()}{first[1:]} {rest}".strip()
