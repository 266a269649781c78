"""The jobs port on pgqueuer: its tables in our database, its dispatcher in our worker processes.

pgqueuer claims (SKIP LOCKED), beats, re-runs what a dead worker held, and logs. This module adds what it leaves to its
user: outcomes instead of exceptions, failures counted across dead workers, an end that loses no job, a new connection
after a lost one. Tenants may only add jobs (`agency_runtime`); workers claim as `agency_dispatch`.
"""

import functools
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never

import anyio
import asyncpg
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.db import AsyncpgDriver
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.errors import RetryRequested
from pgqueuer.models import Context, JobId, TracebackRecord
from pgqueuer.models import Job as EngineJob
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from pgqueuer.types import JOB_STATUS, Channel, QueueEntrypoint, QueueManagerId
from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr, ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from storage.engine import RawConnection
from storage.errors import DatabaseUnavailableError
from storage.jobs import Cancel, Done, Handler, Job, JobRequest, Outcome, ParkedJob, Retry, Snooze, WorkerOptions
from storage.tenancy import Database, raw_connection

logger = logging.getLogger(__name__)

_LARGEST_BATCH = 20
"""Jobs per claim. More would let one process take what an idle one could do."""

_CONNECTION_TROUBLE = (
    DatabaseUnavailableError,
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
)
"""What another connection may cure."""

_SETTINGS = DBSettings(
    prefix="",
    db_schema=None,
    channel=Channel("ch_pgqueuer"),
    function="fn_pgqueuer_changed",
    trigger="tg_pgqueuer_changed",
    queue_table="pgqueuer",
    queue_table_log="pgqueuer_log",
    statistics_table="pgqueuer_statistics",
    schedules_table="pgqueuer_schedules",
    queue_status_type="pgqueuer_status",
    durability=Durability.durable,
    widen_id=True,
)
"""All names as the migration has them. pgqueuer would take each from the environment, even from a bare CHANNEL."""


class _Asked(RetryRequested):
    """The handler wants another attempt."""


class _Snoozed(RetryRequested):
    """The handler wants to be called later."""


class _GivenBack(RetryRequested):
    """The worker ends before the handler did."""


class _Failed(RetryRequested):
    """The handler met something unexpected, and may meet it again."""


class _WorkerDied(Exception):  # noqa: N818 -- its name is what an operator reads in the log of the parked job
    """Workers have died with this job, so that it is not started again."""


class _Cancelled(Exception):  # noqa: N818 -- as above
    """The handler said that the job is pointless."""


class _Payload(BaseModel):
    """What is stored: ids, because the engine's tables belong to no tenant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    userId: StrictInt  # noqa: N815 -- as the column is called
    id: StrictInt | StrictStr


@dataclass(frozen=True, slots=True, kw_only=True)
class _History:
    """What became of a job's starts before this one."""

    attempt: int = 1
    failures: int = 0


class PgQueuerJobs:
    """The jobs of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enqueue(self, db: AsyncSession, request: JobRequest) -> bool:
        """Add a job in the caller's transaction; False: one with the same kind, tenant and id is waiting or running."""
        added = await _queries(await raw_connection(db)).enqueue(
            request.kind,
            _Payload(userId=request.user_id, id=request.id).model_dump_json().encode(),
            priority=request.priority,
            execute_after=timedelta(seconds=request.delay_s),
            dedupe_key=f"{request.kind}:{request.user_id}:{request.id}",
            on_conflict="skip",
        )
        return added != [None]

    async def work(
        self, handlers: Mapping[str, Handler], *, stop: anyio.Event, options: WorkerOptions | None = None
    ) -> None:
        """Do jobs of the kinds in `handlers` until `stop` is set, then end in an orderly way.

        Cancelling it gives running jobs back at once. A lost connection is made again.
        """
        options = options or WorkerOptions()
        while not stop.is_set():
            try:
                await self._work_on_one_connection(handlers, stop, options)
            except* _CONNECTION_TROUBLE:
                logger.exception("the worker lost its queue")
            if not stop.is_set():
                logger.warning("the worker connects again", extra={"in_s": options.poll_s})
                with anyio.move_on_after(options.poll_s):
                    await stop.wait()

    async def parked(self, *, limit: int = 50) -> list[ParkedJob]:
        """Return the jobs that were given up, newest first, with the reasons."""
        async with self._database.begin_dispatch() as db:
            return [_parked(row) for row in await db.execute(_PARKED, {"limit": limit})]

    async def release(self, number: int) -> bool:
        """Let a parked job be tried again, its failures forgotten; False: no such job is parked.

        Where the same job has been requested anew in the meantime, that one stays and the parked one goes.
        """
        async with self._database.begin_dispatch() as db:
            if (await db.execute(_DROP_TWIN, {"number": number})).first() is not None:
                return True
            if (await db.execute(_IS_PARKED, {"number": number})).first() is None:
                return False
            await _queries(await raw_connection(db)).requeue_jobs([JobId(number)])
            return True

    async def _work_on_one_connection(
        self, handlers: Mapping[str, Handler], stop: anyio.Event, options: WorkerOptions
    ) -> None:
        connection = await self._database.dispatch_connection()
        try:
            await _Worker(connection, handlers, options).run(stop)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await connection.close()


