"""LangGraph with its Postgres saver and durability "sync", as its documentation has it; variant "delta": DeltaChannel.

Two checkpoints per iteration, one per node. The tool's row is committed on a connection of its own: the saver offers no
way into its transaction.
"""
# pyright: basic, reportMissingImports=false
# Its interpreter is another one, whose packages pyright does not see.

import json
import time
from importlib.metadata import version
from typing import Annotated, Any, TypedDict

import anyio
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

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


def appended(state: list[AnyMessage], writes: list[list[AnyMessage]]) -> list[AnyMessage]:
    """Return the messages with all that was written."""
    return [*state, *(message for write in writes for message in write)]


class Whole(TypedDict):
    """The documented state."""

    messages: Annotated[list[AnyMessage], add_messages]


class Delta(TypedDict):
    """The state whose checkpoints hold what was added."""

    messages: Annotated[list[AnyMessage], DeltaChannel(appended)]


def call(run: str, turn: int) -> AIMessage:
    """Return a reply that calls the tool."""
    asked = {"id": call_id(run, turn), "name": TOOL, "args": arguments_of(run, turn), "type": "tool_call"}
    return AIMessage(content=prose(f"words {run}-{turn}"), tool_calls=[asked])


def history(run: str, length: int) -> list[AnyMessage]:
    """Return that many messages."""
    messages: list[AnyMessage] = []
    for at, role in enumerate(roles(length)):
        match role:
            case "user":
                messages.append(HumanMessage(prose(run)))
            case "call":
                messages.append(call(f"{run}-old", at))
            case "result":
                asked = messages[-1].tool_calls[0]
                text = json.dumps(result_of(asked["args"]))
                messages.append(ToolMessage(text, tool_call_id=asked["id"], name=TOOL))
            case _:
                messages.append(AIMessage(prose(f"{run}-{at}")))
    return messages


class Bench:
    """One compiled graph; the run's name and watch travel in its configuration."""

    def __init__(self, pool: Any, saver: Any, state: type) -> None:
        self._pool = pool

        @tool(TOOL)
        async def remember(key: str, value: str) -> dict[str, Any]:
            """Keep a value under a key."""
            async with pool.connection() as connection:
                await connection.execute(
                    "INSERT INTO notes (key, value) VALUES (%s, %s)"
                    " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    (key, Jsonb(value)),
                )
            return result_of({"key": key, "value": value})

        async def model(_state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
            given = config["configurable"]
            turn = await given["watch"].next_turn()
            return {"messages": [AIMessage("Done.") if turn is None else call(given["thread_id"], turn)]}

        graph = StateGraph(state)
        graph.add_node("model", model)
        graph.add_node("tools", ToolNode([remember]))
        graph.add_edge(START, "model")
        graph.add_conditional_edges("model", tools_condition)
        graph.add_edge("tools", "model")
        self.graph = graph.compile(checkpointer=saver)

    async def wal(self) -> int:
        """Return the server's bytes of WAL."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(WAL_SQL)).fetchone()
        return next(iter(row.values()))

    async def prepare(self, run: str, length: int) -> dict[str, Any]:
        """Make a thread that holds `length` messages, and return its configuration."""
        config = {"configurable": {"thread_id": run}, "recursion_limit": 10_000}
        await self.graph.aupdate_state(config, {"messages": history(run, length)}, as_node="model")
        return config

    async def drive(self, config: dict[str, Any], watch: Watch) -> None:
        """Drive one message to its answer."""
        configurable = config["configurable"] | {"watch": watch}
        await self.graph.ainvoke(
            {"messages": [HumanMessage(TASK)]}, config | {"configurable": configurable}, durability="sync"
        )

    async def measure(self, runs: int) -> Findings:
        """Do the round."""
        findings = Findings(version=f"langgraph {version('langgraph')}")
        for number in range(runs):
            for length in LENGTHS:
                config = await self.prepare(f"run{number}of{length}", length)
                if length == LONGEST:
                    findings.load_ms += [await timed_ms(lambda: self.graph.aget_state(config)) for _ in range(LOADS)]  # noqa: B023 -- awaited here
                watch = Watch(ITERATIONS, self.wal)
                await self.drive(config, watch)
                findings.add(length, watch)
        configs = [await self.prepare(f"many{number}", LENGTHS[0]) for number in range(SESSIONS)]
        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for config in configs:
                tasks.start_soon(self.drive, config, Watch(LONG_ITERATIONS))
        findings.per_second = SESSIONS * LONG_ITERATIONS / (time.perf_counter() - began)
        async with self._pool.connection() as connection:
            row = await (await connection.execute("SELECT count(*) AS n FROM notes")).fetchone()
        findings.effects = row["n"]
        return findings


async def run(dsn: str, runs: int, variant: str) -> Findings:
    """Measure on the database behind `dsn`."""
    # What the saver's documentation asks of a connection.
    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(dsn, min_size=1, max_size=SESSIONS, kwargs=settings, open=False) as pool:
        async with pool.connection() as connection:
            await connection.execute("CREATE TABLE notes (key text PRIMARY KEY, value jsonb NOT NULL)")
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        return await Bench(pool, saver, Delta if variant == "delta" else Whole).measure(runs)


def main() -> None:
    """Print the findings."""
    given = options()
    anyio.run(run, given.dsn, given.runs, given.variant).print_json()


if __name__ == "__main__":
    main()
