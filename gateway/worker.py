"""The worker: one process's share of all that takes time. `agency worker`, `serve`, `mcp` and `demo` run this."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import httpx2

from gateway.delivery import Deliverer
from runtime import conversations
from runtime.clock import SystemClock
from runtime.driver import Ended, Held, Later, NotOurs
from runtime.local import Local
from runtime.outbox import DELIVER
from storage import jobs
from storage.memory import sweep_expired
from storage.queries import executions

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
        match await self._local.driver.run(job.user_id, execution_id):
            case Ended() | Held() | NotOurs():
                return jobs.Done()
            case Later(delay_s=delay_s):
                return jobs.Snooze(until=SystemClock().now() + timedelta(seconds=delay_s))


def handlers(local: Local, client: httpx2.AsyncClient) -> Mapping[str, jobs.Handler]:
    """Return what does each kind of job."""
    deliverer = Deliverer(database=local.database, keyring=local.keyring, client=client, clock=SystemClock())
    taker, executor = TurnTaker(local), Executor(local)
    return {
        conversations.TURN: taker,
        conversations.NEXT_TURN: taker,
        conversations.EXECUTE: executor,
        TAKE_OVER: executor,
        DELIVER: deliverer,
    }


async def work(local: Local, *, concurrency: int = 10, stop: anyio.Event) -> None:
    """Work until `stop` is set, then finish what is in hand."""
    async with httpx2.AsyncClient() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(every, RENEW_EVERY_S, local.renew_leases)
        tasks.start_soon(every, TAKE_OVER_EVERY_S, TakeOver(local))
        tasks.start_soon(every, SWEEP_EVERY_S, _Sweep(local))
        options = jobs.WorkerOptions(concurrency=concurrency)
        await local.jobs.work(handlers(local, client), stop=stop, options=options)
        tasks.cancel_scope.cancel()


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
    """Wakes up executions whose worker is gone, or whose time to go on has come."""

    def __init__(self, local: Local) -> None:
        self._local = local

    async def __call__(self) -> None:
        """Look once."""
        async with self._local.database.begin_dispatch() as db:
            due = await executions.due_executions(db)
        for found in due:
            async with self._local.database.begin(found.user_id) as db:
                await self._local.jobs.enqueue(db, _wake_up(found))


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
