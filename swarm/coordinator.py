"""`swarm(...)`: the block in which agents work together, and `Swarm`, the handle inside it."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, overload

import anyio
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from runtime.agents import Agent as RuntimeAgent
from runtime.agents import UnknownAgentError
from runtime.driver import Driver
from runtime.events import ExecutionEnded
from runtime.journal_port import Claim
from runtime.local import Local, open_local
from runtime.settings import RuntimeSettings
from storage.errors import InvalidValueError, StorageError
from storage.ids import new_id, process_name
from storage.models.swarm import AgentStrategy, QueenMode, SwarmPriority, Topology
from storage.queries import swarm as rows
from storage.queries.swarm import Overview
from storage.settings import StorageSettings
from storage.values import check_text
from swarm import decide
from swarm.agents import Agent, Definition, output_adapter
from swarm.attempts import Runner
from swarm.blackboard import Memory
from swarm.calls import Input
from swarm.errors import DefinitionError, NoCapableAgentError, SubmitError, SwarmError, UnknownAgentTypeError
from swarm.scheduler import Member, Order, Scheduler
from swarm.tasks import Task

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a swarm is built."""

    topology: Topology = "star"
    queen: QueenMode = "centralized"
    strategy: AgentStrategy = "adaptive"
    max_agents: int = 8
    name: str = "swarm"


