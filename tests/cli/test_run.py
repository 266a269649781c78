"""`agency run`: what agents did, from a shell."""

import json

import anyio
import pytest

from runtime.agents import ASSISTANT
from runtime.local import open_local
from runtime.settings import RuntimeSettings
from storage.queries import executions
from storage.settings import StorageSettings
from tests.user import Agency, assert_one_line

WISH = "Add a card: oil the [squeaky] door"
PHASE = "add: Oil the [squeaky] door"
HEAD = {
    *("id", "sessionId", "agent", "status", "phase", "task", "iterations", "tokensIn", "tokensOut", "costMicros"),
    *("durationMs", "createdAt", "cancelRequested"),
}


def queue(environment: dict[str, str], task: str) -> int:
    """Queue an execution that no worker takes up, and return its id."""

    async def enqueue() -> int:
        settings = StorageSettings(data_dir=environment["AGENCY_DATA_DIR"])  # pyright: ignore[reportArgumentType] -- pydantic parses
        async with (
            open_local(settings, RuntimeSettings(model="offline")) as local,
            local.database.begin(local.user_id) as db,
        ):
            session_id = await executions.create_session(db, local.user_id)
            return await executions.queue_execution(
                db, user_id=local.user_id, session_id=session_id, agent_name=ASSISTANT.name, task=task
            )

    return anyio.run(enqueue)


def test_an_execution_is_listed_and_shown_with_all_it_did(agency: Agency) -> None:
    key = json.loads(agency("chat", WISH, "--json").stdout)["executionId"]

    listed = agency("run", "list", "--status", "completed", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    (head,) = [item for item in json.loads(listed.stdout)["items"] if item["id"] == key]
    assert head.keys() == HEAD
    assert (head["agent"], head["status"], head["phase"], head["task"]) == ("assistant", "completed", PHASE, WISH)

    shown = json.loads(agency("run", "show", str(key), "--json").stdout)
    assert shown.items() >= head.items()
    assert shown["plan"] == {"goal": WISH, "phases": [PHASE]}
    assert shown["phases"] == [{"name": PHASE, "status": "done"}]
    assert shown["steps"][0] == {"step": 1, "kind": "user", "text": WISH}
    assert shown["steps"][-1]["kind"] == "control"
    (call,) = [found for found in shown["toolCalls"] if found["tool"] == "create_task"]
    assert call.keys() == {"tool", "state", "arguments", "result", "error", "durationMs"}
    assert (call["state"], call["error"]) == ("done", None)
    assert call["result"]["title"] == call["arguments"]["title"] == "Oil the [squeaky] door"
    assert shown["error"] is None
    assert "Oil the [squeaky] door" in shown["result"]

    told = agency("run", "show", str(key))
    assert (told.returncode, told.stderr) == (0, "")
    record, steps, calls = told.stdout.split("\n\n")
    assert f"phases      {PHASE} (done)" in record
    assert "cost        $" in record
    assert steps.splitlines()[1].rstrip().split(maxsplit=2) == ["1", "user", WISH]
    assert [row.split()[0] for row in calls.splitlines()] == ["tool", *(found["tool"] for found in shown["toolCalls"])]
    assert '"title": "Oil the [squeaky] door"' in calls


def test_an_execution_is_cancelled_once(agency: Agency, environment: dict[str, str]) -> None:
    key = queue(environment, "a wish " * 20)

    line = agency("run", "list", "--status", "pending", "--limit", "1").stdout.splitlines()[1]
    assert line.split()[0] == str(key)
    assert line.rstrip().endswith("…")

    asked = agency("run", "cancel", str(key), "--json")
    assert (asked.returncode, json.loads(asked.stdout)) == (0, {"id": key, "status": "pending", "isOver": False})
    assert asked.stderr.startswith(f"execution {key} stops at its next step")
    assert json.loads(agency("run", "show", str(key), "--json").stdout)["cancelRequested"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("show", "987654"), 3, "no agentExecutions row 987654"),
        (("cancel", "987654"), 3, "no agentExecutions row 987654"),
        (("list", "--status", "done"), 2, "pending, planning, executing, completed, failed, cancelled"),
    ],
    ids=["show", "cancel", "status"],
)
def test_what_is_wrong_is_one_line_that_says_what_would_be_right(
    agency: Agency, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    assert_one_line(agency("run", *arguments), code=code, complaint=complaint)
