"""OpenAI Agents SDK killed: its SQLAlchemySession is all that is left of a run, and a new process goes on with that.

Its documentation calls sessions the way to resumable runs, by "another instance pointed at the same store", and has a
`RunState` for runs that pause for an approval; a run that was killed leaves none. So the new process runs the agent on
the same session, without new input when the task is there already, so that the model reads what has happened and goes
on. Other ways of its documentation are other products (Temporal, DBOS, Restate, Dapr).
"""
# pyright: basic, reportMissingImports=false
# Its interpreter is another one, whose packages pyright does not see.

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool
from agents.extensions.memory import SQLAlchemySession
from openai.types.responses import ResponseFunctionToolCall
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.agent_step import kill_work
from benchmarks.agent_step.kill_work import DONE, INSERT_COLUMNS, TASK, TOOL, Order, new_call_id, next_call
from benchmarks.agent_step.rivals.openai_session import said


class CountingModel(Model):
    """Calls the tool until it has seen all results."""

    def __init__(self, run: str) -> None:
        self._run = run

    async def get_response(self, *_: Any, input: Any, **__: Any) -> ModelResponse:  # noqa: A002 -- the SDK's name
        """Answer from the request alone."""
        call = next_call(sum(item.get("type") == "function_call_output" for item in input))
        if call is None:
            output = [said(new_call_id(), DONE)]
        else:
            arguments = json.dumps({"run": self._run, "call": call})
            output = [
                ResponseFunctionToolCall(type="function_call", call_id=new_call_id(), name=TOOL, arguments=arguments)
            ]
        return ModelResponse(output=output, usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        """Nothing streams here."""
        raise NotImplementedError


class Worker:
    """One agent and one session."""

    def __init__(self, engine: Any, order: Order) -> None:
        @function_tool(name_override=TOOL)
        async def note_effect(run: str, call: int) -> str:
            """Note that a call of a run has taken effect."""
            async with engine.begin() as connection:
                await connection.execute(text(f"{INSERT_COLUMNS} (:run, :call)"), {"run": run, "call": call})
            return f"noted {call}"

        self._agent = Agent(name="assistant", model=CountingModel(order.run), tools=[note_effect])
        self._session = SQLAlchemySession(order.run, engine=engine)

    async def begin(self) -> str:
        """Run the agent on the task."""
        return await self._run(TASK)

    async def resume(self) -> str:
        """Run the agent on what the session holds."""
        items = await self._session.get_items()
        if not items:
            return await self.begin()
        if items[-1].get("role") == "assistant":
            return items[-1]["content"][0]["text"]
        return await self._run([])

    async def _run(self, given: Any) -> str:
        quiet = RunConfig(tracing_disabled=True)
        return (await Runner.run(self._agent, given, session=self._session, run_config=quiet)).final_output


def _engine(dsn: str) -> Any:
    return create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=4)


@asynccontextmanager
async def opened(order: Order) -> AsyncGenerator[Worker]:
    """Yield a worker with a connection."""
    engine = _engine(order.dsn)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        yield Worker(engine, order)
    finally:
        await engine.dispose()


async def prepare(dsn: str) -> None:
    """Make the session's tables."""
    engine = _engine(dsn)
    await SQLAlchemySession("prepared", engine=engine, create_tables=True).get_items()
    await engine.dispose()


if __name__ == "__main__":
    kill_work.serve(opened, prepare)
