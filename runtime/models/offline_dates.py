"""Deadlines in English sentences, read without a clock of our own: everything relative counts from the `now` given.

What has two readings (11/27, "next week", "next Saturday" said on a Friday) is reported as unclear, never guessed.
"""

import re
from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A deadline somebody named."""

    words: str
    """As written."""
    value: str = ""
    """`YYYY-MM-DD`, or ISO 8601 with offset when a time was named; empty when the words do not say one date."""


_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_NUMBERS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "couple of": 2,
}  # fmt: skip

_DAY = r"(?:mon|tues|tue|wednes|wed|thurs|thur|thu|fri|satur|sat|sun)(?:day)?"
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_COUNT = r"(?:\d{1,3}|a couple of|an?|one|two|three|four|five|six|seven|eight|nine|ten)"
_TIME = (
    r"(?:\d{1,2}(?::\d{2})?\s?(?:am|pm|a\.m\.|p\.m\.)|\d{1,2}:\d{2}|noon|midnight|\d{1,2}\s?o'?clock"
    r"|(?<=at )\d{1,2}(?![\d.:/-]))"
)

_Moment = date | datetime | None
_Form = tuple[str, Callable[[re.Match[str], datetime | None], _Moment]]


def _iso(match: re.Match[str], now: datetime | None) -> _Moment:
    text = match[0].replace(" ", "T").upper()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if len(text) == len("2026-11-27"):
        return moment.date()
    if moment.tzinfo is None:
        return moment.replace(tzinfo=now.tzinfo) if now else None
    return moment


def _near(match: re.Match[str], now: datetime | None) -> _Moment:
    if now is None:
        return None
    words = match[0].lower()
    ahead = 2 if "after" in words else 1 if "tomorrow" in words else 0
    return now.date() + timedelta(days=ahead)


def _weekday(match: re.Match[str], now: datetime | None) -> _Moment:
    if now is None:
        return None
    today = now.date()
    index = next(number for number, name in enumerate(_DAYS) if name.startswith(match["day"][:3].lower()))
    if match["week"]:
        return today + timedelta(days=7 - today.weekday() + index)
    ahead = (index - today.weekday() - 1) % 7 + 1
    in_this_week = today.weekday() + ahead < 7
    which = (match["which"] or "").lower().strip()
    # "next Saturday" said on a Friday, or "this Friday" said on a Friday, means one date to some and another to others.
    if (which == "next" and in_this_week) or (which == "this" and not in_this_week):
        return None
    return today + timedelta(days=ahead)


def _ahead(match: re.Match[str], now: datetime | None) -> _Moment:
    if now is None:
        return None
    said = match["count"].lower()
    count = int(said) if said.isdigit() else _NUMBERS[said.removeprefix("a ")]
    unit = match["unit"].lower()
    if unit == "hour":
        return (now + timedelta(hours=count)).replace(second=0, microsecond=0)
    if unit == "month":
        return _months_later(now.date(), count)
    return now.date() + timedelta(days=count * (7 if unit == "week" else 1))


def _months_later(day: date, count: int) -> date:
    years, month = divmod(day.month - 1 + count, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def _day_month(match: re.Match[str], now: datetime | None) -> _Moment:
    month = _month_number(match["month"])
    if match["year"]:
        return _date(int(match["year"]), month, int(match["number"]))
    if now is None:
        return None
    this_year = _date(now.year, month, int(match["number"]))
    if this_year and this_year >= now.date():
        return this_year
    return _date(now.year + 1, month, int(match["number"]))


def _period_end(match: re.Match[str], now: datetime | None) -> _Moment:
    if now is None:
        return None
    period = re.sub(r"^(?:the|this) ", "", match["period"].lower())
    if period == "day":
        return now.date()
    if period == "year":
        return date(now.year, 12, 31)
    if period == "month":
        return _month_end(now.year, now.month)
    if period == "next month":
        later = _months_later(now.date().replace(day=1), 1)
        return _month_end(later.year, later.month)
    month = _month_number(period)
    return _month_end(now.year + (month < now.month), month)


def _month_end(year: int, month: int) -> date:
    return date(year, month, monthrange(year, month)[1])


def _month_number(name: str) -> int:
    return next(number for number, month in enumerate(_MONTHS, 1) if month.startswith(name[:3].lower()))


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


def _unclear(_match: re.Match[str], _now: datetime | None) -> _Moment:
    return None


_YEAR = r"(?:,?\s+(?P<year>20\d{2}))?"
_FORMS: tuple[_Form, ...] = (
    (r"20\d{2}-\d{2}-\d{2}[t ]\d{2}:\d{2}(?::\d{2})?(?:z|[+-]\d{2}:?\d{2})?", _iso),
    (r"20\d{2}-\d{2}-\d{2}", _iso),
    (r"(?:the )?day after tomorrow|tomorrow|today|tonight|eod|cob", _near),
    (rf"(?:(?P<which>next|this|coming)\s+)?(?P<day>{_DAY})(?P<week>\s+next week)?", _weekday),
    (rf"(?:in|within)\s+(?:the next\s+)?(?P<count>{_COUNT})\s+(?P<unit>hour|day|week|month)s?", _ahead),
    (rf"(?:the )?(?P<number>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_MONTH}){_YEAR}", _day_month),
    (rf"(?P<month>{_MONTH})\s+(?:the )?(?P<number>\d{{1,2}})(?:st|nd|rd|th)?(?!:){_YEAR}", _day_month),
    (rf"(?:the )?end of (?P<period>(?:the |this )?(?:day|month|year)|next month|{_MONTH})", _period_end),
    (r"\d{1,2}/\d{1,2}(?:/\d{2,4})?|\d{1,2}\.\d{1,2}\.(?:\d{2,4})?", _unclear),
    (r"(?:(?:early|late|the end of|end of|the beginning of)\s+)?(?:the|this|next)\s+(?:week|weekend|month|quarter|year)"
     r"|q[1-4]|in a few (?:days|weeks)|in (?:spring|summer|autumn|fall|winter)|yesterday", _unclear),
)  # fmt: skip


def _nameless(pattern: str) -> str:
    return re.sub(r"\(\?P<\w+>", "(?:", pattern)


_DATE = "(?:" + "|".join(_nameless(pattern) for pattern, _ in _FORMS) + ")"
_DAYTIME = r"(?:\s+(?:in the )?(?:morning|afternoon|evening))?"
_PHRASE = rf"(?:(?:{_TIME}(?:\s+on)?\s+)?{_DATE}{_DAYTIME}(?:,?\s*(?:at\s+)?{_TIME})?|(?:at\s+)?{_TIME})"
_LEAD = (
    r"(?:(?:with )?(?:the |a )?deadline(?: is|:| of)?(?: on| by)?|(?:to be )?due(?: date)?(?: is|:)?(?: on| by| until)?"
    r"|(?:no|not) later than|(?:at the )?latest(?: by| on)?|by|until|till|til|before|on|for"
    rf"|at(?=\s+{_TIME}\s+on\s))"
)
_LATEST = r"(?:\s+(?:at the latest|latest))?"
_AFTER = (
    r"(?=\s*(?:$|[,.;:!?)]|[–-]\s)|\s+(?:and|or|please|pls|for|of|because|so|as|with|we|i|can|could|would|thanks|thx|is"
    r"|it|it's|to)\b)"
)
_LED = re.compile(rf"(?<![\w-])(?P<lead>{_LEAD})\s+(?P<phrase>{_PHRASE}){_LATEST}{_AFTER}", re.IGNORECASE)
_BARE = re.compile(
    rf"(?<![\w./-])(?P<phrase>{_PHRASE}){_LATEST}(?=\s*(?:$|[,.;:!?)])|\s+(?:please|pls|thanks|thx|is|would|works)\b)",
    re.IGNORECASE,
)
_WHOLE = re.compile(rf"(?:(?P<lead>{_LEAD})\s+)?(?P<phrase>{_PHRASE}){_LATEST}", re.IGNORECASE)
_NOT_BARE_AFTER = re.compile(
    r"(?:\b(?:a|about|and|at|between|black|cyber|each|every|from|good|last|of|or|our|since|the|to|with))\s+$",
    re.IGNORECASE,
)
_NUMERIC = re.compile(r"\d{1,2}[/.:]|at\b|\d{1,2}\s?(?:am|pm|a\.m|p\.m|o')|noon|midnight", re.IGNORECASE)


def resolve(words: str, now: datetime | None) -> Due | None:
    """Read a phrase that is nothing but a deadline ("by Friday 5pm"); None when it is something else."""
    match = _WHOLE.fullmatch(words.strip(" .,!?"))
    return _due(match, now) if match else None


def extract(text: str, now: datetime | None) -> tuple[str, Due | None]:
    """Take the deadline out of a sentence: the sentence without it, and the deadline if there is one.

    Only words in the place of a deadline count: "the Monday report" and "Black Friday" stay where they are. Two
    different deadlines are one unclear deadline.
    """
    found: list[Due] = []
    while match := _LED.search(text) or _bare(text):
        due = _due(match, now)
        found.append(due)
        text = f"{text[: match.start()].rstrip()} {text[match.end() :].lstrip()}".strip()
    if len({due.value or due.words for due in found}) > 1:
        return text, Due(words=" / ".join(due.words for due in found))
    return text, found[0] if found else None


def _bare(text: str) -> re.Match[str] | None:
    for match in _BARE.finditer(text):
        before = text[: match.start()]
        is_name = before.rstrip().rpartition(" ")[2][:1].isupper() and re.fullmatch(
            _DAY, match["phrase"], re.IGNORECASE
        )
        if not (is_name or _NOT_BARE_AFTER.search(before) or _NUMERIC.match(match["phrase"])):
            return match
    return None


def _due(match: re.Match[str], now: datetime | None) -> Due:
    lead = (match["lead"] or "").lower() if "lead" in match.re.groupindex else ""
    words = match["phrase"].strip()
    moment = _moment(words, now)
    if lead == "before" and moment and not isinstance(moment, datetime):
        moment -= timedelta(days=1)
    return Due(words=words, value=_written(moment, now))


def _moment(phrase: str, now: datetime | None) -> _Moment:
    day = _day(phrase, now)
    if day is not None:
        return day
    clock = re.search(_TIME, phrase, re.IGNORECASE)
    at = _time(clock[0]) if clock else None
    if clock is None or at is None or now is None:
        return None
    rest = f"{phrase[: clock.start()]} {phrase[clock.end() :]}".strip(" ,")
    rest = re.sub(r"(?:^|\s)(?:at|on)$|^(?:at|on)\s+", "", rest, flags=re.IGNORECASE).strip(" ,")
    day = _day(rest, now) if rest else now.date()
    if day is None or isinstance(day, datetime):
        return None
    return datetime.combine(day, at, now.tzinfo)


def _day(phrase: str, now: datetime | None) -> _Moment:
    phrase = re.sub(rf"{_DAYTIME}$", "", phrase, flags=re.IGNORECASE)
    for pattern, read in _FORMS:
        if match := re.fullmatch(pattern, phrase, re.IGNORECASE):
            return read(match, now)
    return None


def _time(words: str) -> time | None:
    """Read a time of day; None for "at 5", which is morning to some and evening to others."""
    words = words.lower().replace(".", "").replace("o'clock", "").replace("oclock", "").strip()
    if words in ("noon", "midnight"):
        # Midnight belongs to the day that it ends.
        return time(12) if words == "noon" else time(23, 59, 59)
    match = re.fullmatch(r"(\d{1,2})(?::(\d{2}))?\s?(am|pm)?", words)
    if match is None:
        return None
    hour, minute, half = int(match[1]), int(match[2] or 0), match[3]
    if half and not 1 <= hour <= 12:
        return None
    if half is None and match[2] is None and hour < 13:
        return None
    hour = hour % 12 + (12 if half == "pm" else 0) if half else hour
    return time(hour, minute) if hour < 24 and minute < 60 else None


def _written(moment: _Moment, now: datetime | None) -> str:
    if moment is None:
        return ""
    if isinstance(moment, datetime):
        return "" if now and moment < now else moment.isoformat()
    return "" if now and moment < now.date() else moment.isoformat()


def last_day(period: str, now: datetime | None) -> str:
    """The last day of "this week", "next week" or "this month", for a list; empty for anything else."""
    if now is None:
        return ""
    today = now.date()
    sunday = today + timedelta(days=6 - today.weekday())
    ends = {
        "this week": sunday,
        "the week": sunday,
        "next week": sunday + timedelta(days=7),
        "this month": _month_end(today.year, today.month),
    }
    end = ends.get(period.lower())
    return end.isoformat() if end else ""


def spoken(value: str, now: datetime | None) -> str:
    """Say an ISO date or datetime in words, in the zone of `now`: "Friday 27 November, 17:00"."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return value
    if now and moment.tzinfo:
        moment = moment.astimezone(now.tzinfo)
    year = "" if now and now.year == moment.year else f" {moment.year}"
    # The end of a day is how a date without a time is stored; nobody wants to read 23:59.
    has_time = "T" in value and (moment.hour, moment.minute) not in ((23, 59), (0, 0))
    clock = f", {moment:%H:%M}" if has_time else ""
    return f"{_DAYS[moment.weekday()].capitalize()} {moment.day} {_MONTHS[moment.month - 1].capitalize()}{year}{clock}"