async def prune_log(database: Database, *, keep_days: float, batch: int = 5000) -> int:
    """Remove what the engine logged more than `keep_days` ago, and return how many rows that were.

    The log of parked jobs stays, because it holds the reasons.
    """
    removed = 0
    while True:
        async with database.begin_dispatch() as db:
            found = (await db.execute(_PRUNE, {"age": timedelta(days=keep_days), "batch": batch})).scalar_one()
        removed += found
        if found < batch:
            return removed


class _Engine(Queries):
    """pgqueuer's statements, with the history of what they claim and the reasons of what they end."""

    def __init__(self, connection: RawConnection, *, concurrency: int) -> None:
        super().__init__(AsyncpgDriver(connection), **_builders())
        self._concurrency = concurrency
        self._histories: dict[JobId, _History] = {}
        self._reasons: dict[JobId, TracebackRecord] = {}

    async def dequeue(
        self,
        batch_size: int,
        entrypoints: dict[QueueEntrypoint, EntrypointExecutionParameter],
        queue_manager_id: QueueManagerId,
        global_concurrency_limit: int | None,  # noqa: ARG002 -- the manager wants twice the batch here, so no 1
        heartbeat_timeout: timedelta,
    ) -> list[EngineJob]:
        """Claim jobs, never more than fit into this process, and look up what became of their earlier starts."""
        jobs = await super().dequeue(batch_size, entrypoints, queue_manager_id, self._concurrency, heartbeat_timeout)
        # A dead worker leaves no trace in the row. But its job fell due at least one timeout before this claim.
        suspects = [job.id for job in jobs if job.attempts or job.updated - job.execute_after >= heartbeat_timeout]
        if suspects:
            for row in await self.driver.fetch(_HISTORY, suspects, _EXCUSED, _Asked.__name__):
                self._histories[JobId(_integer(row["job_id"]))] = _history(row)
        return jobs

    async def log_jobs(self, job_status: list[tuple[EngineJob, JOB_STATUS, TracebackRecord | None]]) -> None:
        """End jobs. `canceled` without a reason of ours means that the task was killed: its job must not be lost."""
        killed: list[EngineJob] = []
        ended: list[tuple[EngineJob, JOB_STATUS, TracebackRecord | None]] = []
        for job, status, record in job_status:
            reason = self._reasons.get(job.id)
            if status == "canceled" and reason is None:
                killed.append(job)
            else:
                ended.append((job, status, record or reason))
        if ended:
            await super().log_jobs(ended)
        for job, _, _ in ended:
            self._reasons.pop(job.id, None)
        for job in killed:
            await self.retry_job(job, timedelta(0), TracebackRecord.from_exception(_GivenBack(), job.id))

    def history(self, job_id: JobId) -> _History:
        """Return what became of the earlier starts of a job that was just claimed."""
        return self._histories.pop(job_id, None) or _History()

    def cancelled(self, job_id: JobId, reason: str) -> None:
        """Keep the reason until the job is logged as canceled."""
        self._reasons[job_id] = TracebackRecord.from_exception(_Cancelled(reason), job_id)

    async def time_until(self, moment: datetime) -> timedelta:
        """Return how far away `moment` is by the database's clock; never negative."""
        rows = await self.driver.fetch("SELECT greatest($1::timestamptz - now(), interval '0') AS wait", moment)
        wait = rows[0]["wait"]
        assert isinstance(wait, timedelta)  # noqa: S101 -- the statement's type
        return wait


