"""The columns that are shown agree with the rows that count, and whoever tampers with either is found out."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from runtime.agents import ASSISTANT
from runtime.events import ModelReplied, Usage
from runtime.invariants import HISTORY_RULES, check_invariants
from runtime.journal import PROJECTED
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from storage.engine import Address, connect
from storage.queries import executions
from storage.queries.invariants import RULES
from storage.tenancy import Database

PLAN = ("plan", {"goal": "page fixed", "phases": ["look", "fix", "tell"]})
AGAIN = ("plan", {"goal": "page replaced", "phases": ["build", "move"]})
CARD = ("create_task", {"title": "Fix the landing page"})
MISTAKE = ("create_task", {"title": "nul \x00 inside"})
QUESTION = ("ask_person", {"question": "Really?"})
ADVANCE: tuple[str, dict[str, Any]] = ("advance_phase", {})

TAMPERINGS: dict[str, str] = {
    "the journal of a session has a gap": 'UPDATE "agentSessions" SET "nextSeq" = "nextSeq" + 1 WHERE "nextSeq" > 1',
    "a step is in another session than its execution": """
        UPDATE "agentExecutions" SET "sessionId" = (SELECT max(id) FROM "agentSessions") WHERE status = 'failed'
    """,
    "a driven execution has another number of ends than one": """
        UPDATE "agentSteps" SET kind = 'system' WHERE kind = 'control'
    """,
    "an execution counts other iterations than its replies": """
        UPDATE "agentExecutions" SET iterations = iterations + 1 WHERE status = 'pending'
    """,
    "a session does not add up to its executions": 'UPDATE "agentSessions" SET "tokensOut" = "tokensOut" + 1',
    "a terminal execution still promises the result of a call": """
        UPDATE "toolExecutions" SET state = 'started' WHERE state = 'error'
    """,
    "a call and its results in the journal do not agree": """
        UPDATE "toolExecutions" SET state = 'pending' WHERE state = 'error'
    """,
    "an execution has a time of its end exactly when it has ended": """
        UPDATE "agentExecutions" SET "durationMs" = NULL WHERE status = 'completed'
    """,
    "a session is shown as busy although nothing is left to do in it": """
        UPDATE "agentSessions" SET status = 'executing' WHERE status = 'error'
    """,
    "a session is leased although nothing is left to do in it": """
        UPDATE "agentSessions" SET "leaseOwner" = 'nobody' WHERE status = 'error'
    """,
    "an ended execution shows other tool calls than its rows": """
        UPDATE "toolExecutions" SET "durationMs" = "durationMs" + 1 WHERE state = 'done'
    """,
    "a session shows other tool calls than those of its ended executions": """
        UPDATE "agentSessions" SET "toolHistory" = "toolHistory" - 0
    """,
    "a session shows other thoughts than its executions": """
        UPDATE "agentSessions" SET "thinkingSteps" = "thinkingSteps" - 0
    """,
    "an execution that waits is held by somebody": """
        UPDATE "agentSessions" SET "leaseOwner" = 'somebody' WHERE status = 'paused'
    """,
    "an execution waits for what has come": """
        UPDATE approvals SET status = 'denied'
    """,
    "a call awaits an approval that nobody is asked for": "DELETE FROM approvals",
    "a person is asked for an approval that no call awaits": """
        UPDATE "toolExecutions" SET state = 'started' WHERE state = 'awaiting_approval'
    """,
    "an approval is used up by a call that has not begun": "UPDATE approvals SET status = 'used'",
    "an approval outlives its execution": """
        UPDATE "agentExecutions" SET status = 'cancelled' WHERE "waitingFor" IS NOT NULL
    """,
    "an ended execution is still paused, or waits": """
        UPDATE "agentExecutions" SET "pausedAt" = now() WHERE status = 'failed'
    """,
    "a step's kind is not that of its body": """
        UPDATE "agentSteps" SET kind = 'system' WHERE kind = 'phase'
    """,
    "an ended execution shows other thoughts than its replies": """
        UPDATE "agentSteps" SET body = replace(body::text, 'hmm', 'aha')::json
    """,
    "an ended execution shows another plan than its journal": """
        UPDATE "agentExecutions" SET phases = jsonb_set(phases, '{0,status}', '"pending"') WHERE status = 'completed'
    """,
    "an ended execution counts other tokens than its replies": """
        UPDATE "agentSteps" SET body = replace(body::text, '"input_tokens": 7', '"input_tokens": 8')::json
    """,
    "an ended execution shows another outcome than its end": """
        UPDATE "agentExecutions" SET result = '{"text": "all is lost"}' WHERE status = 'completed'
    """,
    "a reply's calls have other rows than one each": """
        DELETE FROM "toolExecutions" WHERE state = 'error'
    """,
}
"""An invariant → how to break it in `lived_in`."""


def thoughtful(words: str) -> ModelReplied:
    """Return an answer that was thought about."""
    content = ({"type": "thinking", "thinking": "hmm", "signature": "s"}, {"type": "text", "text": words})
    usage = Usage(input_tokens=7, output_tokens=3)
    return ModelReplied(content=content, stop_reason="end_turn", model="scripted-model", usage=usage)


async def queued(database: Database, user_id: int, session_id: int, task: str) -> int:
    async with database.begin(user_id) as db:
        return await executions.queue_execution(
            db, user_id=user_id, session_id=session_id, agent_name=ASSISTANT.name, task=task
        )


async def new_session(database: Database, user_id: int) -> int:
    async with database.begin(user_id) as db:
        return await executions.create_session(db, user_id)


async def complaints(database: Database, user_id: int) -> list[str]:
    async with database.begin(user_id, read_only=True) as db:
        return await check_invariants(db)


@pytest.fixture
async def lived_in(database: Database, alice: int) -> None:
    """Alice's: an execution with plans, thoughts, a card and a mistake; one each that failed, waits, is queued."""
    model = ScriptedModel(
        call_reply(PLAN, CARD, MISTAKE, usage=Usage(input_tokens=5, output_tokens=2)),
        call_reply(ADVANCE),
        call_reply(AGAIN),
        call_reply(ADVANCE, tag="again"),
        thoughtful("done"),
        text_reply("").model_copy(update={"stop_reason": "refusal"}),
        call_reply(CARD, QUESTION),
    )
    system = system_on(database, alice, model)
    talkative, refused, waiting = [await new_session(database, alice) for _ in range(3)]
    for session_id in (talkative, refused):
        await system.driver.run(alice, await queued(database, alice, session_id, "fix the page"))
    careful = system.driver.varied(agents=lambda _: replace(ASSISTANT, approvals=("create_task",)))
    await careful.run(alice, await queued(database, alice, await new_session(database, alice), "ask before"))
    await queued(database, alice, talkative, "and then?")
    await queued(database, alice, waiting, "when you have time")
    await new_session(database, alice)
    model.assert_done()


