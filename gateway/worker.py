"""The worker: one process's share of all that takes time. `agency worker`, `serve`, `mcp` and `demo` run this."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import httpx2

from gateway.delivery import Deliverer
from gateway.presence import REPORT_EVERY_S, Presence
from runtime import conversations, tool_outbox
from runtime.clock import SystemClock
from runtime.driver import Ended, Held, Later, NotOurs
from runtime.local import Local
from runtime.operation import Operation
from runtime.operations.approvals import expire_approval
from runtime.outbox import DELIVER
from runtime.toolbox import OPERATIONS
from storage import jobs
from storage.memory import sweep_expired
from storage.queries import executions, waiting
from storage.queries import tool_outbox as tool_outbox_queries

logger = logging.getLogger(__name__)

RENEW_EVERY_S = 5
"""A third of the lease."""

TAKE_OVER_EVERY_S = 1
"""How often executions without a living worker are looked for."""

SWEEP_EVERY_S = 60
"""How often expired memories are removed; they are invisible from the moment they expire."""

TAKE_OVER = "take_over"
"""The kind of the jobs that stand in for a dead worker's; their id is `<execution>.<epoch of the lapsed lease>`.

The dead worker's own job keeps its key until its heartbeat has timed out, twice a lease, and would block any other of
that key. The epoch tells one death from the next.
"""


LEFT_ALONE_S = 60
"""How long an execution is not looked at whose agent or tools this process does not have."""


async def is_ours(local: Local, user_id: int, execution_id: int) -> bool:
    """Tell whether this process has the agent of an execution, and its tools. Asked before it is claimed.

    To stop one takes neither.
    """
    async with local.database.begin(user_id, read_only=True) as db:
        found = await executions.agent_of(db, execution_id)
    if found is None:
        return False
    agent_name, is_unwanted = found
    return is_unwanted or await local.driver.can_run(user_id, agent_name)


class TurnTaker:
    """The handler of `turn` jobs: a message wants an answer."""

    def __init__(self, local: Local) -> None:
        self._local = local

    async def __call__(self, job: jobs.Job) -> jobs.Outcome:
        """Begin the turn, or look again when the participant has stopped typing."""
        async with self._local.database.begin(job.user_id) as db:
            begun = await conversations.begin_turn(db, self._local.jobs, job.user_id, int(job.id))
        return jobs.Done() if begun.due_at is None else jobs.Snooze(until=begun.due_at)


class Executor:
    """The handler of `execute` and `take_over` jobs: an execution wants a worker."""

    def __init__(self, local: Local) -> None:
        self._local = local

    async def __call__(self, job: jobs.Job) -> jobs.Outcome:
        """Drive the execution. The job is a wake-up only: running it twice does nothing twice."""
        execution_id = int(str(job.id).partition(".")[0])
        if not await is_ours(self._local, job.user_id, execution_id):
            async with self._local.database.begin(job.user_id) as db:
                await executions.hand_on(db, execution_id)
            return jobs.Done()  # a worker that has the agent finds it without a job: see `TakeOver`
        match await self._local.driver.run(job.user_id, execution_id):
            case Ended() | Held() | NotOurs():
                return jobs.Done()
            case Later(delay_s=delay_s):
                return jobs.Snooze(until=SystemClock().now() + timedelta(seconds=delay_s))


class Sender:
    """The handler of `send` jobs: a queued tool call is to be sent."""

    def __init__(self, local: Local) -> None:
        self._local = local

    async def __call__(self, job: jobs.Job) -> jobs.Outcome:
        """Send it, if its tool is known here; what fails, and what is somebody else's, is found again by `TakeOver`."""
        await tool_outbox.deliver(
            self._local.database,
            job.user_id,
            int(job.id),
            outbox_tools(self._local),
            default_zone=self._local.settings.timezone,
        )
        return jobs.Done()


def outbox_tools(local: Local) -> Mapping[str, Operation]:
    """Return the tools of this process whose calls are sent later, by the name that their rows have."""
    known = (*OPERATIONS.values(), *local.registry.tools.values())
    return {found.name: found for found in known if found.effect == "outbox"}