class _Worker:
    """pgqueuer's manager on one connection, from its start to its orderly end."""

    def __init__(self, connection: RawConnection, handlers: Mapping[str, Handler], options: WorkerOptions) -> None:
        self._options = options
        self._engine = _Engine(connection, concurrency=options.concurrency)
        self._manager = QueueManager(self._engine, channel=_SETTINGS.channel)
        self._running: set[anyio.CancelScope] = set()
        self._ends_at = float("inf")
        for kind, handler in handlers.items():
            execute = functools.partial(self._execute, handler)
            self._manager.entrypoint(kind, accepts_context=True, on_failure="hold")(execute)
        connection.add_termination_listener(self._on_lost_connection)

    async def run(self, stop: anyio.Event) -> None:
        """Do jobs until `stop` is set, this is cancelled, or the connection is lost.

        The manager runs shielded in a task of its own: cancelled from outside, it would log its jobs as canceled and
        delete them.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_on, stop)
            tasks.start_soon(self._manage, tasks.cancel_scope)

    async def _manage(self, whole: anyio.CancelScope) -> None:
        with anyio.CancelScope(shield=True):
            await self._manager.run(
                dequeue_timeout=timedelta(seconds=self._options.poll_s),
                batch_size=min(self._options.concurrency, _LARGEST_BATCH),
                heartbeat_timeout=timedelta(seconds=self._options.heartbeat_s),
                log_aggregation_interval=timedelta(0),  # nothing of ours reads its statistics
            )
        whole.cancel()

    async def _end_on(self, stop: anyio.Event) -> None:
        """Let running jobs go on for a while once `stop` is set; not a moment longer when this is cancelled."""
        try:
            await stop.wait()
            self._end(self._options.drain_s)
            await anyio.sleep_forever()
        finally:
            self._end(0.0)

    async def _on_lost_connection(self, _connection: object) -> None:
        """Let the manager end: it can neither claim nor beat. Who takes its jobs over meets their fences."""
        self._end(self._options.drain_s)

    def _end(self, grace_s: float) -> None:
        self._manager.shutdown.set()
        self._ends_at = min(self._ends_at, anyio.current_time() + grace_s)
        for scope in self._running:
            scope.deadline = self._ends_at

    @contextmanager
    def _until_the_end(self) -> Generator[anyio.CancelScope]:
        with anyio.CancelScope(deadline=self._ends_at) as scope:
            self._running.add(scope)
            try:
                yield scope
            finally:
                self._running.discard(scope)

    async def _execute(self, handler: Handler, job: EngineJob, context: Context) -> None:
        """Do one job. pgqueuer reads its end from how this ends: a return, RetryRequested, any other exception."""
        history = self._engine.history(job.id)
        known = _job(job, history.attempt)
        if known is None:
            logger.error("job has no readable payload", extra={"kind": job.entrypoint, "number": job.id})
            self._engine.cancelled(job.id, "its payload is not one of ours")
            context.cancellation.cancel()
            return
        if history.failures >= self._options.max_failures:
            raise _WorkerDied(f"{history.failures} starts ended without an outcome; the last worker died with this job")
        with self._until_the_end() as scope:
            try:
                outcome = await handler(known)
            except Exception as error:
                self._fail(known, history, error)
                raise  # parked: pgqueuer keeps the row and the traceback
        if scope.cancelled_caught:
            raise _GivenBack(reason="the worker ended")
        await self._settle(outcome, job.id, context)

    def _fail(self, job: Job, history: _History, error: Exception) -> None:
        """Report a failure and ask for another attempt, unless it was the last one.

        Raises:
            _Failed: the job shall be tried again.
        """
        failures = history.failures + 1
        is_parked = failures >= self._options.max_failures
        facts = {"kind": job.kind, "user_id": job.user_id, "job_id": job.id, "failures": failures, "parked": is_parked}
        logger.exception("job failed", extra=facts)
        if not is_parked:
            backoff_s = min(self._options.first_backoff_s * 2 ** (failures - 1), self._options.longest_backoff_s)
            raise _Failed(timedelta(seconds=backoff_s), f"{type(error).__name__}: {error}") from error

    async def _settle(self, outcome: Outcome, job_id: JobId, context: Context) -> None:
        match outcome:
            case Done():
                return
            case Retry(after_s=after_s):
                raise _Asked(timedelta(seconds=after_s), "the handler asked for another attempt")
            case Snooze(until=until):
                raise _Snoozed(await self._engine.time_until(until), f"not before {until.isoformat()}")
            case Cancel(reason=reason):
                self._engine.cancelled(job_id, reason)
                context.cancellation.cancel()
            case _ as unreachable:
                assert_never(unreachable)


def _builders() -> dict[str, Any]:
    return {
        "qbe": QueryBuilderEnvironment(_SETTINGS),
        "qbq": QueryQueueBuilder(_SETTINGS),
        "qbs": QuerySchedulerBuilder(_SETTINGS),
    }


def _queries(connection: RawConnection) -> Queries:
    return Queries(AsyncpgDriver(connection), **_builders())


def _job(job: EngineJob, attempt: int) -> Job | None:
    try:
        payload = _Payload.model_validate_json(job.payload or b"")
    except ValidationError:
        return None
    return Job(kind=job.entrypoint, user_id=payload.userId, id=payload.id, attempt=attempt)


def _parked(row: Any) -> ParkedJob:
    payload = _Payload.model_validate_json(row.payload)
    return ParkedJob(
        number=row.id,
        kind=row.entrypoint,
        user_id=payload.userId,
        id=payload.id,
        reason=row.reason,
        parked_at=row.updated,
    )


def _history(row: Mapping[str, object]) -> _History:
    """Read one row of `_HISTORY`; pruning may have taken a start and left its end, so no count goes below zero."""
    earlier = max(_integer(row["starts"]) - 1 - _integer(row["excused"]), 0)
    return _History(attempt=earlier + 1, failures=max(earlier - _integer(row["asked"]), 0))


def _integer(value: object) -> int:
    assert isinstance(value, int)  # noqa: S101 -- the statement's type
    return value


_EXCUSED = [_Snoozed.__name__, _GivenBack.__name__]
"""Ends of a start that do not count as an attempt."""

_HISTORY = """
    WITH entries AS (
        SELECT job_id, id, status, traceback ->> 'exception_type' AS kind,
               max(id) FILTER (WHERE status = 'queued' AND traceback IS NULL) OVER (PARTITION BY job_id) AS since
        FROM pgqueuer_log WHERE job_id = ANY($1)
    )
    SELECT job_id,
           count(*) FILTER (WHERE status = 'picked') AS starts,
           count(*) FILTER (WHERE kind = ANY($2)) AS excused,
           count(*) FILTER (WHERE kind = $3) AS asked
    FROM entries WHERE id > coalesce(since, 0) GROUP BY job_id
