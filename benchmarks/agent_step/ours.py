"""Our side: the driver as a worker runs it, with the assistant as it is shipped, and a model that takes no time."""

import json
import time
from typing import cast

import anyio
from sqlalchemy import func, insert, select, text

from benchmarks.agent_step.workload import (
    ITERATIONS,
    LENGTHS,
    LONG_ITERATIONS,
    LONGEST,
    SESSIONS,
    TASK,
    TOOL,
    WAL_SQL,
    Findings,
    Wal,
    Watch,
    arguments_of,
    call_id,
    options,
    prose,
    result_of,
    roles,
    timed_ms,
)
from runtime.agents import ASSISTANT
from runtime.driver import Ended
from runtime.events import Event, ModelReplied, ToolReturned, UserSpoke
from runtime.models.words import tell
from runtime.ports import ModelRequest, OnText
from runtime.requests import Transcript
from runtime.testing import call_reply, system_on, text_reply
from storage.engine import Address
from storage.models.agents import AgentExecution, AgentSession, AgentStep
from storage.models.swarm import MemoryEntry
from storage.queries import executions
from storage.tenancy import Database
from storage.testing import add_user

LOADS = 5
"""How often the long session is loaded per run."""


class SteadyModel:
    """Calls `remember` once per turn, then ends; unlike `ScriptedModel` it keeps no copies of what it was asked."""

    def __init__(self, run: str, watch: Watch) -> None:
        self._run = run
        self._watch = watch

    @property
    def name(self) -> str:
        """Says that no model is behind it."""
        return "steady-model"

    async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
        """Return the next call, or the end."""
        turn = await self._watch.next_turn()
        assert request.messages, "there is always a question"  # noqa: S101 -- the request is what is being timed
        reply = text_reply("Done.") if turn is None else _reply(self._run, turn)
        tell(reply, on_text)
        return reply


def _reply(run: str, turn: int) -> ModelReplied:
    return call_reply((TOOL, arguments_of(run, turn)), text=prose(f"words {run}-{turn}"), tag=call_id(run, turn))


def history(run: str, length: int) -> list[Event]:
    """Return that many messages of an earlier execution."""
    events: list[Event] = []
    for at, role in enumerate(roles(length)):
        match role:
            case "user":
                events.append(UserSpoke(text=prose(run)))
            case "call":
                events.append(_reply(f"{run}-old", at))
            case "result":
                reply = cast("ModelReplied", events[-1])  # roles() puts every result after its call
                call = reply.calls[0]
                content = json.dumps(result_of(call.arguments))
                events.append(ToolReturned(call_id=call.id, name=TOOL, content=content))
            case _:
                events.append(text_reply(prose(f"{run}-{at}")))
    return events


async def queue(database: Database, user_id: int, run: str, length: int) -> int:
    """Make a session that holds `length` messages, queue an execution in it, and return its id."""
    events = history(run, length)
    async with database.begin(user_id) as db:
        session_id = await executions.create_session(db, user_id, max_iterations=LONG_ITERATIONS + 1)
        earlier = await executions.queue_execution(
            db, user_id=user_id, session_id=session_id, agent_name=ASSISTANT.name, task=TASK
        )
        over = await executions.execution(db, earlier)
        over.status = "completed"
        session = (await db.scalars(select(AgentSession).where(AgentSession.id == session_id))).one()
        session.next_seq = len(events) + 1
        rows = [
            {
                AgentStep.user_id.key: user_id,
                AgentStep.session_id.key: session_id,
                AgentStep.execution_id.key: earlier,
                AgentStep.seq.key: seq,
                AgentStep.kind.key: event.kind,
                AgentStep.body.key: event.model_dump(mode="json"),
            }
            for seq, event in enumerate(events, start=1)
        ]
        await db.execute(insert(AgentStep), rows)
        return await executions.queue_execution(
            db, user_id=user_id, session_id=session_id, agent_name=ASSISTANT.name, task=TASK
        )


async def drive(database: Database, user_id: int, run: str, execution_id: int, watch: Watch) -> None:
    """Drive one execution to its end."""
    system = system_on(database, user_id, SteadyModel(run, watch))
    outcome = await system.driver.run(user_id, execution_id)
    if not (isinstance(outcome, Ended) and outcome.event.status == "completed"):
        message = f"the run {run!r} ended as {outcome!r}"
        raise RuntimeError(message)


async def load(database: Database, user_id: int, execution_id: int) -> list[float]:
    """Return how long it takes to read a session and to make its request, several times, in milliseconds."""
    journal = system_on(database, user_id).journal
    claim = await journal.claim(user_id, execution_id)
    if claim is None:
        message = f"execution {execution_id} cannot be claimed"
        raise RuntimeError(message)

    async def once() -> None:
        recorded = await journal.read(claim)
        Transcript(entry.event for entry in recorded)

    times_ms = [await timed_ms(once) for _ in range(LOADS)]
    await journal.release(claim)
    return times_ms


async def at_once(database: Database, user_id: int) -> float:
    """Return iterations per second of `SESSIONS` sessions that run at once."""
    names = [f"many{number}" for number in range(SESSIONS)]
    queued = {name: await queue(database, user_id, name, LENGTHS[0]) for name in names}
    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for name, execution_id in queued.items():
            tasks.start_soon(drive, database, user_id, name, execution_id, Watch(LONG_ITERATIONS))
    return SESSIONS * LONG_ITERATIONS / (time.perf_counter() - began)


async def measure(database: Database, runs: int, wal: Wal) -> Findings:
    """Do the round on a migrated database."""
    user_id = await add_user(database, "bench")
    findings = Findings(version="this checkout")
    for number in range(runs):
        for length in LENGTHS:
            run = f"run{number}of{length}"
            execution_id = await queue(database, user_id, run, length)
            if length == LONGEST:
                findings.load_ms += await load(database, user_id, execution_id)
            watch = Watch(ITERATIONS, wal)
            await drive(database, user_id, run, execution_id, watch)
            findings.add(length, watch)
    findings.per_second = await at_once(database, user_id)
    async with database.begin(user_id) as db:
        findings.effects = await db.scalar(select(func.count()).select_from(MemoryEntry)) or 0
        unfinished = await db.scalar(
            select(func.count()).select_from(AgentExecution).where(AgentExecution.status != "completed")
        )
    if unfinished:
        message = f"{unfinished} executions are not completed"
        raise RuntimeError(message)
    return findings


async def run(dsn: str, runs: int) -> Findings:
    """Measure on the database behind `dsn`."""
    address = Address(dsn=dsn, direct_dsn=dsn, pooled=False)
    database, watcher = Database(address, pool_size=SESSIONS), Database(address, pool_size=1)
    try:

        async def wal() -> int:
            async with watcher.engine.connect() as connection:
                return (await connection.execute(text(WAL_SQL))).scalar_one()

        return await measure(database, runs, wal)
    finally:
        await database.close()
        await watcher.close()


def main() -> None:
    """Print the findings."""
    given = options()
    anyio.run(run, given.dsn, given.runs).print_json()


if __name__ == "__main__":
    main()