class Swarm:
    """A running swarm."""

    def __init__(self, local: Local, scheduler: Scheduler, swarm_id: str, definitions: Sequence[Definition]) -> None:
        self.id = swarm_id
        self.memory = Memory(database=local.database, user_id=local.user_id, swarm_id=swarm_id)
        """The blackboard: `s.memory["facts"]`."""
        self._local = local
        self._scheduler = scheduler
        self._definitions = {one.name: one for one in definitions}

    @overload
    def submit(self, what: Agent[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...

    @overload
    def submit(
        self,
        what: str,
        /,
        *,
        output: type[T],
        needs: Collection[str] = ...,
        after: Sequence[Task[Any]] = ...,
        priority: SwarmPriority = ...,
        max_attempts: int = ...,
    ) -> Task[T]: ...

    @overload
    def submit(
        self,
        what: str,
        /,
        *,
        needs: Collection[str] = ...,
        after: Sequence[Task[Any]] = ...,
        priority: SwarmPriority = ...,
        max_attempts: int = ...,
    ) -> Task[Any]: ...

    def submit(self, what: object, /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Give the swarm a task; `await` what comes back for its result.

        `submit(writer, brief)` goes to an instance of that agent. `submit("text", needs={"write"})` goes to any agent
        that can do all it needs; functions get the text as their first argument. What it comes `after` must have
        completed, and its results follow: as arguments of a function, as named results in the prompt of a model.

        Raises:
            SubmitError: the arguments fit no agent of this swarm; the message says what would.
        """
        if isinstance(what, Agent):
            return self._scheduler.submit(self._order_to(what.definition, Input(args=args, kwargs=kwargs)))
        if not isinstance(what, str):
            raise SubmitError(f"{what!r} is neither an agent nor a text; make an agent of a function with @agent(...)")
        if args:
            raise SubmitError(
                f"submit({what[:40]!r}, ...) takes one text; pass what it builds on as after=[...], "
                "or name the agent: submit(agent, *arguments)"
            )
        return self._scheduler.submit(self._order_for(what, _Wish(**kwargs)))

    async def status(self) -> Overview:
        """Return what the rows say: the swarm, its agents, and how many tasks are where."""
        async with self._local.database.begin(self._local.user_id) as db:
            return await rows.overview(db, self.id)

    def _order_to(self, definition: Definition, given: Input) -> Order:
        if self._definitions.get(definition.name) is not definition:
            raise UnknownAgentTypeError(definition.name, self._definitions)
        text = None
        if definition.signature is not None:
            definition.signature.check(given)
            shown = f"{definition.name}: {definition.signature.written(given)}"
        else:
            text = shown = _only_text(definition, given)
        return Order(
            task_id=new_id("tsk"),
            description=shown,
            given=given,
            text=text,
            types=frozenset({definition.name}),
            needs=frozenset(),
            kind=decide.kind_of((), definition.name),
            priority="medium",
            max_attempts=3,
            after=(),
            output=None,
        )

    def _order_for(self, text: str, wish: "_Wish") -> Order:
        _check_words(text)
        needs = wish.checked_needs()
        if wish.priority not in decide.PRI:
            raise SubmitError(f"no priority {wish.priority!r}; legal: {', '.join(decide.PRI)}")
        if wish.max_attempts < 1:
            raise SubmitError(f"max_attempts is {wish.max_attempts}; give at least 1")
        for task in wish.after:
            if not self._scheduler.knows(task):
                raise SubmitError(f"{task!r} in after= is no task of this swarm; pass what submit returned here")
        return Order(
            task_id=new_id("tsk"),
            description=text,
            given=Input(args=(text,), kwargs={}),
            text=text,
            types=self._types_for(needs, arguments=1 + len(wish.after)),
            needs=needs,
            kind=decide.kind_of(needs, None),
            priority=wish.priority,
            max_attempts=wish.max_attempts,
            after=tuple(task.id for task in wish.after),
            output=None if wish.output is None else output_adapter("submit", wish.output),
        )

    def _types_for(self, needs: frozenset[str], *, arguments: int) -> frozenset[str]:
        """Return the agents that can do it and that take so many positional arguments."""
        capable = [one for one in self._definitions.values() if needs <= one.capabilities]
        if not capable:
            known = {name for one in self._definitions.values() for name in one.capabilities}
            raise NoCapableAgentError(needs, known)
        fitting = [one for one in capable if one.is_model or one.signature is None or one.signature.takes(arguments)]
        if not fitting:
            signatures = " or ".join(str(one.signature) for one in capable)
            raise SubmitError(
                f"{signatures} cannot be called with {arguments} positional arguments: "
                "the text, and one result for each task in after="
            )
        return frozenset(one.name for one in fitting)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """The options of a task that is given by its text."""

    needs: Collection[str] = ()
    after: Sequence[Task[Any]] = ()
    output: Any = None
    priority: SwarmPriority = "medium"
    max_attempts: int = 3

    def checked_needs(self) -> frozenset[str]:
        if isinstance(self.needs, str):
            raise SubmitError(f"needs is the text {self.needs!r}; write needs={{{self.needs!r}}}")
        return frozenset(self.needs)


def _only_text(definition: Definition, given: Input) -> str:
    match given:
        case Input(args=(str(text),), kwargs=kwargs) if not kwargs:
            _check_words(text)
            return text
        case _:
            raise SubmitError(f"agent {definition.name!r} takes one text: submit({definition.name}, 'what to do')")


def _check_words(text: str) -> None:
    try:
        check_text(text, "text")
    except InvalidValueError as error:
        raise SubmitError(f"the text of a task {error.reason}") from error
    if not text.strip():
        raise SubmitError("the text of a task is empty; say what to do")


@asynccontextmanager
async def swarm(
    *agents: Agent[..., Any],
    topology: Topology = "star",
    queen: QueenMode = "centralized",
    strategy: AgentStrategy = "adaptive",
    max_agents: int = 8,
    name: str = "swarm",
    db: str | None = None,
    user: str | None = None,
    local: Local | None = None,
) -> AsyncGenerator[Swarm]:
    """Open a swarm of these agents; the end of the block waits for its tasks, an exception cancels them.

    `db` is a DSN; without it DATABASE_URL, or the embedded database, is used. `user` is on whose behalf. The first
    agent is the queen and, in a star, the hub. `local` is a system that is open already, for composition roots.

    Raises:
        TopologyError: topology, queen and agents do not fit together.
        DefinitionError: two agents have one name.
        SchedulerLostError: another process has taken the swarm over.
        StorageError, NotAuthorisedError: see `runtime.local.open_local`.
    """
    shape = Shape(topology=topology, queen=queen, strategy=strategy, max_agents=max_agents, name=name)
    definitions = [one.definition for one in agents]
    _check_names(definitions)
    decide.check_shape(topology, queen, members=sum(one.instances for one in definitions), max_agents=max_agents)
    if local is not None:
        async with _running(local, definitions, shape) as running:
            yield running
        return
    storage = StorageSettings() if db is None else StorageSettings(database_url=SecretStr(db))
    async with (
        open_local(storage, RuntimeSettings(), user=user) as opened,
        _running(opened, definitions, shape) as running,
    ):
        yield running


def _check_names(definitions: Sequence[Definition]) -> None:
    names = [one.name for one in definitions]
    for name in names:
        if names.count(name) > 1:
            raise DefinitionError(name, "shares its name with another agent", "pass it once, with instances=2 for two")


@asynccontextmanager
async def _running(local: Local, definitions: Sequence[Definition], shape: Shape) -> AsyncGenerator[Swarm]:
    members = [
        Member(id=new_id("agt"), name=f"{one.name}-{number}", definition=one)
        for one in definitions
        for number in range(1, one.instances + 1)
    ]
    queen = members[0] if shape.queen == "centralized" else None
    fence = await _found(local, members, queen, shape)
    scheduler = Scheduler(
        database=local.database,
        fence=fence,
        members=members,
        queen=queen,
        strategy=shape.strategy,
        runner=Runner(database=local.database, user_id=local.user_id, driver=_driver(local, definitions)),
    )
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scheduler.run, tasks)
            tasks.start_soon(_keep_sessions, local)
            yield Swarm(local, scheduler, fence.swarm_id, definitions)
            await scheduler.drained()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # A block that fails with one error fails with that error, as if there were no task group around it.
        failure = group.exceptions[0] if len(group.exceptions) == 1 else group
    finally:
        await _close(scheduler, failure)
    if failure is not None:
        raise failure


async def _close(scheduler: Scheduler, failure: BaseException | None) -> None:
    """Close the swarm; why the block failed matters more than why it could not be closed."""
    try:
        await scheduler.close()
    except (SwarmError, StorageError, SQLAlchemyError, OSError):
        if failure is None:
            raise
        logger.exception("a swarm whose block failed could not be closed")


async def _found(local: Local, members: Sequence[Member], queen: Member | None, shape: Shape) -> rows.Fence:
    new = rows.NewSwarm(
        id=new_id("swm"),
        user_id=local.user_id,
        name=shape.name,
        topology=shape.topology,
        queen_mode=shape.queen,
        strategy=shape.strategy,
        max_agents=shape.max_agents,
        config={"model": local.model.name},
    )
    spawning = [
        rows.NewMember(
            id=one.id,
            agent_type=one.definition.name,
            name=one.name,
            capabilities=sorted(one.definition.capabilities),
        )
        for one in members
    ]
    async with local.database.begin(local.user_id) as db:
        fence = await rows.create(db, new, spawning, owner=process_name())
    async with local.database.begin(local.user_id) as db:
        await rows.activate(db, fence.swarm_id, queen.id if queen else None)
    return fence


RENEW_SESSIONS_EVERY_S = 5
"""A third of the lease of an agent session."""


async def _keep_sessions(local: Local) -> None:
    """Prolong the leases of the executions that this process drives: a script has no worker that does it."""
    while True:
        await anyio.sleep(RENEW_SESSIONS_EVERY_S)
        await local.renew_leases()


def _driver(local: Local, definitions: Sequence[Definition]) -> Driver:
    """Return a driver that knows the swarm's agents and leaves the end of an execution to the scheduler."""
    known = {one.agent_name: one.runtime_agent() for one in definitions if one.is_model}

    def find(name: str) -> RuntimeAgent:
        try:
            return known[name]
        except KeyError:
            raise UnknownAgentError(name) from None

    return local.driver.varied(agents=find, closing=_nothing_more)


async def _nothing_more(db: AsyncSession, claim: Claim, ended: ExecutionEnded) -> None:
    """The swarm's rows are written by its scheduler alone."""


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run an async function from sync code: scripts and notebooks without a loop of their own."""
    return anyio.run(main)
