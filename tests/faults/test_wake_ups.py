"""No wake-up is lost: neither with a dead worker, nor because a job of the same name was just ending."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import asyncpg
import pytest
from sqlalchemy import text

from gateway import worker
from runtime import conversations
from runtime.local import Local
from runtime.testing import ScriptedModel, system_on, text_reply
from storage import jobs
from storage.queries import executions
from storage.tenancy import Database
from tests.faults import ledger, turns

EAGER = jobs.WorkerOptions(poll_s=0.2)


@asynccontextmanager
async def working_with(local: Local, handlers: dict[str, jobs.Handler]) -> AsyncGenerator[None]:
    """Let the job engine and the take-over work beside the block."""
    stop = anyio.Event()

    async def work() -> None:
        await local.jobs.work(handlers, stop=stop, options=EAGER)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        tasks.start_soon(worker.every, 0.1, worker.TakeOver(local))
        yield
        stop.set()
        tasks.cancel_scope.cancel()


async def test_a_dead_worker_s_execution_is_taken_over_although_its_job_still_counts_as_running(
    database: Database, alice: int
) -> None:
    dead = system_on(database, alice, ScriptedModel())
    inbound_id = await turns.accept(dead, await turns.make_webhook(dead), "anna", "hello")
    execution_id = await turns.begin(dead, inbound_id)
    assert await dead.journal.claim(alice, execution_id) is not None
    await ledger.let_leases_lapse(database, alice)
    async with database.begin_dispatch() as db:
        picked = "UPDATE pgqueuer SET status = 'picked', heartbeat = now() + interval '1 hour'"
        await db.execute(text(picked))

    alive = system_on(database, alice, ScriptedModel(text_reply("hello, Anna")))
    async with worker.working(alive):
        await ledger.settled(database, alice, timeout_s=10)

    assert await ledger.check(database, alice, [inbound_id]) == []


async def test_each_further_death_over_an_execution_is_noticed_too(database: Database, alice: int) -> None:
    dead = system_on(database, alice, ScriptedModel())
    inbound_id = await turns.accept(dead, await turns.make_webhook(dead), "anna", "hello")
    execution_id = await turns.begin(dead, inbound_id)
    take_over = worker.TakeOver(dead)
    seen: set[int] = set()
    for death in (1, 2, 3):
        assert await dead.journal.claim(alice, execution_id) is not None
        await ledger.let_leases_lapse(database, alice)
        async with database.begin_dispatch() as db:
            await db.execute(text("UPDATE pgqueuer SET status = 'picked', heartbeat = now() + interval '1 hour'"))
        await take_over()
        await take_over()
        async with database.begin_dispatch() as db:
            waiting = set(await db.scalars(text("SELECT id FROM pgqueuer WHERE status = 'queued'")))
        assert len(waiting - seen) == 1, f"death {death}"
        seen |= waiting


async def test_what_arrives_during_a_turn_is_answered_although_its_job_ends_while_the_turn_ends(
    database: Database, alice: int
) -> None:
    """The end of a turn wakes up what waits, while the job of that name is still there: it found a busy session."""
    local = system_on(database, alice, ScriptedModel(text_reply("one"), text_reply("two")))
    webhook_id = await turns.make_webhook(local)
    first = await turns.begin(local, await turns.accept(local, webhook_id, "anna", "first"))
    second = await turns.accept(local, webhook_id, "anna", "second", number=2)
    take_turn = worker.TurnTaker(local)

    async def end_the_first_turn_meanwhile(job: jobs.Job) -> jobs.Outcome:
        outcome = await take_turn(job)
        if job.id == second and job.attempt == 1:
            await local.driver.run(alice, first)
        return outcome

    handlers: dict[str, jobs.Handler] = {
        conversations.TURN: end_the_first_turn_meanwhile,
        conversations.NEXT_TURN: take_turn,
        conversations.EXECUTE: worker.Executor(local),
    }
    async with database.begin_dispatch() as db:
        await db.execute(text("DELETE FROM pgqueuer WHERE entrypoint = 'execute'"))
        await db.execute(text("UPDATE pgqueuer SET execute_after = now()"))
    async with working_with(local, handlers):
        await ledger.settled(database, alice, timeout_s=10)


async def test_the_second_execution_of_a_session_runs_although_its_job_ends_while_the_first_one_ends(
    database: Database, alice: int
) -> None:
    local = system_on(database, alice, ScriptedModel(text_reply("one"), text_reply("two")))
    async with database.begin(alice) as db:
        session_id = await executions.create_session(db, alice)
        first, second = [
            await executions.queue_execution(
                db, user_id=alice, session_id=session_id, agent_name="assistant", task=task
            )
            for task in ("one", "two")
        ]
        await local.jobs.enqueue(db, jobs.JobRequest(kind=conversations.EXECUTE, user_id=alice, id=second))
    await ledger.let_leases_lapse(database, alice)
    execute = worker.Executor(local)

    async def end_the_first_one_meanwhile(job: jobs.Job) -> jobs.Outcome:
        outcome = await execute(job)
        if job.id == second and job.attempt == 1:
            await local.driver.run(alice, first)
        return outcome

    async with working_with(local, {conversations.EXECUTE: end_the_first_one_meanwhile}):
        await ledger.settled(database, alice, timeout_s=10)


@pytest.mark.parametrize(
    "trouble",
    [asyncpg.ConnectionDoesNotExistError("gone"), asyncpg.InterfaceError("closed"), asyncpg.AdminShutdownError("bye")],
    ids=lambda error: type(error).__name__,
)
async def test_a_periodic_duty_outlives_trouble_of_the_driver(trouble: Exception) -> None:
    done = anyio.Event()
    troubles = [trouble]

    async def duty() -> None:
        if troubles:
            raise troubles.pop()
        done.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.every, 0.01, duty)
            await done.wait()
            tasks.cancel_scope.cancel()
