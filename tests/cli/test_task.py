"""`agency task`: cards, from a shell."""

import json

import pytest

from tests.user import Agency, assert_one_line

CARD = {"id", "title", "status", "priority", "dueDate", "client"}


def test_a_card_is_added_listed_moved_and_shown(agency: Agency) -> None:
    added = agency("task", "add", "Paint the [red] fence", "--priority", "high", "--due", "2031-01-15", "--json")
    assert (added.returncode, added.stderr) == (0, "")
    card = json.loads(added.stdout)
    assert card.keys() == CARD | {"created"}
    assert card["dueDate"] == "2031-01-15T23:59:59+00:00"

    moved = json.loads(agency("task", "move", str(card["id"]), "review", "--json").stdout)
    assert moved == {key: card[key] for key in CARD} | {"status": "review"}

    shown = json.loads(agency("task", "show", str(card["id"]), "--json").stdout)
    assert shown.keys() == CARD | {"description", "intent", "tags"}
    assert shown["status"] == "review"

    listed = agency("task", "list", "--status", "review", "--text", "fence", "--json")
    document = json.loads(listed.stdout)
    assert document.keys() == {"items", "returned"}
    assert document["items"] == [moved]

    table = agency("task", "list", "--text", "fence")
    assert (table.returncode, table.stderr) == (0, "")
    head, row = table.stdout.splitlines()
    assert head.split() == ["id", "title", "status", "priority", "dueDate", "client"]
    assert "Paint the [red] fence" in row


def test_a_long_title_is_whole_on_one_line_when_a_program_reads_the_table(agency: Agency) -> None:
    title = "Write " + "very " * 60 + "much"
    agency("task", "add", title)
    listed = agency("task", "list", "--text", "very much")
    assert [line for line in listed.stdout.splitlines() if title in line]


def test_a_client_that_nobody_knows_is_said_on_stderr(agency: Agency) -> None:
    listed = agency("task", "list", "--client", "Nobody at all", "--json")
    assert (listed.returncode, json.loads(listed.stdout)) == (0, {"items": [], "returned": 0})
    assert listed.stderr == "unknown client 'Nobody at all'\n"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("show", "987654"), 3, "987654"),
        (("move", "1", "nowhere"), 2, "'backlog', 'todo', 'in_progress', 'review' or 'done'"),
        (("add", "x", "--priority", "huge"), 2, "'low', 'medium', 'high' or 'urgent'"),
        (("add", "x", "--due", "soon"), 2, "YYYY-MM-DD or an ISO date-time"),
        (("add", "x", "--due", "1900000000"), 2, "YYYY-MM-DD or an ISO date-time"),
    ],
    ids=["show", "move", "priority", "due", "seconds"],
)
def test_what_is_wrong_is_one_line_that_says_what_would_be_right(
    agency: Agency, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    assert_one_line(agency("task", *arguments), code=code, complaint=complaint)


def test_a_missing_argument_is_a_usage_error(agency: Agency) -> None:
    ran = agency("task", "add")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "title" in ran.stderr
