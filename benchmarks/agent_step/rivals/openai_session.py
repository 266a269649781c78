"""OpenAI Agents SDK with its SQLAlchemySession on Postgres, as its documentation has it.

The runner adds to the session turn by turn. The tool's row is committed on its own: nothing ties it to the session.
"""
# pyright: basic, reportMissingImports=false
# Its interpreter is another one, whose packages pyright does not see.

import json
import time
from importlib.metadata import version
from typing import Any

import anyio
from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool
from agents.extensions.memory import SQLAlchemySession
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

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
    Watch,
    arguments_of,
    call_id,
    options,
    prose,
    result_of,
    roles,
    timed_ms,
)

LOADS = 5


def said(name: str, words: str) -> ResponseOutputMessage:
    """Return words of the model."""
    content = ResponseOutputText(type="output_text", text=words, annotations=[])
    return ResponseOutputMessage(id=name, type="message", role="assistant", status="completed", content=[content])


def call(run: str, turn: int) -> ResponseFunctionToolCall:
    """Return a call of the tool."""
    arguments = json.dumps(arguments_of(run, turn))
    return ResponseFunctionToolCall(type="function_call", call_id=call_id(run, turn), name=TOOL, arguments=arguments)


def history(run: str, length: int) -> list[dict[str, Any]]:
    """Return that many items."""
    items: list[dict[str, Any]] = []
    for at, role in enumerate(roles(length)):
        match role:
            case "user":
                items.append({"role": "user", "content": prose(run)})
            case "call":
                items.append(call(f"{run}-old", at).model_dump(exclude_none=True))
            case "result":
                output = json.dumps(result_of(json.loads(items[-1]["arguments"])))
                items.append({"type": "function_call_output", "call_id": items[-1]["call_id"], "output": output})
            case _:
                items.append(said(f"{run}-{at}", prose(f"{run}-{at}")).model_dump(exclude_none=True))
    return items


class SteadyModel(Model):
    """Calls the tool once per turn, then ends."""

    def __init__(self, run: str, watch: Watch) -> None:
        self._run = run
        self._watch = watch

    async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
        """Return the next call, or the end."""
        turn = await self._watch.next_turn()
        name = f"msg_{self._run}_{turn}"
        output = [said(name, "Done.")] if turn is None else [said(name, prose(f"words {name}")), call(self._run, turn)]
        return ModelResponse(output=output, usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        """Nothing streams here."""
        raise NotImplementedError


class Bench:
    """One engine for the sessions and the tool."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

        @function_tool(name_override=TOOL)
        async def remember(key: str, value: str) -> str:
            """Keep a value under a key."""
            async with engine.begin() as connection:
                await connection.execute(
                    text(
                        "INSERT INTO notes (key, value) VALUES (:key, cast(:value AS jsonb))"
                        " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
                    ),
                    {"key": key, "value": json.dumps(value)},
                )
            return json.dumps(result_of({"key": key, "value": value}))

        self._tool = remember

    async def wal(self) -> int:
        """Return the server's bytes of WAL."""
        async with self._engine.connect() as connection:
            return (await connection.execute(text(WAL_SQL))).scalar_one()

    async def prepare(self, run: str, length: int) -> SQLAlchemySession:
        """Make a session that holds `length` items."""
        session = SQLAlchemySession(run, engine=self._engine, create_tables=True)
        await session.add_items(history(run, length))
        return session

    async def drive(self, run: str, session: SQLAlchemySession, watch: Watch) -> None:
        """Drive one message to its answer."""
        agent = Agent(name="assistant", model=SteadyModel(run, watch), tools=[self._tool])
        quiet = RunConfig(tracing_disabled=True)
        await Runner.run(agent, TASK, session=session, max_turns=watch.iterations + 2, run_config=quiet)

    async def measure(self, runs: int) -> Findings:
        """Do the round."""
        findings = Findings(version=f"openai-agents {version('openai-agents')}")
        for number in range(runs):
            for length in LENGTHS:
                name = f"run{number}of{length}"
                session = await self.prepare(name, length)
                if length == LONGEST:
                    findings.load_ms += [await timed_ms(session.get_items) for _ in range(LOADS)]
                watch = Watch(ITERATIONS, self.wal)
                await self.drive(name, session, watch)
                findings.add(length, watch)
        names = [f"many{number}" for number in range(SESSIONS)]
        sessions = {name: await self.prepare(name, LENGTHS[0]) for name in names}
        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for name, session in sessions.items():
                tasks.start_soon(self.drive, name, session, Watch(LONG_ITERATIONS))
        findings.per_second = SESSIONS * LONG_ITERATIONS / (time.perf_counter() - began)
        async with self._engine.connect() as connection:
            findings.effects = (await connection.execute(text("SELECT count(*) FROM notes"))).scalar_one()
        return findings


async def run(dsn: str, runs: int) -> Findings:
    """Measure on the database behind `dsn`."""
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=SESSIONS)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE notes (key text PRIMARY KEY, value jsonb NOT NULL)"))
        return await Bench(engine).measure(runs)
    finally:
        await engine.dispose()


def main() -> None:
    """Print the findings."""
    given = options()
    anyio.run(run, given.dsn, given.runs).print_json()


if __name__ == "__main__":
    main()
