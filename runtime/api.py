"""Agents of your own from Python: `from runtime import Agent, Runtime, tool`.

```python
@tool(effect="none")
async def opening_hours(day: str) -> str:
    "Tell when the shop is open on a day."
    return "9 to 17"

concierge = Agent(name="concierge", instructions="Answer shortly.", tools=(opening_hours, "remember"))

async with Runtime(concierge) as runtime:
    run = await runtime.run(concierge, "When are you open on Monday?")
    print(run.text)
```

An execution is a row like any other: it can be read over MCP and in Postgres, and `resume` goes on with it after a
crash of the program. Only a program that has the same agents can do that, so other workers leave it alone.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal, Self

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream
from pydantic import SecretStr

from runtime.agents import Agent as BuiltInAgent
from runtime.agents import UnknownAgentError
from runtime.driver import Driver, Later
from runtime.errors import ModelUnavailableError, RuntimeFault, UnknownToolError
from runtime.events import Event, event_adapter
from runtime.local import Local, open_local
from runtime.operation import Operation
from runtime.ports import Model
from runtime.settings import RuntimeSettings
from runtime.streaming import StreamItem, follow
from runtime.toolbox import OPERATIONS
from storage.queries import executions
from storage.settings import StorageSettings

_PREFIX = "python:"
"""Names with a colon belong to a program; no other worker takes them up."""

_RENEW_EVERY_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A named set of instructions and tools."""

    name: str
    instructions: str
    tools: Sequence[Operation | str] = ()
    """Tools of your own, and names of built-in operations."""
    model: str | None = None
    """None: the model of the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An execution that has come to its end."""

    execution_id: int
    session_id: int
    status: Literal["completed", "failed", "cancelled"]
    text: str
    """The answer, or the reason why there is none."""


class StillRunningError(RuntimeFault):
    """The execution is driven by somebody else, or waits for another one of its session."""

    def __init__(self, execution_id: int) -> None:
        super().__init__(f"execution {execution_id} is driven elsewhere; wait for it, or cancel it there")
        self.execution_id = execution_id


