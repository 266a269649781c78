"""A script and workers in processes of their own: who has the code goes on with the work, nobody else touches it."""

import base64
import secrets
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import Process
from sqlalchemy import select, text

from runtime import Runtime
from runtime.ports import Json
from runtime.testing import (
    FakeMessagesAPI,
    ScriptedModel,
    Stall,
    call_reply,
    serve_loopback,
    system_on,
    text_reply,
)
from runtime.testing.messages_api import Answer
from storage.jobs import JobRequest
from storage.models.agents import AgentExecution, AgentSession, AgentStep, ToolExecution
from storage.queries import executions, workers
from storage.tenancy import Database
from tests.runtime.shop_app import concierge

CONCIERGE = "tests.runtime.shop_app:concierge"
APP = "tests.runtime.shop_app"
PATIENCE_S = 60
KEYS = base64.b64encode(secrets.token_bytes(32)).decode()
ROOT = Path(__file__).parents[2]
ANSWER = "On Monday we are open from 9 to 17."


def stalling_in_the_middle(_: Json, index: int) -> Answer:
    """Call a tool, then hang for ever in the next reply; whoever asks after that gets the answer."""
    match index:
        case 0:
            return call_reply(("opening_hours", {"day": "Monday"}))
        case 1:
            return Stall(reply=text_reply(ANSWER), size_bytes=900)
        case _:
            return text_reply(ANSWER)


@asynccontextmanager
async def running(
    environment: Mapping[str, str], database: Database, url: str, *command: str
) -> AsyncGenerator[Process]:
    """Run a Python module as a user of this database does, before the model at `url`; it is killed at the end."""
    settings = {
        "DATABASE_URL": database.address.dsn,
        "AGENCY_SECRET_KEYS": KEYS,
        "AGENCY_USER": "alice",
        "ANTHROPIC_API_KEY": "test-key",
        "ANTHROPIC_BASE_URL": url,
    }
    argv = [sys.executable, "-m", *command]
    async with await anyio.open_process(
        argv, env={**environment, **settings}, cwd=ROOT, stdout=None, stderr=None, stdin=None
    ) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def the_execution(database: Database, user_id: int) -> AgentExecution | None:
    async with database.begin(user_id) as db:
        return (await db.scalars(select(AgentExecution).where(AgentExecution.agent_name == CONCIERGE))).one_or_none()


async def until_a_tool_has_run(database: Database, user_id: int, api: FakeMessagesAPI) -> None:
    while True:
        if len(api.requests) == 2:  # the second request is the one that hangs
            break
        await anyio.sleep(0.05)
    async with database.begin(user_id) as db:
        assert (await db.scalars(select(ToolExecution.state))).one() == "done"


async def until_living(database: Database, count: int) -> list[str]:
    """Wait for so many workers, and return the agents that they have of programs."""
    while True:
        async with database.begin_dispatch() as db:
            found = await workers.living(db)
        if len(found) == count:
            return [name for process in found for name in process.agents if ":" in name]
        await anyio.sleep(0.05)


async def test_what_a_killed_script_began_is_ended_by_the_worker_that_has_its_app(
    database: Database, alice: int, environment: Mapping[str, str]
) -> None:
    api = FakeMessagesAPI(stalling_in_the_middle)
    async with serve_loopback(api.app) as url:
        with anyio.fail_after(PATIENCE_S):
            async with running(environment, database, url, "tests.runtime.shop_script") as script:
                await until_a_tool_has_run(database, alice, api)
                script.kill()
                await script.wait()
            async with running(environment, database, url, "gateway.cli", "worker") as stranger:
                assert await until_living(database, 1) == []
                await lapse_and_wake(database, alice)
                await until_jobs_are_done(database)
                seen = await the_execution(database, alice)
                assert seen is not None
                assert (seen.status, seen.attempt) == ("executing", 1), "a worker without the agent has claimed it"
                async with running(environment, database, url, "gateway.cli", "worker", "--app", APP) as worker:
                    assert await until_living(database, 2) == [CONCIERGE]
                    seen = await until_completed(database, alice)
                    worker.terminate()
                    assert await worker.wait() == 0
                stranger.terminate()
                assert await stranger.wait() == 0
    assert (seen.result, seen.attempt) == ({"text": ANSWER}, 2)
    async with database.begin(alice) as db:
        kinds = (await db.scalars(select(AgentStep.kind).order_by(AgentStep.seq))).all()
    assert kinds.count("tool_result") == 1, "the tool ran again"
    assert "system" not in kinds, "script and worker disagree about what the agent is"
    assert await until_living(database, 0) == []


async def until_completed(database: Database, user_id: int) -> AgentExecution:
    while True:
        row = await the_execution(database, user_id)
        if row is not None and row.status == "completed":
            return row
        await anyio.sleep(0.05)


async def lapse_and_wake(database: Database, user_id: int) -> None:
    """Let the dead script's lease lapse now, and send a job as well, as somebody does who wants it to go on."""
    row = await the_execution(database, user_id)
    assert row is not None
    system = system_on(database, user_id)
    async with database.begin(user_id) as db:
        await db.execute(text('UPDATE "agentSessions" SET "leaseUntil" = now() - interval \'1 second\''))
        await system.jobs.enqueue(db, JobRequest(kind="execute", user_id=user_id, id=row.id))


async def until_jobs_are_done(database: Database) -> None:
    while True:
        async with database.begin_dispatch() as db:
            if not (await db.execute(text("SELECT count(*) FROM pgqueuer"))).scalar_one():
                return
        await anyio.sleep(0.05)


async def test_the_script_goes_on_by_itself_under_the_name_that_it_had_before(database: Database, alice: int) -> None:
    """Rows of earlier releases carry `python:` and the agent's own name."""
    async with database.begin(alice) as db:
        session_id = await executions.create_session(db, alice)
        old = await executions.queue_execution(
            db, user_id=alice, session_id=session_id, agent_name="python:concierge", task="go on"
        )
    async with Runtime(concierge, local=system_on(database, alice, ScriptedModel(text_reply("done")))) as runtime:
        assert (await runtime.resume(old)).text == "done"
    async with database.begin(alice) as db:
        assert (await db.scalars(select(AgentSession.lease_owner))).one() is None
