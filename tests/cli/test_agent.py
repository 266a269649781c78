"""`agency agent`, `--app` and AGENCY_APPS, from a shell."""

import json
from pathlib import Path

import pytest

from tests.cli.test_run import queue
from tests.user import Agency, assert_one_line

APP = "tests.runtime.shop_app"
VIEW = {"name", "kind", "instructions", "model", "tools", "limits", "outputSchema", "updatedAt"}

FILE = """
instructions = "Answer with the hours of the day that you are asked for."
tools = ["recall"]

[limits]
iterations = 5
tokens = 20000

[outputSchema]
type = "object"
required = ["hours"]
properties.hours.type = "integer"
"""


def test_an_agent_is_defined_changed_shown_and_removed(agency: Agency, tmp_path: Path) -> None:
    file = tmp_path / "clerk.toml"
    file.write_text(FILE, encoding="utf-8")
    made = agency("agent", "define", "clerk", "--file", str(file), "--model", "claude-haiku-5", "--json")
    assert (made.returncode, made.stderr) == (0, "")
    view = json.loads(made.stdout)
    assert view.keys() == VIEW
    assert (view["model"], view["tools"]) == ("claude-haiku-5", ["recall"])
    assert view["limits"] == {"iterations": 5, "tokens": 20000}
    assert view["outputSchema"]["required"] == ["hours"]

    changed = agency("agent", "define", "clerk", "--tool", "recall", "--tool", "remember")
    assert (changed.returncode, changed.stderr) == (0, "")
    shown = json.loads(agency("agent", "show", "clerk", "--json").stdout)
    assert shown["tools"] == ["recall", "remember"]
    assert shown["instructions"] == view["instructions"]
    assert shown["limits"] == view["limits"]

    listed = json.loads(agency("agent", "list", "--json").stdout)["items"]
    assert {(item["name"], item["kind"]) for item in listed} >= {("assistant", "built in"), ("clerk", "data")}
    assert "recall, remember" in agency("agent", "list").stdout

    again = tmp_path / "clerk.json"
    again.write_text(json.dumps({"instructions": "Count."}), encoding="utf-8")
    replaced = json.loads(agency("agent", "define", "clerk", "--file", str(again), "--json").stdout)
    assert (replaced["instructions"], replaced["limits"], replaced["outputSchema"]) == ("Count.", {}, None)

    removed = agency("agent", "remove", "clerk")
    assert (removed.returncode, removed.stdout) == (0, "")
    assert_one_line(agency("agent", "show", "clerk"), code=3, complaint="clerk")
    assert_one_line(agency("agent", "remove", "clerk"), code=3, complaint="clerk")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("x", "--tool", "remember"), "instructions"),
        (("assistant", "--instructions", "a"), "is built in"),
        (("x", "--instructions", "a", "--tool", "remembr"), "'remembr': is not known"),
        (("x", "--instructions", "a", "--tool", "nowhere/*"), "agency tools list"),
        (("x", "--instructions", "a", "--tool", f"{APP}:opening_hours"), "--app"),
        (("x", "--file", "absent.toml"), "absent.toml"),
    ],
    ids=["nothing", "built in", "tool", "server", "program", "file"],
)
def test_a_definition_that_would_not_work_is_one_line(
    agency: Agency, arguments: tuple[str, ...], complaint: str
) -> None:
    assert_one_line(agency("agent", "define", *arguments), code=2, complaint=complaint)


def test_a_definition_may_have_the_tools_of_an_app(agency: Agency) -> None:
    name = f"{APP}:opening_hours"
    made = agency("agent", "define", "opener", "--instructions", "a", "--tool", name, "--json", AGENCY_APPS=APP)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["tools"] == [name]


def test_an_app_that_is_none_is_one_line(agency: Agency) -> None:
    assert_one_line(agency("worker", "--app", "no_such_app"), code=2, complaint="'no_such_app'")
    assert_one_line(agency("worker", AGENCY_APPS="no_such_app"), code=2, complaint="'no_such_app'")
    looked = agency("doctor", AGENCY_APPS="no_such_app")
    assert looked.returncode == 1
    assert "BAD  apps" in looked.stdout
    looked = agency("doctor", AGENCY_APPS=APP)
    assert looked.returncode == 0
    assert f"{APP}:concierge" in looked.stdout


def test_what_waits_for_a_worker_says_so(agency: Agency, environment: dict[str, str]) -> None:
    key = queue(environment, "an errand")
    shown = agency("run", "show", str(key))
    assert shown.returncode == 0
    assert shown.stderr == "no living worker knows the agent 'assistant': start one with 'agency worker'\n"
    assert "no living worker knows the agent 'assistant'" in agency("doctor").stdout
