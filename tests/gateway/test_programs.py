"""Which worker takes up what: one that has the agent and its tools, at once; any other leaves it as it found it."""

from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest
from sqlalchemy import select, text, update

from gateway.presence import Presence
from gateway.worker import Executor, TakeOver, working
from runtime.apps import load_apps
from runtime.conversations import EXECUTE
from runtime.driver import NotOurs
from runtime.local import Local
from runtime.operation import perform
from runtime.operations.executions import start_execution
from runtime.presence import nobody_for
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from storage.jobs import Done, Job
from storage.models.agents import AgentExecution, AgentSession
from storage.models.runtime import AgentDefinition, WorkerProcess
from storage.queries import executions, workers
from storage.tenancy import Database

APP = "tests.runtime.shop_app"
CONCIERGE = f"{APP}:concierge"


async def queue(system: Local, agent: str) -> int:
    async with system.database.begin(system.user_id) as db:
        session_id = await executions.create_session(db, system.user_id)
        return await executions.queue_execution(
            db, user_id=system.user_id, session_id=session_id, agent_name=agent, task="when?"
        )


async def define(system: Local, name: str, *tools: str) -> None:
    async with system.database.begin(system.user_id) as db:
        db.add(AgentDefinition(user_id=system.user_id, name=name, instructions="Help.", tools=list(tools)))


async def row_of(system: Local, execution_id: int) -> AgentExecution:
    async with system.database.begin(system.user_id) as db:
        return await executions.execution(db, execution_id)


async def epochs(system: Local) -> Sequence[int]:
    async with system.database.begin(system.user_id) as db:
        return (await db.scalars(select(AgentSession.lease_epoch))).all()


async def age(system: Local) -> None:
    """Let every wake-up count as lost."""
    async with system.database.begin(system.user_id) as db:
        await db.execute(update(AgentExecution).values({AgentExecution.created_at: text("now() - interval '1 hour'")}))


async def jobs_after_a_look(system: Local, times: int = 1) -> int:
    take_over = TakeOver(system)
    for _ in range(times):
        await take_over()
    async with system.database.begin_dispatch() as db:
        return (await db.execute(text("SELECT count(*) FROM pgqueuer"))).scalar_one()


def job_of(system: Local, execution_id: int) -> Job:
    return Job(kind=EXECUTE, user_id=system.user_id, id=execution_id, attempt=1)


def shop(database: Database, user_id: int) -> Local:
    model = ScriptedModel(call_reply(("opening_hours", {"day": "Monday"})), text_reply("9 to 17"))
    return system_on(database, user_id, model, registry=load_apps([APP]))


@pytest.mark.parametrize("kind", ["program", "data with a program's tool"])
async def test_a_worker_without_the_code_claims_nothing_and_hands_it_on_at_once(
    database: Database, alice: int, kind: str
) -> None:
    stranger, worker = system_on(database, alice, ScriptedModel()), shop(database, alice)
    await define(worker, "clerk", f"{APP}:opening_hours")
    execution_id = await queue(worker, CONCIERGE if kind == "program" else "clerk")

    assert await Executor(stranger)(job_of(stranger, execution_id)) == Done()

    row = await row_of(stranger, execution_id)
    assert (row.status, row.attempt, await epochs(stranger)) == ("pending", 0, [0])
    # Not old enough for a lost wake-up, and yet the next look of a worker that has the agent finds it.
    assert await jobs_after_a_look(stranger) == 0
    assert await jobs_after_a_look(worker) == 1
    assert await Executor(worker)(job_of(worker, execution_id)) == Done()
    assert (await row_of(worker, execution_id)).status == "completed"


