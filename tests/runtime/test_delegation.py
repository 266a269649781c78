"""Agents that have others work: the parent waits for its child, which never may do more than it."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from gateway.worker import TakeOver
from runtime.agents import ASSISTANT, RECEPTIONIST, Agent
from runtime.driver import Driver, Ended, Held, NotOurs
from runtime.events import ExecutionEnded, Usage
from runtime.local import Local
from runtime.operations.executions import cancel_execution
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from storage.models.agents import AgentExecution
from storage.models.crm import AgencyTask
from storage.models.runtime import AgentDefinition, Approval
from storage.tenancy import Database
from tests.runtime.waiting_system import (
    assert_sound,
    calls_of,
    did,
    driver_of,
    process,
    queued,
    results_of,
    row_of,
    status,
)

BOSS = Agent(name="boss", instructions="x", tools=("delegate", "schedule", "find_tasks", "remember"))
HANDS = Agent(name="assistant", instructions="x", tools=(*ASSISTANT.tools, "delegate"))
HAND_ON = ("delegate", {"agent": "assistant", "task": "count the cards"})


def boss_of(database: Database, user_id: int, *replies: Any, boss: Agent = BOSS) -> tuple[Local, Driver]:
    system = process(database, user_id, *replies)
    return system, driver_of(system, boss, HANDS)


async def child_of(system: Local, execution_id: int) -> int:
    (child,) = (await status(system, execution_id))["children"]
    return child["id"]


async def test_the_answer_of_the_other_agent_is_the_result_of_the_call(database: Database, alice: int) -> None:
    system, driver = boss_of(database, alice, call_reply(HAND_ON), text_reply("three"), text_reply("there are three"))
    execution_id = await queued(system, agent="boss")

    assert await driver.run(alice, execution_id) == Held()
    child_id = await child_of(system, execution_id)
    assert (await row_of(system, execution_id)).waiting_for == {"kind": "execution", "id": child_id, "calls": 1}
    assert await driver.run(alice, execution_id) == NotOurs()
    await assert_sound(system)
    assert await driver.run(alice, child_id) == Ended(event=ExecutionEnded(status="completed", text="three"))
    assert (await row_of(system, execution_id)).waiting_for is None
    await assert_sound(system)

    assert isinstance(await driver.run(alice, execution_id), Ended)
    assert await results_of(system, execution_id) == ["three"]
    assert (await status(system, child_id))["parent"] == execution_id
    await assert_sound(system)


async def test_the_end_of_the_child_wakes_its_parent_through_the_workers(database: Database, alice: int) -> None:
    system, driver = boss_of(database, alice, call_reply(HAND_ON), text_reply("three"))
    execution_id = await queued(system, agent="boss")
    await driver.run(alice, execution_id)
    child_id = await child_of(system, execution_id)
    await clear_jobs(database)

    await driver.run(alice, child_id)

    assert await wanted(database) == [f"{execution_id}"]


async def clear_jobs(database: Database) -> None:
    async with database.begin_dispatch() as db:
        await db.execute(text("DELETE FROM pgqueuer"))


async def wanted(database: Database) -> list[str]:
    """Return the executions that jobs ask for."""
    async with database.begin_dispatch() as db:
        keys = await db.scalars(text("SELECT dedupe_key FROM pgqueuer WHERE entrypoint = 'execute' ORDER BY id"))
        return [key.rsplit(":", 1)[-1] for key in keys]


async def test_a_child_that_fails_is_an_error_that_the_parent_reads(database: Database, alice: int) -> None:
    refusal = text_reply("").model_copy(update={"stop_reason": "refusal"})
    system, driver = boss_of(database, alice, call_reply(HAND_ON), refusal, text_reply("too bad"))
    execution_id = await queued(system, agent="boss")
    await driver.run(alice, execution_id)
    await driver.run(alice, await child_of(system, execution_id))
    await driver.run(alice, execution_id)

    (told,) = await results_of(system, execution_id)
    assert told.startswith("the delegated execution failed")
    await assert_sound(system)


async def test_a_child_has_no_tool_that_its_parent_does_not_have(database: Database, alice: int) -> None:
    model = ScriptedModel(call_reply(HAND_ON), call_reply(("create_task", {"title": "sneaky"})), text_reply("no"))
    system, driver = boss_of(database, alice, *model._replies)  # pyright: ignore[reportPrivateUsage] -- shared script
    execution_id = await queued(system, agent="boss")
    await driver.run(alice, execution_id)
    child_id = await child_of(system, execution_id)
    await driver.run(alice, child_id)

    assert isinstance(system.model, ScriptedModel)
    offered = [spec.name for spec in system.model.requests[1].tools]
    assert set(offered) == set(BOSS.tools) & set(HANDS.tools)
    (told,) = await results_of(system, child_id)
    assert "no tool 'create_task'" in told
    async with database.begin(alice) as db:
        assert (await db.scalars(select(AgencyTask))).all() == []
    await assert_sound(system)


async def test_what_a_parent_has_to_ask_for_its_child_has_to_ask_for_too(database: Database, alice: int) -> None:
    boss = Agent(name="boss", instructions="x", tools=("delegate", "create_task"), approvals=("create_task",))
    system, driver = boss_of(
        database, alice, call_reply(HAND_ON), call_reply(("create_task", {"title": "sneaky"})), boss=boss
    )
    execution_id = await queued(system, agent="boss")
    await driver.run(alice, execution_id)
    child_id = await child_of(system, execution_id)

    assert await driver.run(alice, child_id) == Held()
    async with database.begin(alice) as db:
        assert (await db.scalars(select(Approval.execution_id))).all() == [child_id]
        assert (await db.scalars(select(AgencyTask))).all() == []
    await assert_sound(system)


async def test_a_child_gets_what_is_left_and_its_use_counts_for_the_parent(database: Database, alice: int) -> None:
    usage = Usage(input_tokens=300, output_tokens=100)
    system, driver = boss_of(
        database, alice, call_reply(HAND_ON, usage=usage), text_reply("three", usage=usage), text_reply("x")
    )
    execution_id = await queued(system, agent="boss", tokens=20_000, toolCalls=5)
    await driver.run(alice, execution_id)
    child = await row_of(system, await child_of(system, execution_id))

    assert (child.limits["tokens"], child.limits["toolCalls"], child.limits["iterations"]) == (19_600, 4, 99)
    await driver.run(alice, child.id)
    seen = await status(system, execution_id)
    assert (seen["usage"]["tokensIn"], seen["usage"]["perhapsTokens"]) == (300, 400)


async def test_the_limits_of_the_child_s_own_agent_hold_when_they_are_narrower(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        db.add(
            AgentDefinition(
                user_id=alice, name="intern", instructions="x", tools=["find_tasks"], limits={"tokens": 500}
            )
        )
    system, driver = boss_of(database, alice, call_reply(("delegate", {"agent": "intern", "task": "look"})))
    execution_id = await queued(system, agent="boss", tokens=20_000)
    await driver.run(alice, execution_id)

    child = await row_of(system, await child_of(system, execution_id))
    assert (child.agent_name, child.limits["tokens"]) == ("intern", 500)


async def test_nothing_can_be_handed_on_when_nothing_is_left(database: Database, alice: int) -> None:
    system, driver = boss_of(database, alice, call_reply(HAND_ON), text_reply("alone then"))
    execution_id = await queued(system, agent="boss", toolCalls=1)
    assert isinstance(await driver.run(alice, execution_id), Ended)
    (told,) = await results_of(system, execution_id)
    assert "toolCalls" in told


async def test_work_is_handed_on_three_times_at_most(database: Database, alice: int) -> None:
    agent = Agent(name="boss", instructions="x", tools=("delegate",))
    again = [call_reply(("delegate", {"agent": "assistant", "task": f"level {level}"})) for level in range(4)]
    system, driver = boss_of(database, alice, *again, text_reply("I do it"), boss=agent)
    current = await queued(system, agent="boss")
    for _ in range(3):
        assert await driver.run(alice, current) == Held()
        current = await child_of(system, current)

    assert isinstance(await driver.run(alice, current), Ended)
    (told,) = await results_of(system, current)
    assert "handed on 3 times" in told
    await assert_sound(system)


async def test_whoever_is_cancelled_takes_its_children_along(database: Database, alice: int) -> None:
    deeper = call_reply(("delegate", {"agent": "assistant", "task": "deeper"}))
    system, driver = boss_of(database, alice, call_reply(HAND_ON), deeper)
    top = await queued(system, agent="boss")
    await driver.run(alice, top)
    child_id = await child_of(system, top)
    await driver.run(alice, child_id)
    grandchild_id = await child_of(system, child_id)
    await clear_jobs(database)

    await did(system, cancel_execution, id=top)
    for execution_id in (top, child_id, grandchild_id):
        assert f"{execution_id}" in await wanted(database)
        ended = await driver.run(alice, execution_id)
        assert isinstance(ended, Ended)
        assert ended.event.status == "cancelled"
        await assert_sound(system)


async def test_an_agent_that_nobody_knows_is_a_refusal(database: Database, alice: int) -> None:
    unknown = call_reply(("delegate", {"agent": "nobody", "task": "x"}))
    system, driver = boss_of(database, alice, unknown, text_reply("ok"))
    execution_id = await queued(system, agent="boss")
    await driver.run(alice, execution_id)
    (told,) = await results_of(system, execution_id)
    assert "no agent 'nobody'" in told


async def test_what_is_scheduled_waits_for_its_time_and_then_for_any_worker(database: Database, alice: int) -> None:
    at = (await now_of(database, alice) + timedelta(days=2)).replace(microsecond=0)
    later = call_reply(("schedule", {"task": "call Anna", "at": at.isoformat()}))
    system, driver = boss_of(database, alice, later, text_reply("I will"))
    execution_id = await queued(system, agent="boss")
    await driver.run(alice, execution_id)

    (scheduled,) = (await status(system, execution_id))["scheduled"]
    assert (scheduled["agent"], scheduled["status"]) == ("assistant", "pending")
    assert datetime.fromisoformat(scheduled["runAfter"]) == at
    assert await driver.run(alice, scheduled["id"]) == NotOurs()
    await clear_jobs(database)
    await TakeOver(system)()
    assert await wanted(database) == []
    assert set((await row_of(system, scheduled["id"])).limits["tools"]) == set(BOSS.tools)

    async with database.begin(alice) as db:
        await db.execute(text("""UPDATE "agentExecutions" SET "runAfter" = now() WHERE "runAfter" IS NOT NULL"""))
    await TakeOver(system)()
    assert await wanted(database) == [str(scheduled["id"])]
    await assert_sound(system)


@pytest.mark.parametrize(
    ("at", "complaint"),
    [("2001-01-01T09:00", "is over"), ("tomorrow", "no ISO"), ("2031-01-01", "no time"), ("9998-01-01T00:00", "year")],
)
async def test_a_time_that_is_no_good_is_refused(database: Database, alice: int, at: str, complaint: str) -> None:
    system, driver = boss_of(database, alice, call_reply(("schedule", {"task": "x", "at": at})), text_reply("ok"))
    execution_id = await queued(system, agent="boss")
    await driver.run(alice, execution_id)
    (told,) = await results_of(system, execution_id)
    assert complaint in told
    async with database.begin(alice) as db:
        assert (await db.scalars(select(AgentExecution.id))).all() == [execution_id]


def test_the_receptionist_hands_nothing_on() -> None:
    assert not {"delegate", "schedule"} & set(RECEPTIONIST.tools)


async def test_the_times_are_those_of_the_user(database: Database, alice: int) -> None:
    wanted_at = (await now_of(database, alice) + timedelta(days=3)).strftime("%Y-%m-%dT09:00")
    later = call_reply(("schedule", {"task": "x", "at": wanted_at}))
    system = system_on(database, alice, ScriptedModel(later, text_reply("ok")), timezone="Asia/Tokyo")
    execution_id = await queued(system, agent="boss")
    await driver_of(system, BOSS).run(alice, execution_id)
    (call,) = await calls_of(system, execution_id)
    assert call.result is not None
    assert call.result["at"] == f"{wanted_at}+09:00"


async def now_of(database: Database, user_id: int) -> datetime:
    async with database.begin(user_id) as db:
        return (await db.execute(text("SELECT now()"))).scalar_one()