@pytest.mark.usefixtures("lived_in")
async def test_a_sound_tenant_keeps_every_promise(database: Database, alice: int) -> None:
    assert await complaints(database, alice) == []


def test_every_invariant_has_a_way_to_break_it() -> None:
    assert TAMPERINGS.keys() == RULES.keys() | HISTORY_RULES.keys()


@pytest.mark.usefixtures("lived_in")
@pytest.mark.parametrize(("rule", "tampering"), TAMPERINGS.items(), ids=TAMPERINGS)
async def test_tampering_is_found_out(
    database: Database, address: Address, alice: int, bob: int, rule: str, tampering: str
) -> None:
    owner = await connect(address)
    await owner.execute('GRANT UPDATE ON "agentSteps" TO agency_runtime')  # which no tenant has
    await owner.close()

    async with database.begin(alice) as db:
        await db.execute(text(tampering))

    assert [found for found in await complaints(database, alice) if found.startswith(f"{rule}: {{'id': ")]
    assert await complaints(database, bob) == []


async def test_what_does_not_fit_into_a_column_is_not_missed(database: Database, alice: int) -> None:
    many = PROJECTED + 3
    calls = [(("remember", {"key": f"k{number}", "value": number}),) for number in range(many)]
    system = system_on(database, alice, ScriptedModel(*(call_reply(*call) for call in calls), text_reply("done")))
    async with database.begin(alice) as db:
        session_id = await executions.create_session(db, alice, max_iterations=many + 1)
    execution_id = await queued(database, alice, session_id, "remember all this")

    await system.driver.run(alice, execution_id)

    async with database.begin(alice) as db:
        row = await executions.execution(db, execution_id)
    assert (len(row.tool_executions), len(row.thinking_steps), row.iterations) == (PROJECTED, PROJECTED, many + 1)
    assert await complaints(database, alice) == []