def handlers(local: Local, client: httpx2.AsyncClient) -> Mapping[str, jobs.Handler]:
    """Return what does each kind of job."""
    deliverer = Deliverer(database=local.database, keyring=local.keyring, client=client, clock=SystemClock())
    taker, executor = TurnTaker(local), Executor(local)
    return {
        conversations.TURN: taker,
        conversations.NEXT_TURN: taker,
        conversations.EXECUTE: executor,
        TAKE_OVER: executor,
        tool_outbox.SEND: Sender(local),
        DELIVER: deliverer,
    }


async def work(local: Local, *, concurrency: int = 10, stop: anyio.Event) -> None:
    """Work until `stop` is set, then finish what is in hand."""
    async with httpx2.AsyncClient() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(every, RENEW_EVERY_S, local.renew_leases)
        tasks.start_soon(every, TAKE_OVER_EVERY_S, TakeOver(local))
        tasks.start_soon(every, SWEEP_EVERY_S, _Sweep(local))
        presence = Presence(local, concurrency)
        tasks.start_soon(every, REPORT_EVERY_S, presence)
        options = jobs.WorkerOptions(concurrency=concurrency)
        try:
            await local.jobs.work(handlers(local, client), stop=stop, options=options)
        finally:
            tasks.cancel_scope.cancel()
            await presence.leave()


@asynccontextmanager
async def working(local: Local, *, concurrency: int = 10) -> AsyncGenerator[None]:
    """Work beside the caller's block, and finish what is in hand at its end."""
    stop = anyio.Event()

    async def run() -> None:
        await work(local, concurrency=concurrency, stop=stop)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            yield
        finally:
            stop.set()


class TakeOver:
    """Wakes up what nobody else does: executions whose worker is gone, or whose time has come, and what is late.

    Late are approvals that nobody has given in time, and queued tool calls that are due and whose tool is known here.
    """

    def __init__(self, local: Local) -> None:
        self._local = local
        self._left: dict[int, float] = {}
        """Executions that another program has to run, and when to look at them again, by this process's clock."""

    async def __call__(self) -> None:
        """Look once."""
        now = anyio.current_time()
        self._left = {left: until for left, until in self._left.items() if until > now}
        async with self._local.database.begin_dispatch() as db:
            due = await executions.due_executions(db, agents=list(self._local.registry.agents), leave=list(self._left))
        for found in due:
            if not await is_ours(self._local, found.user_id, found.execution_id):
                self._left[found.execution_id] = now + LEFT_ALONE_S
                continue
            async with self._local.database.begin(found.user_id) as db:
                await self._local.jobs.enqueue(db, _wake_up(found))
        await self._expire_approvals()
        await self._send_again()

    async def _expire_approvals(self) -> None:
        async with self._local.database.begin_dispatch() as db:
            overdue = await waiting.overdue_approvals(db)
        for found in overdue:
            async with self._local.database.begin(found.user_id) as db:
                await expire_approval(db, self._local.jobs, found.user_id, found.id)

    async def _send_again(self) -> None:
        tools = outbox_tools(self._local)
        if not tools:
            return
        async with self._local.database.begin_dispatch() as db:
            due = await tool_outbox_queries.due_calls(db, list(tools))
        for found in due:
            async with self._local.database.begin(found.user_id) as db:
                await self._local.jobs.enqueue(
                    db, jobs.JobRequest(kind=tool_outbox.SEND, user_id=found.user_id, id=found.id)
                )


def _wake_up(due: executions.DueExecution) -> jobs.JobRequest:
    if due.lapsed_epoch is None:
        return jobs.JobRequest(kind=conversations.EXECUTE, user_id=due.user_id, id=due.execution_id)
    return jobs.JobRequest(kind=TAKE_OVER, user_id=due.user_id, id=f"{due.execution_id}.{due.lapsed_epoch}")


class _Sweep:
    def __init__(self, local: Local) -> None:
        self._local = local

    async def __call__(self) -> None:
        await sweep_expired(self._local.database)


async def every(seconds: float, duty: "_Duty") -> None:
    """Do a duty again and again; what goes wrong once, a lost database above all, ends neither it nor the worker."""
    while True:
        try:
            await duty()
        except Exception:
            logger.exception("a periodic duty failed and will be tried again")
        await anyio.sleep(seconds)


_Duty = Callable[[], Awaitable[None]]
