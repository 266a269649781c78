"""LangGraph killed: Postgres saver with durability "sync", resumed as its documentation has it; or with DeltaChannel.

A thread goes on with `ainvoke(None)` after its last checkpoint; one that has no checkpoint yet is begun. The tool
writes over a connection of its own: the saver offers no way into its transaction. Its node does nothing else, which is
what the documentation wants when it asks to keep side effects apart in nodes or tasks.
"""
# pyright: basic, reportMissingImports=false
# Its interpreter is another one, whose packages pyright does not see.

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.agent_step import kill_work
from benchmarks.agent_step.kill_work import DONE, INSERT_COLUMNS, TASK, TOOL, Order, new_call_id, next_call
from benchmarks.agent_step.rivals.langgraph_saver import Delta, Whole

SETTINGS = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
"""What the saver's documentation asks of a connection."""


class Worker:
    """One compiled graph and one thread."""

    def __init__(self, pool: Any, order: Order) -> None:
        @tool(TOOL)
        async def note_effect(run: str, call: int) -> str:
            """Note that a call of a run has taken effect."""
            async with pool.connection() as connection:
                await connection.execute(f"{INSERT_COLUMNS} (%s, %s)", (run, call))
            return f"noted {call}"

        async def model(state: dict[str, Any]) -> dict[str, Any]:
            call = next_call(sum(isinstance(message, ToolMessage) for message in state["messages"]))
            if call is None:
                return {"messages": [AIMessage(DONE)]}
            arguments = {"run": order.run, "call": call}
            asked = {"id": new_call_id(), "name": TOOL, "args": arguments, "type": "tool_call"}
            return {"messages": [AIMessage("", tool_calls=[asked])]}

        graph = StateGraph(Delta if order.variant == "delta" else Whole)
        graph.add_node("model", model)
        graph.add_node("tools", ToolNode([note_effect]))
        graph.add_edge(START, "model")
        graph.add_conditional_edges("model", tools_condition)
        graph.add_edge("tools", "model")
        self._graph = graph.compile(checkpointer=AsyncPostgresSaver(pool))
        self._config = {"configurable": {"thread_id": order.run}}

    async def begin(self) -> str:
        """Send the task to the thread."""
        return await self._invoke({"messages": [HumanMessage(TASK)]})

    async def resume(self) -> str:
        """Go on after the last checkpoint; on a thread that has ended that does nothing."""
        # Not asked for its `next`: that is empty, too, between a step's last writes and the following checkpoint.
        state = await self._graph.aget_state(self._config)
        return await self.begin() if state.created_at is None else await self._invoke(None)

    async def _invoke(self, given: Any) -> str:
        state = await self._graph.ainvoke(given, self._config, durability="sync")
        return state["messages"][-1].content


@asynccontextmanager
async def opened(order: Order) -> AsyncGenerator[Worker]:
    """Yield a worker with its connections."""
    async with AsyncConnectionPool(order.dsn, min_size=2, max_size=4, kwargs=SETTINGS, open=False) as pool:
        await pool.wait()
        yield Worker(pool, order)


async def prepare(dsn: str) -> None:
    """Make the saver's tables."""
    async with await psycopg.AsyncConnection.connect(dsn, **SETTINGS) as connection:
        await AsyncPostgresSaver(connection).setup()


if __name__ == "__main__":
    kill_work.serve(opened, prepare)
