"""`agency approval` and the commands that answer, hold and fork an execution."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import anyio
import pytest

from runtime.agents import ASSISTANT
from runtime.driver import Held
from runtime.local import open_local
from runtime.settings import RuntimeSettings
from runtime.testing import ScriptedModel, call_reply
from storage.queries import executions
from storage.settings import StorageSettings
from tests.user import PATIENCE_S, Agency, assert_one_line

CARD = ("create_task", {"title": "Refund \u001b[31mAnna"})
QUESTION = ("ask_person", {"question": "Twenty euros?"})


def waiting(environment: Mapping[str, str], *calls: tuple[str, dict[str, str]]) -> int:
    """Return an execution that has made these calls; create_task needs a person's word."""

    async def make() -> int:
        settings = StorageSettings(data_dir=environment["AGENCY_DATA_DIR"])  # pyright: ignore[reportArgumentType] -- pydantic parses
        model = ScriptedModel(call_reply(*calls))
        async with open_local(settings, RuntimeSettings(model="offline"), model=model) as local:
            async with local.database.begin(local.user_id) as db:
                session_id = await executions.create_session(db, local.user_id)
                execution_id = await executions.queue_execution(
                    db, user_id=local.user_id, session_id=session_id, agent_name=ASSISTANT.name, task="refund Anna"
                )
            careful = replace(ASSISTANT, approvals=("create_task",))
            driver = local.driver.varied(agents=lambda _: careful)
            assert await driver.run(local.user_id, execution_id) == Held()
            return execution_id

    return anyio.run(make)


def asked(agency: Agency, execution_id: int) -> int:
    """Return the approval that an execution waits for."""
    items = json.loads(agency("approval", "list", "--json").stdout)["items"]
    (found,) = [item["id"] for item in items if item["executionId"] == execution_id]
    return found


def test_a_call_is_looked_at_and_allowed_by_name(agency: Agency, environment: dict[str, str]) -> None:
    key = waiting(environment, CARD)
    approval = str(asked(agency, key))

    shown = json.loads(agency("approval", "show", approval, "--json").stdout)
    assert (shown["tool"], shown["payload"], shown["isIntact"], shown["status"]) == (*CARD, True, "pending")
    told = agency("approval", "show", approval)
    assert "\u001b" not in told.stdout
    assert "\\u001b[31mAnna" in told.stdout
    assert f"agency approval grant {approval}" in agency("run", "show", str(key)).stdout

    alone = agency("approval", "grant", approval)
    assert_one_line(alone, code=4, complaint="--as USER")
    stranger = agency("approval", "grant", approval, "--as", "nobody")
    assert stranger.returncode == 4

    granted = agency("approval", "grant", approval, "--as", "local", "--json")
    assert (granted.returncode, json.loads(granted.stdout)["status"]) == (0, "granted")
    again = agency("approval", "deny", approval, "--as", "local")
    assert_one_line(again, code=5, complaint="granted already")
    assert agency("approval", "list", "--status", "granted", "--json").returncode == 0


def test_what_is_not_there_is_not_found(agency: Agency) -> None:
    assert agency("approval", "show", "987654").returncode == 3
    assert agency("approval", "grant", "987654", "--as", "local").returncode == 3
    assert agency("approval", "list", "--status", "lost").returncode == 2
    for command in (("pause",), ("resume",), ("reply", "yes"), ("fork", "x", "--at", "1")):
        name, *more = command
        assert agency("run", name, "987654", *more).returncode == 3


@pytest.mark.parametrize(("word", "code", "status"), [("y\n", 0, "denied"), ("n\n", 1, "pending")])
def test_in_a_terminal_a_person_sees_the_call_and_is_asked(
    agency: Agency, environment: dict[str, str], word: str, code: int, status: str
) -> None:
    approval = str(asked(agency, waiting(environment, CARD)))
    terminal, stdin = pty.openpty()
    os.write(terminal, word.encode())
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "gateway.cli", "approval", "deny", approval, "--note", "no"],
            env=environment,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(stdin)

    assert ran.returncode == code, ran.stderr
    assert "\\u001b[31mAnna" in ran.stderr
    assert "\u001b" not in ran.stderr
    assert json.loads(agency("approval", "show", approval, "--json").stdout)["status"] == status


def test_a_question_is_answered_and_an_approval_is_not(agency: Agency, environment: dict[str, str]) -> None:
    key = str(waiting(environment, QUESTION))
    assert "Twenty euros?" in agency("run", "show", key).stdout
    assert agency("run", "pause", key).returncode == 0
    assert agency("run", "resume", key).returncode == 0
    assert agency("run", "resume", key).returncode == 5

    assert agency("run", "reply", key, "yes").returncode == 0
    assert agency("run", "reply", key, "no").returncode == 5
    refused = agency("run", "reply", str(waiting(environment, CARD)), "yes")
    assert_one_line(refused, code=4, complaint="agency approval grant")


def test_a_step_is_looked_at_and_forked_from(agency: Agency) -> None:
    key = str(json.loads(agency("chat", "Add a card: wash the car", "--json").stdout)["executionId"])

    then = json.loads(agency("run", "show", key, "--at", "1", "--json").stdout)
    assert (then["atStep"], then["status"], then["result"], len(then["steps"])) == (1, "planning", None, 1)
    forked = json.loads(agency("run", "fork", key, "Add a card: dry the car", "--at", "1", "--json").stdout)
    assert forked["status"] == "pending"
    shown = json.loads(agency("run", "show", str(forked["id"]), "--json").stdout)
    assert shown["forkedFrom"]["step"] == 1
    assert agency("run", "show", key, "--at", "99").returncode == 3