class Runtime:
    """Runs agents of your own on Postgres. Use it as an async context manager.

    Without `db` (any PostgreSQL address) it uses DATABASE_URL or the embedded server; `user` is whom it acts as.
    `model` replaces the configured one, in tests for instance; `local` is an open system to run on.
    """

    def __init__(
        self,
        *agents: Agent,
        db: str | None = None,
        user: str | None = None,
        model: Model | None = None,
        local: Local | None = None,
    ) -> None:
        self._agents = {f"{_PREFIX}{agent.name}": _plain(agent) for agent in agents}
        own = [tool for agent in agents for tool in agent.tools if isinstance(tool, Operation)]
        self._tools = {**OPERATIONS, **{tool.name: tool for tool in own}}
        self._db, self._user, self._model, self._given = db, user, model, local
        self._open = AsyncExitStack()
        self._local: Local | None = None
        self._streams: TaskGroup | None = None
        """Where the work behind `stream` goes on between two items."""

    async def __aenter__(self) -> Self:
        await self._open.__aenter__()
        if self._given is None:
            storage = StorageSettings() if self._db is None else StorageSettings(database_url=SecretStr(self._db))
            opening = open_local(storage, RuntimeSettings(), user=self._user, model=self._model)
            self._local = await self._open.enter_async_context(opening)
        else:
            self._local = self._given
        self._streams = await anyio.create_task_group().__aenter__()
        self._open.push_async_callback(self._stop_streams)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._local = None
        await self._open.__aexit__(kind, error, trace)

    async def run(self, agent: Agent, text: str, *, session_id: int | None = None) -> Run:
        """Let an agent work on a task to its end; with `session_id` it goes on where that session was.

        Raises:
            ModelUnavailableError: the model cannot answer now; `resume` goes on later.
        """
        return await self.resume(await self._queue(agent, text, session_id))

    async def stream(self, agent: Agent, text: str, *, session_id: int | None = None) -> AsyncGenerator[StreamItem]:
        """Do what `run` does, and yield what happens: steps, the reply while it is said, the end.

        Whoever leaves early stops driving the execution, as with a cancelled `run`; `resume` goes on with it.

        Raises:
            ModelUnavailableError: the model cannot answer now; `resume` goes on later.
            StillRunningError: somebody else drives it.
        """
        execution_id = await self._queue(agent, text, session_id)
        assert self._streams is not None  # noqa: S101 -- `_queue` has found the runtime open
        scope = anyio.CancelScope()
        send, receive = anyio.create_memory_object_stream[StreamItem | Exception]()
        self._streams.start_soon(self._drive, execution_id, send, scope)
        try:
            async for item in receive:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            scope.cancel()
            receive.close()

    def follow(
        self, execution_id: int, *, after_seq: int = 0, offset: int = 0, epoch: int | None = None
    ) -> AsyncGenerator[StreamItem]:
        """Yield what happens in an execution to its end, whoever drives it; see `runtime.streaming.follow`."""
        local = self._system()
        return follow(local.database, local.user_id, execution_id, after_seq=after_seq, offset=offset, epoch=epoch)

    async def resume(self, execution_id: int) -> Run:
        """Drive an execution of one of these agents to its end, from wherever it is; one that has ended is returned.

        Raises:
            ModelUnavailableError: the model cannot answer now; call this again later.
            StillRunningError: somebody else drives it.
            EntityNotFoundError: there is no such execution.
        """
        local = self._system()
        async with self._keeping_leases(local):
            outcome = await self._driver(local).run(local.user_id, execution_id)
        if isinstance(outcome, Later):
            raise ModelUnavailableError(f"execution {execution_id} waits", retry_after_s=outcome.delay_s)
        async with local.database.begin(local.user_id, read_only=True) as db:
            row = await executions.execution(db, execution_id)
        if row.status not in ("completed", "failed", "cancelled"):
            raise StillRunningError(execution_id)
        text = row.result["text"] if row.status == "completed" and row.result else row.error or ""
        return Run(execution_id=execution_id, session_id=row.session_id, status=row.status, text=text)

    async def events(self, execution_id: int, *, after_seq: int = 0) -> list[tuple[int, Event]]:
        """Return the journal of an execution after `after_seq`: (seq, event), oldest first."""
        local = self._system()
        async with local.database.begin(local.user_id, read_only=True) as db:
            rows = await executions.steps(db, execution_id, after_seq=after_seq)
        return [(row.seq, event_adapter.validate_python(row.body)) for row in rows]

    async def _queue(self, agent: Agent, text: str, session_id: int | None) -> int:
        local = self._system()
        name = f"{_PREFIX}{agent.name}"
        self._agent_named(name)
        async with local.database.begin(local.user_id) as db:
            session = session_id or await executions.create_session(db, local.user_id)
            return await executions.queue_execution(
                db, user_id=local.user_id, session_id=session, agent_name=name, task=text
            )

    async def _drive(
        self, execution_id: int, send: MemoryObjectSendStream[StreamItem | Exception], scope: anyio.CancelScope
    ) -> None:
        """Drive an execution and send on what happens in it, or the error that ends that.

        An async generator must not hold a task group across its items, so this is a task of the runtime's.
        """

        async def watch() -> None:
            async for item in self.follow(execution_id):
                await send.send(item)

        async def telling(work: Callable[[], Awaitable[object]]) -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 -- raised where the stream is read
                await send.send(error)
                scope.cancel()

        with scope, send:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(telling, watch)
                tasks.start_soon(telling, partial(self.resume, execution_id))

    async def _stop_streams(self) -> None:
        if self._streams is not None:
            self._streams.cancel_scope.cancel()
            await self._streams.__aexit__(None, None, None)

    def _driver(self, local: Local) -> Driver:
        return local.driver.varied(agents=self._agent_named, tools=self._tool_named)

    def _agent_named(self, name: str) -> BuiltInAgent:
        if name not in self._agents:
            raise UnknownAgentError(name)
        return self._agents[name]

    def _tool_named(self, name: str) -> Operation:
        if name not in self._tools:
            raise UnknownToolError(name, list(self._tools))
        return self._tools[name]

    def _system(self) -> Local:
        if self._local is None:
            message = "use the runtime inside 'async with Runtime(...) as runtime:'"
            raise RuntimeFault(message)
        return self._local

    @asynccontextmanager
    async def _keeping_leases(self, local: Local) -> AsyncGenerator[None]:
        async def renew() -> None:
            while True:
                await anyio.sleep(_RENEW_EVERY_S)
                await local.renew_leases()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(renew)
            yield
            tasks.cancel_scope.cancel()


def _plain(agent: Agent) -> BuiltInAgent:
    names = tuple(tool if isinstance(tool, str) else tool.name for tool in agent.tools)
    return BuiltInAgent(name=f"{_PREFIX}{agent.name}", instructions=agent.instructions, tools=names, model=agent.model)