"""
"""Starts since the job was added or released, and the ends that were asked for. Every other start was a failure: an
exception, which left a line, or the death of a worker, which left none."""

_PARKED = text(
    """
    SELECT job.id, job.entrypoint, job.payload, job.updated,
           coalesce(last.traceback ->> 'exception_type', 'Unknown') || ': '
               || coalesce(last.traceback ->> 'exception_message', 'the log has no reason') AS reason
    FROM pgqueuer job
    LEFT JOIN LATERAL (
        SELECT traceback FROM pgqueuer_log WHERE job_id = job.id AND status = 'failed' ORDER BY id DESC LIMIT 1
    ) last ON true
    WHERE job.status = 'failed' ORDER BY job.updated DESC, job.id DESC LIMIT :limit
    """
)

_IS_PARKED = text("SELECT id FROM pgqueuer WHERE id = :number AND status = 'failed'")

_DROP_TWIN = text(
    """
    DELETE FROM pgqueuer parked WHERE id = :number AND status = 'failed' AND EXISTS (
        SELECT FROM pgqueuer other WHERE other.dedupe_key = parked.dedupe_key AND other.status IN ('queued', 'picked')
    ) RETURNING id
    """
)

_PRUNE = text(
    """
    WITH old AS MATERIALIZED (
        SELECT id FROM pgqueuer_log entry
        WHERE created < now() - CAST(:age AS interval)
          AND NOT EXISTS (SELECT FROM pgqueuer job WHERE job.id = entry.job_id AND job.status = 'failed')
        ORDER BY created LIMIT :batch FOR UPDATE SKIP LOCKED
    ), gone AS (DELETE FROM pgqueuer_log WHERE id IN (SELECT id FROM old) RETURNING id)
    SELECT count(*) FROM gone
    """
)
