"""Journals that are stored somewhere go on as they would have when they were written, from every one of their steps.

`golden/*.json` hold the events of real executions as the journal stored them, and what came next after each. A file is
never written again and never removed. Whoever changes what a run records gives the run a new name in `RUNS`; the tests
then write its file, once.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from runtime.agents import ASSISTANT
from runtime.decide import Limits, decide
from runtime.driver import Held
from runtime.errors import ModelUnavailableError
from runtime.events import Event, event_adapter
from runtime.steps import RunTools
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from runtime.testing.scripted import Scripted
from storage.models.agents import AgentExecution, AgentStep
from storage.queries import executions
from storage.tenancy import Database
from tests.runtime.waiting_system import reply

GOLDEN = Path(__file__).with_name("golden")

CARD = ("create_task", {"title": "Fix the landing page", "priority": "urgent"})
UNKNOWN_CARD = ("update_task", {"id": 4711, "status": "done"})
PLAN = ("plan", {"goal": "the page is fixed", "phases": ["look", "fix"]})
ADVANCE: tuple[str, dict[str, Any]] = ("advance_phase", {})

ASK = ("ask_person", {"question": "May we take the page down for an hour?"})
OUTGROWN = text_reply("").model_copy(update={"stop_reason": "model_context_window_exceeded"})

RUNS: Mapping[str, Sequence[Scripted]] = {
    "answer": (text_reply("There is nothing to fix."),),
    "one_tool": (call_reply(CARD, text="I put it on the board."), text_reply("It is on the board.")),
    "two_tools_one_error": (call_reply(CARD, UNKNOWN_CARD), text_reply("One card is there, the other is not.")),
    "plan_with_phases": (call_reply(PLAN, CARD), call_reply(ADVANCE), text_reply("It is fixed.")),
    "max_tokens": (call_reply(CARD).model_copy(update={"stop_reason": "max_tokens"}),),
    "cancelled": (call_reply(CARD), ModelUnavailableError("overloaded")),
    "asks_a_person": (call_reply(ASK, CARD), text_reply("They said yes.")),
    "summed_up": (OUTGROWN, text_reply("The page is broken."), call_reply(CARD), text_reply("Done.")),
}
"""Name of a journal → what the model said; an execution whose model ends overloaded is cancelled while it waits, and
one that waits for a person is told "yes"."""


def next_steps(events: Sequence[Event]) -> list[str]:
    """Return the step after every prefix of these events: its kind, and the calls that are to be run."""
    steps = [decide(events[:length], Limits()) for length in range(1, len(events) + 1)]
    return [
        " ".join([type(step).__name__, *([call.id for call in step.calls] if isinstance(step, RunTools) else [])])
        for step in steps
    ]


async def stored_bodies(database: Database, user_id: int, script: Sequence[Scripted]) -> list[Any]:
    """Run a script and return what the journal holds of it."""
    model = ScriptedModel(*script)
    system = system_on(database, user_id, model)
    async with database.begin(user_id) as db:
        session_id = await executions.create_session(db, user_id)
        execution_id = await executions.queue_execution(
            db, user_id=user_id, session_id=session_id, agent_name=ASSISTANT.name, task="fix the landing page"
        )
    if await system.driver.run(user_id, execution_id) == Held():
        await reply(system, execution_id, "yes")
        await system.driver.run(user_id, execution_id)
    if isinstance(script[-1], Exception):
        async with database.begin(user_id) as db:
            await executions.request_cancel(db, execution_id)
            await db.execute(update(AgentExecution).values({AgentExecution.run_after: text("now()")}))
        await system.driver.run(user_id, execution_id)
    model.assert_done()
    async with database.begin(user_id, read_only=True) as db:
        return list(await db.scalars(select(AgentStep.body).order_by(AgentStep.seq)))


def parsed(bodies: Sequence[Any]) -> list[Event]:
    return [event_adapter.validate_python(body) for body in bodies]


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.json")), ids=lambda file: file.stem)
def test_what_comes_next_in_a_stored_journal_does_not_change(file: Path) -> None:
    document = json.loads(file.read_text(encoding="utf-8"))
    assert next_steps(parsed(document["events"])) == document["next"]


@pytest.mark.parametrize("name", RUNS)
async def test_a_run_still_records_what_it_did(database: Database, alice: int, name: str) -> None:
    bodies = await stored_bodies(database, alice, RUNS[name])
    document = {"events": bodies, "next": next_steps(parsed(bodies))}
    file = GOLDEN / f"{name}.json"
    if not file.exists():
        file.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        pytest.fail(f"{file.name} was missing and is recorded now: read it, then keep it")
    golden = json.loads(file.read_text(encoding="utf-8"))
    assert [body["kind"] for body in bodies] == [body["kind"] for body in golden["events"]]
    assert document["next"] == golden["next"]
