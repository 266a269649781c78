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
crash of the program. An agent at the top level of a module that can be imported, `shop.agents` say, is the same one
everywhere: a worker with `--app shop.agents` goes on with it by itself. One of a script's own, or made in a function,
is known to its process only, and every other program leaves its executions alone.
"""

import inspect
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream
from pydantic import SecretStr

from runtime import tool_outbox
from runtime.agents import Agent as BuiltInAgent
from runtime.decide import Limits
from runtime.driver import Driver, Held, Later
from runtime.errors import DuplicateNameError, ModelUnavailableError, RuntimeFault
from runtime.events import Event, event_adapter
from runtime.local import Local, open_local
from runtime.names import PROCESS
from runtime.operation import Context, Operation, perform
from runtime.operations.approvals import deny_approval, grant_approval
from runtime.operations.executions import cancel_execution, fork_execution, pause_execution, reply_execution
from runtime.operations.waiting import waiting_view, withdraw_questions
from runtime.ports import Json, Model
from runtime.registry import Registry, name_in_module, own_tools, tool_names
from runtime.settings import RuntimeSettings
from runtime.streaming import StreamItem, follow
from storage.models.agents import AgentExecution
from storage.queries import executions, waiting
from storage.queries import tool_outbox as tool_outbox_rows
from storage.settings import StorageSettings

logger = logging.getLogger(__name__)

_RENEW_EVERY_S = 5
_LAST_NEWS_S = 5
"""How long a stream waits for the last news of an execution that waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A named set of instructions and tools."""

    name: str
    instructions: str
    tools: Sequence[Operation | str] = ()
    """Tools of your own, and names of built-in operations."""
    model: str | None = None
    """None: the model of the settings."""
    approvals: Sequence[str] = ()
    """Names of tools each call of which a person has to allow."""
    limits: Limits | None = None
    """What one execution may use."""
    plan: Literal["optional", "required"] = "optional"
    """required: the first reply can only plan and look."""
    module: str = field(default="", repr=False, compare=False)
    """Where it is defined; filled in."""

    def __post_init__(self) -> None:
        if not self.module:
            object.__setattr__(self, "module", _module_of_caller())  # the way to complete a frozen dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Something that an execution cannot go on without."""

    kind: Literal["approval", "answer", "execution", "resume"]
    """Whom to ask: `approve` or `deny`, `reply`, nobody (another execution has to end), `resume` (it is paused)."""
    id: int
    """Of the approval, the question's card, or the execution."""
    about: str
    """What is asked, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An execution that has come to its end, or as far as it gets without somebody's word."""

    execution_id: int
    session_id: int
    status: Literal["completed", "failed", "cancelled", "waiting"]
    text: str
    """The answer, or the reason why there is none yet."""
    waiting_for: tuple[Waiting, ...] = ()
    """When it is waiting: everything that is open."""


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
        self._registry = _registered(agents)
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
        """Let an agent work on a task to its end, or until it waits; with `session_id` it goes on in that session.

        Whatever its tools have queued to be sent is sent afterwards, as far as the services take it.

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
        """Drive an execution of one of these agents to its end, or until it waits, from wherever it is.

        One that has ended is returned, one that was paused is paused no longer.

        Raises:
            ModelUnavailableError: the model cannot answer now; call this again later.
            StillRunningError: somebody else drives it.
            EntityNotFoundError: there is no such execution.
        """
        local = self._system()
        async with local.database.begin(local.user_id) as db:
            await waiting.unpause(db, execution_id)
        async with self._keeping_leases(local):
            await self._drive_family(local, execution_id)
        await self._send(local, execution_id)
        return await self._state(local, execution_id)

    async def reply(self, execution_id: int, text: str, *, question: int | None = None) -> None:
        """Answer the question that an execution waits for; `resume` goes on with it, or a worker that has its agent.

        Raises:
            EntityConflictError: nobody asks, or several questions are open and `question` does not say which.
            NotAuthorisedError: it waits for an approval.
        """
        more = {} if question is None else {"question": question}
        await self._perform(reply_execution, id=execution_id, text=text, **more)

    async def approve(self, approval_id: int, *, note: str | None = None) -> None:
        """Let one call run, once; `resume` goes on with it, or a worker that has its agent.

        Raises:
            EntityConflictError: it was decided before, has expired, or is not for the call that would run.
        """
        await self._perform(grant_approval, id=approval_id, note=note)

    async def deny(self, approval_id: int, *, note: str | None = None) -> None:
        """Refuse one call; the agent reads the note.

        Raises:
            EntityConflictError: it was decided before, or has expired.
        """
        await self._perform(deny_approval, id=approval_id, note=note)

    async def pause(self, execution_id: int) -> None:
        """Hold an execution from its next commit on, whoever drives it; `resume` lets it go on.

        Raises:
            EntityConflictError: it is over.
        """
        await self._perform(pause_execution, id=execution_id)

    async def cancel(self, execution_id: int) -> None:
        """Stop an execution at its next commit, whoever drives it; one that nobody drives is ended here."""
        await self._perform(cancel_execution, id=execution_id)
        local = self._system()
        await self._driver(local).run(local.user_id, execution_id)

    async def fork(self, execution_id: int, text: str, *, at_step: int) -> Run:
        """Try again from a step of an execution's session, in a session of its own that remembers all up to it.

        Raises:
            EntityNotFoundError: there is no such execution, or no such step in its session.
            ModelUnavailableError: the model cannot answer now; `resume` goes on later.
        """
        forked = await self._perform(fork_execution, id=execution_id, at_step=at_step, task=text)
        return await self.resume(forked["id"])

    async def events(self, execution_id: int, *, after_seq: int = 0) -> list[tuple[int, Event]]:
        """Return the journal of an execution after `after_seq`: (seq, event), oldest first."""
        local = self._system()
        async with local.database.begin(local.user_id, read_only=True) as db:
            rows = await executions.steps(db, execution_id, after_seq=after_seq)
        return [(row.seq, event_adapter.validate_python(row.body)) for row in rows]

    async def _queue(self, agent: Agent, text: str, session_id: int | None) -> int:
        local = self._system()
        name = self._registry.agent_named(_name(agent)).name
        async with local.database.begin(local.user_id) as db:
            session = session_id or await executions.create_session(db, local.user_id)
            if session_id is not None:
                await withdraw_questions(await local.context(db, door="python"), session_id)
            return await executions.queue_execution(
                db, user_id=local.user_id, session_id=session, agent_name=name, task=text
            )

    async def _drive(
        self, execution_id: int, send: MemoryObjectSendStream[StreamItem | Exception], scope: anyio.CancelScope
    ) -> None:
        """Drive an execution and send on what happens in it, or the error that ends that.

        An async generator must not hold a task group across its items, so this is a task of the runtime's.
        """
        waits = anyio.Event()

        async def watch() -> None:
            async for item in self.follow(execution_id):
                await send.send(item)
                if item.kind == "waiting":
                    waits.set()

        async def drive() -> None:
            run = await self.resume(execution_id)
            if run.status != "waiting":
                return
            with anyio.move_on_after(_LAST_NEWS_S):
                await waits.wait()
            scope.cancel()

        async def telling(work: Callable[[], Awaitable[object]]) -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 -- raised where the stream is read
                await send.send(error)
                scope.cancel()

        with scope, send:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(telling, watch)
                tasks.start_soon(telling, drive)

    async def _stop_streams(self) -> None:
        if self._streams is not None:
            self._streams.cancel_scope.cancel()
            await self._streams.__aexit__(None, None, None)

    def _driver(self, local: Local) -> Driver:
        return local.driver.varied(agents=self._registry.agent_named, tools=self._registry.tool_named)

    def _system(self) -> Local:
        if self._local is None:
            message = "use the runtime inside 'async with Runtime(...) as runtime:'"
            raise RuntimeFault(message)
        return self._local

    @asynccontextmanager
    async def _keeping_leases(self, local: Local) -> AsyncGenerator[None]:
        """Renew leases in a task of the runtime's: a group around the block would wrap the block's errors."""
        scope = anyio.CancelScope()

        async def renew() -> None:
            with scope:
                while True:
                    await anyio.sleep(_RENEW_EVERY_S)
                    await _tried(local.renew_leases)

        assert self._streams is not None  # noqa: S101 -- the runtime is open
        self._streams.start_soon(renew)
        try:
            yield
        finally:
            scope.cancel()

    async def _drive_family(self, local: Local, execution_id: int) -> None:
        """Drive an execution, and those that it has delegated and waits for, as far as they get."""
        while True:
            outcome = await self._driver(local).run(local.user_id, execution_id)
            if isinstance(outcome, Later):
                raise ModelUnavailableError(f"execution {execution_id} waits", retry_after_s=outcome.delay_s)
            if not isinstance(outcome, Held):
                return
            run = await self._state(local, execution_id)
            children = [found.id for found in run.waiting_for if found.kind == "execution"]
            if not children:
                return
            for child in children:
                await self._drive_family(local, child)

    async def _state(self, local: Local, execution_id: int) -> Run:
        async with local.database.begin(local.user_id, read_only=True) as db:
            row = await executions.execution(db, execution_id)
            if row.status in ("pending", "planning", "executing"):
                waits = await _waits(await local.context(db, door="python"), row)
                if not waits:
                    raise StillRunningError(execution_id)
                about = "; ".join(found.about for found in waits)
                return Run(
                    execution_id=row.id, session_id=row.session_id, status="waiting", text=about, waiting_for=waits
                )
        text = row.result["text"] if row.status == "completed" and row.result else row.error or ""
        return Run(execution_id=execution_id, session_id=row.session_id, status=row.status, text=text)

    async def _send(self, local: Local, execution_id: int) -> None:
        """Send what the execution's tools have queued: only a program that has a tool can."""
        tools = {found.name: found for found in self._registry.tools.values() if found.effect == "outbox"}
        if not tools:
            return
        async with local.database.begin(local.user_id, read_only=True) as db:
            due = await tool_outbox_rows.pending_calls(db, execution_id)
        for row_id in due:
            await tool_outbox.deliver(
                local.database, local.user_id, row_id, tools, default_zone=local.settings.timezone
            )

    async def _perform(self, operation: Operation, **arguments: Any) -> Json:
        local = self._system()
        async with local.database.begin(local.user_id) as db:
            return await perform(operation, await local.context(db, door="python"), arguments)