async def test_what_belongs_to_no_worker_is_looked_at_once_a_while_and_keeps_nobody_waiting(
    database: Database, alice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = system_on(database, alice, ScriptedModel())
    await define(stranger, "clerk", "app_of_others:tool")
    for _ in range(3):
        await queue(stranger, "clerk")
    await queue(stranger, "assistant")
    await age(stranger)
    asked: list[int] = []
    due = executions.due_executions

    async def two_at_once(*arguments: object, **given: object) -> list[executions.DueExecution]:
        found = await due(*arguments, limit=2, **given)  # pyright: ignore[reportArgumentType] -- handed on as they are
        asked.extend(one.execution_id for one in found)
        return found

    monkeypatch.setattr(executions, "due_executions", two_at_once)
    assert await jobs_after_a_look(stranger, times=2) == 1
    assert sorted(asked) == [1, 2, 3, 4]


async def test_a_name_that_nobody_can_have_is_told_in_the_execution(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel())
    await define(system, "clerk", "no_such_tool")
    lost, wrong = await queue(system, "nobody"), await queue(system, "clerk")
    for execution_id in (lost, wrong):
        await Executor(system)(job_of(system, execution_id))
    assert "no agent 'nobody'" in ((await row_of(system, lost)).error or "")
    assert "no tool 'no_such_tool'" in ((await row_of(system, wrong)).error or "")


async def test_anybody_can_stop_what_only_a_program_can_run(database: Database, alice: int) -> None:
    stranger = system_on(database, alice, ScriptedModel())
    execution_id = await queue(stranger, "python:gone")
    async with database.begin(alice) as db:
        await executions.request_cancel(db, execution_id)
    await Executor(stranger)(job_of(stranger, execution_id))
    assert (await row_of(stranger, execution_id)).status == "cancelled"


@pytest.mark.parametrize("agent", [CONCIERGE, "clerk"])
async def test_another_program_that_is_asked_for_it_gives_it_back_at_once(
    database: Database, alice: int, agent: str
) -> None:
    stranger, worker = system_on(database, alice, ScriptedModel()), shop(database, alice)
    await define(worker, "clerk", f"{APP}:opening_hours")
    execution_id = await queue(worker, agent)
    assert await stranger.driver.run(alice, execution_id) == NotOurs()
    await worker.driver.run(alice, execution_id)
    assert (await row_of(worker, execution_id)).status == "completed"


@pytest.mark.parametrize(
    ("agent", "is_taken"),
    [
        (CONCIERGE, True),
        ("clerk", True),
        ("assistant", True),
        ("nobody", False),
        ("python:x", False),
        ("agent:x", False),
    ],
)
async def test_a_task_is_taken_for_any_agent_that_somebody_may_have(
    database: Database, alice: int, *, agent: str, is_taken: bool
) -> None:
    system = system_on(database, alice, ScriptedModel())
    await define(system, "clerk", "remember")
    async with database.begin(alice) as db:
        ctx = await system.context(db, door="mcp")
        try:
            started = (await perform(start_execution, ctx, {"task": "t", "agent": agent}))["agent"]
        except Exception as error:  # noqa: BLE001 -- looked at below
            started = type(error).__name__
    assert started == (agent if is_taken else "UnknownAgentError")


async def living(database: Database) -> Sequence[WorkerProcess]:
    async with database.begin_dispatch() as db:
        return await workers.living(db)


async def test_a_worker_says_what_it_can_run_as_long_as_it_works(database: Database, alice: int) -> None:
    system = shop(database, alice)
    assert await nobody_for(database, "assistant") is not None
    async with working(system, concurrency=3):
        with anyio.fail_after(30):
            while True:
                found = await living(database)
                if found:
                    break
                await anyio.sleep(0.02)
        (row,) = found
        assert (row.name, row.concurrency) == (system.process, 3)
        assert {CONCIERGE, "assistant", "receptionist"} == set(row.agents)
        assert {f"{APP}:opening_hours", "remember"} <= set(row.tools)
        for name in (CONCIERGE, "assistant", "clerk"):
            assert await nobody_for(database, name) is None
        other = await nobody_for(database, "crm.agents:caller")
        assert other is not None
        assert "agency worker --app crm.agents" in other
        assert "call resume()" in (await nobody_for(database, "python:x") or "")
    assert await living(database) == []


async def test_a_worker_that_was_not_heard_of_is_dead_and_after_a_day_forgotten(database: Database, alice: int) -> None:
    silent, old, alive = (system_on(database, alice) for _ in range(3))
    for system, seconds in ((silent, 16), (old, 25 * 3600)):
        await Presence(system, 1)()
        async with database.begin_dispatch() as db:
            seen = text(f"now() - interval '{seconds} seconds'")
            of_it = update(WorkerProcess).where(WorkerProcess.name == system.process)
            await db.execute(of_it.values({WorkerProcess.seen_at: seen}))
    await Presence(replace(alive), 1)()
    assert [row.name for row in await living(database)] == [alive.process]
    async with database.begin_dispatch() as db:
        assert set((await db.scalars(select(WorkerProcess.name))).all()) == {silent.process, alive.process}
    await Presence(silent, 1)()
    assert {row.name for row in await living(database)} == {silent.process, alive.process}
