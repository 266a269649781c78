"""Our side of the kills: an agent of one's own on `Runtime`, with a tool inside our database or one outside it.

Variant "db": the effect commits together with its record. Variant "external": the effect goes over a connection of its
own to what stands for the outside world, and no key is honoured.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import asyncpg
from sqlalchemy import select, text, update

from benchmarks.agent_step import kill_work
from benchmarks.agent_step.kill_work import DONE, INSERT_COLUMNS, TOOL, Actor, Order, new_call_id, next_call
from runtime import Agent, Runtime, tool
from runtime.events import ModelReplied
from runtime.labels import NOTHING_READ
from runtime.models.words import tell
from runtime.operation import Context
from runtime.ports import ModelRequest, OnText
from runtime.testing import call_reply, system_on, text_reply
from storage.engine import Address, RawConnection
from storage.models.agents import AgentExecution, AgentSession, ToolExecution
from storage.tenancy import Database
from storage.testing import add_user


@tool(effect="db")
async def note_effect(ctx: Context, run: str, call: int) -> str:
    """Note that a call of a run has taken effect."""
    await ctx.db.execute(text(f"{INSERT_COLUMNS} (:run, :call)"), {"run": run, "call": call})
    return f"noted {call}"


inside = Agent(name="inside", instructions="Do as you are told.", tools=(note_effect,))

_OUTSIDE: ContextVar[RawConnection] = ContextVar("_OUTSIDE")
"""To what stands for the outside world."""


@tool(returns=NOTHING_READ)  # words of ours; after those of strangers a person would have to allow the next call
async def note_effect_outside(run: str, call: int) -> str:
    """Note elsewhere that a call of a run has taken effect."""
    await _OUTSIDE.get().execute(f"{INSERT_COLUMNS} ($1, $2)", run, call)
    return f"noted {call}"


outside = Agent(name="outside", instructions="Do as you are told.", tools=(note_effect_outside,))

AGENTS = {"db": inside, "external": outside}
TOOLS = {"db": TOOL, "external": note_effect_outside.name}


class CountingModel:
    """Calls the tool until it has seen all results; also one that says `unknown` is a result."""

    name = "counting-model"

    def __init__(self, order: Order) -> None:
        self._order = order

    async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
        """Answer from the request alone."""
        blocks = [block for message in request.messages for block in message["content"]]
        call = next_call(sum(block["type"] == "tool_result" for block in blocks))
        if call is None:
            reply = text_reply(DONE)
        else:
            arguments = {"run": self._order.run, "call": call}
            reply = call_reply((TOOLS[self._order.variant], arguments), tag=new_call_id())
        tell(reply, on_text)
        return reply


class Worker:
    """One process with the agent."""

    def __init__(self, runtime: Runtime, database: Database, order: Order) -> None:
        self._runtime = runtime
        self._database = database
        self._order = order

    async def begin(self) -> str:
        """Queue the run and drive it."""
        return (await self._runtime.run(AGENTS[self._order.variant], self._order.run)).text

    async def resume(self) -> str:
        """Drive the execution, which is found by its task; when it was never queued, begin."""
        wanted = select(AgentExecution.id).where(AgentExecution.task_description == self._order.run)
        async with self._database.begin(self._order.user_id, read_only=True) as db:
            execution_id = await db.scalar(wanted)
        if execution_id is None:
            return await self.begin()
        return (await self._runtime.resume(execution_id)).text


@asynccontextmanager
async def opened(order: Order) -> AsyncGenerator[Actor]:
    """Yield a worker with a connection to its database, and one to the outside world."""
    database = Database(Address(dsn=order.dsn, direct_dsn=order.dsn, pooled=False), pool_size=3)
    outer = await asyncpg.connect(order.dsn)
    _OUTSIDE.set(outer)
    try:
        system = system_on(database, order.user_id, CountingModel(order))
        async with database.begin(order.user_id, read_only=True) as db:
            await db.execute(select(1))
        async with Runtime(AGENTS[order.variant], local=system) as runtime:
            yield Worker(runtime, database, order)
    finally:
        await outer.close()
        await database.close()


async def prepare(dsn: str) -> None:
    """Let agents write the table of the effects, as whoever adds a table of their own does."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("GRANT INSERT ON effects TO agency_runtime")
    finally:
        await connection.close()


@asynccontextmanager
async def _opened(address: Address) -> AsyncGenerator[Database]:
    """Yield a database whose connections are gone afterwards: those that stay are taken for a dead worker's."""
    database = Database(address, pool_size=1)
    try:
        yield database
    finally:
        await database.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Our system seen from beside its workers."""

    address: Address
    user_id: int

    async def let_leases_lapse(self) -> None:
        """Let pass what a worker's lease still had to run, at most 15 seconds."""
        lapse = update(AgentSession).where(AgentSession.lease_owner.is_not(None))
        past = {AgentSession.lease_until: text("now() - interval '1 second'")}
        async with _opened(self.address) as database, database.begin(self.user_id) as db:
            await db.execute(lapse.values(past))

    async def unknown(self) -> set[tuple[str, int]]:
        """Return run and number of the calls of which the record says that nobody knows whether they took effect."""
        statement = select(ToolExecution.parameters).where(ToolExecution.state == "unknown")
        async with _opened(self.address) as database, database.begin(self.user_id, read_only=True) as db:
            return {(str(sent["run"]), int(sent["call"])) for sent in await db.scalars(statement)}


async def system_at(address: Address) -> System:
    """Return the system in a migrated database, with a user."""
    async with _opened(address) as database:
        return System(address=address, user_id=await add_user(database, "bench"))


if __name__ == "__main__":
    kill_work.serve(opened, prepare)