def plain(agent: Agent, name: str) -> BuiltInAgent:
    """Return the agent as a driver takes it, under the name that its executions carry.

    Raises:
        DuplicateNameError: two of its tools have one name.
    """
    return BuiltInAgent(
        name=name,
        instructions=agent.instructions,
        tools=tool_names(agent.tools),
        model=agent.model,
        plan=agent.plan,
        approvals=tuple(agent.approvals),
        limits=agent.limits,
    )


async def _waits(ctx: Context, row: AgentExecution) -> tuple[Waiting, ...]:
    """Return everything that an execution waits for; nothing when somebody drives it, or is about to."""
    view = await waiting_view(ctx, row)
    found = [] if view is None else [_waiting(asked) for asked in view["asked"]]
    if row.paused_at is not None:
        found.append(Waiting(kind="resume", id=row.id, about="it is paused"))
    return tuple(found)


def _waiting(asked: Json) -> Waiting:
    match asked["kind"]:
        case "approval":
            about = f"{asked['tool']}({json.dumps(asked['payload'], ensure_ascii=False)}): {asked['reason']}"
        case "answer":
            about = asked["question"] or ""
        case _:
            about = f"execution {asked['id']} has to end first"
    return Waiting(kind=asked["kind"], id=asked["id"], about=about)


async def _tried(duty: Callable[[], Awaitable[None]]) -> None:
    """Do what may fail once: a lease that is not renewed in time is noticed by the commit that needs it."""
    try:
        await duty()
    except Exception:
        logger.exception("leases were not renewed")


def _name(agent: Agent) -> str:
    return name_in_module(agent, agent.module) or f"{PROCESS}{agent.name}"


def _registered(agents: Sequence[Agent]) -> Registry:
    """Return what a program has; an execution that an earlier release has queued is known by its agent's own name."""
    found: dict[str, BuiltInAgent] = {}
    origins: dict[str, Agent] = {}
    for agent in agents:
        name = _name(agent)
        if origins.setdefault(name, agent) is not agent:
            raise DuplicateNameError("agent", agent.name, origins[name].module, agent.module)
        found[name] = plain(agent, name)
        found.setdefault(f"{PROCESS}{agent.name}", plain(agent, f"{PROCESS}{agent.name}"))
    return Registry(agents=found, tools=own_tools(tool for agent in agents for tool in agent.tools))


def _module_of_caller() -> str:
    """Return the module in which the code stands that makes an agent just now."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return "__main__" if frame is None else str(frame.f_globals.get("__name__", "__main__"))
