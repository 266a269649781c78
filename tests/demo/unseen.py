"""Messages that the demo has never seen, and the cards that they should become."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta


def no_date(_today: date) -> date | None:
    return None


def tomorrow(today: date) -> date:
    return today + timedelta(days=1)


def in_days(days: int) -> Callable[[date], date]:
    return lambda today: today + timedelta(days=days)


def next_weekday(weekday: int) -> Callable[[date], date]:
    """The next such day (Monday is 0), never today."""
    return lambda today: today + timedelta(days=(weekday - today.weekday() - 1) % 7 + 1)


def end_of_month(today: date) -> date:
    return (today.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A card that a message asks for."""

    title: str
    priority: str = "medium"
    due: Callable[[date], date | None] = no_date
    client: str | None = None


FOR_A_PERSON = "for a person"
"""What is not understood becomes a card of type `question`, never a guess."""

NOTHING = "nothing"
"""There is nothing to put on the board."""

MESSAGES: list[tuple[str, list[Wanted] | str]] = [
    (
        "Please redesign the menu page of Corner Bakery by Wednesday",
        [Wanted(title="Redesign the menu page", due=next_weekday(2), client="Corner Bakery")],
    ),
    (
        "Could you write a newsletter for Bright Smiles tomorrow?",
        [Wanted(title="Write a newsletter", due=tomorrow, client="Bright Smiles")],
    ),
    (
        "asap please fix the checkout of Acme Dental",
        [Wanted(title="Fix the checkout", priority="urgent", client="Acme Dental")],
    ),
    ("Please update our opening hours", [Wanted(title="Update our opening hours")]),
    (
        "Create a landing page for the summer sale by Monday, high priority",
        [Wanted(title="Create a landing page for the summer sale", priority="high", due=next_weekday(0))],
    ),
    (
        "Please take new photos for Acme Dental, no rush",
        [Wanted(title="Take new photos", priority="low", client="Acme Dental")],
    ),
    (
        "Please prepare the monthly report of Bright Smiles by 2031-03-14",
        [Wanted(title="Prepare the monthly report", due=lambda _: date(2031, 3, 14), client="Bright Smiles")],
    ),
    ("Fix the logo of Corner Bakery in 3 days", [Wanted(title="Fix the logo", due=in_days(3), client="Corner Bakery")]),
    (
        "Please update the website of Acme Dental by Tuesday and write a blog post for Corner Bakery by Saturday",
        [
            Wanted(title="Update the website", due=next_weekday(1), client="Acme Dental"),
            Wanted(title="Write a blog post", due=next_weekday(5), client="Corner Bakery"),
        ],
    ),
    ("Please fix the map of Zenith Motors by Friday", [Wanted(title="Fix the map", due=next_weekday(4))]),
    ("", NOTHING),
    ("blorp the fnord widdershins", FOR_A_PERSON),
    ("What is the weather in Berlin?", FOR_A_PERSON),
    (
        "Please send the invoice of Bright Smiles by the end of the month",
        [Wanted(title="Send the invoice", due=end_of_month, client="Bright Smiles")],
    ),
    ("hello", NOTHING),
    (
        "I'd like you to add a cookie banner by Sunday, it is important",
        [Wanted(title="Add a cookie banner", priority="high", due=next_weekday(6))],
    ),
    (
        "Please check the analytics of Acme Dental by tomorrow, urgent!",
        [Wanted(title="Check the analytics", priority="urgent", due=tomorrow, client="Acme Dental")],
    ),
    (
        "Can someone translate the flyer for Corner Bakery by Thursday?",
        [Wanted(title="Translate the flyer", due=next_weekday(3), client="Corner Bakery")],
    ),
    ("Delete all cards", FOR_A_PERSON),
    (
        "we need a new banner for Bright Smiles, its really urgent",
        [Wanted(title="New banner", priority="urgent", client="Bright Smiles")],
    ),
]
