"""`agency chat`: the answer on stdout, the rest on stderr."""

import json

from tests.user import Agency


def test_the_assistant_puts_a_card_on_the_board_and_finds_it(agency: Agency) -> None:
    ran = agency("chat", "Add a card: water the office cactus")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "Done: 'Water the office cactus' is on the board.\n"
    assert ran.stderr.startswith("offline model, execution ")

    asked = agency("chat", "Find cards about cactus", "--json")
    assert (asked.returncode, asked.stderr) == (0, "")
    answer = json.loads(asked.stdout)
    assert answer.keys() == {"executionId", "sessionId", "model", "status", "text"}
    assert (answer["model"], answer["status"]) == ("offline", "completed")
    assert "Water the office cactus" in answer["text"]
