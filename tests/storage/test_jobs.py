"""The job engine: a job commits with its cause, is done once, and is lost neither by an end nor by a death."""

import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from storage.engine import Address, connect
from storage.job_engine import PgQueuerJobs, prune_log
from storage.jobs import Cancel, Done, Handler, Job, JobRequest, Jobs, Outcome, Retry, Snooze, WorkerOptions
from storage.models.crm import ClientProfile
from storage.tenancy import Database

QUICK = WorkerOptions(concurrency=4, poll_s=0.2, drain_s=5, first_backoff_s=0)


@pytest.fixture
def jobs(database: Database) -> Jobs:
    return PgQueuerJobs(database)


@asynccontextmanager
async def working(
    jobs: Jobs, handlers: Mapping[str, Handler], options: WorkerOptions = QUICK
) -> AsyncGenerator[anyio.Event]:
    """Run a worker around the block; its end is awaited, so that everything it did is on record afterwards."""
    stop = anyio.Event()

    async def work() -> None:
        await jobs.work(handlers, stop=stop, options=options)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            yield stop
            stop.set()


class Recorder:
    """A handler that answers from a list, then Done, and lets a test wait for its calls."""

    def __init__(self, *answers: Outcome | Exception) -> None:
        self.calls: list[Job] = []
        self._answers = list(answers)
        self._called = anyio.Condition()

    async def __call__(self, job: Job) -> Outcome:
        """Note the call and answer."""
        async with self._called:
            self.calls.append(job)
            self._called.notify_all()
        answer = self._answers.pop(0) if self._answers else Done()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def wait_for(self, count: int) -> None:
        """Wait until it was called `count` times."""
        async with self._called:
            while len(self.calls) < count:
                await self._called.wait()


class Gate:
    """A handler that stays inside until it is let go."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.let_go = anyio.Event()

    async def __call__(self, _job: Job) -> Outcome:
        """Say that it is inside, and wait."""
        self.entered.set()
        await self.let_go.wait()
        return Done()


async def enqueue(database: Database, user_id: int, row_id: int | str = 1, **options: Any) -> bool:
    async with database.begin(user_id) as db:
        return await PgQueuerJobs(database).enqueue(db, JobRequest(kind="turn", user_id=user_id, id=row_id, **options))


async def queue(database: Database) -> list[tuple[str, int]]:
    """Return status and attempts of every job that is not over."""
    async with database.begin_dispatch() as db:
        rows = await db.execute(text("SELECT status::text, attempts FROM pgqueuer ORDER BY id"))
        return [(row.status, row.attempts) for row in rows]


async def log(database: Database) -> list[str]:
    async with database.begin_dispatch() as db:
        rows = await db.scalars(text("SELECT status::text FROM pgqueuer_log ORDER BY id"))
        return list(rows)


async def test_a_job_and_its_cause_commit_together(database: Database, jobs: Jobs, alice: int) -> None:
    async with database.begin(alice) as db:
        client = ClientProfile(user_id=alice, name="Acme Dental")
        db.add(client)
        await db.flush()
        assert await jobs.enqueue(db, JobRequest(kind="turn", user_id=alice, id=client.id)) is True
        assert await queue(database) == []
    assert await queue(database) == [("queued", 0)]


async def test_a_job_is_gone_when_its_cause_is_rolled_back(database: Database, jobs: Jobs, alice: int) -> None:
    with suppress(LookupError):
        async with database.begin(alice) as db:
            assert await jobs.enqueue(db, JobRequest(kind="turn", user_id=alice, id=1))
            raise LookupError
    assert await queue(database) == []
    assert await enqueue(database, alice) is True


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT payload FROM pgqueuer",
        "SELECT * FROM pgqueuer",
        "UPDATE pgqueuer SET priority = 9",
        "DELETE FROM pgqueuer",
        "SELECT * FROM pgqueuer_log",
    ],
)
async def test_a_tenant_can_add_a_job_and_neither_read_nor_change_one(
    database: Database, alice: int, bob: int, statement: str
) -> None:
    assert await enqueue(database, alice)
    with pytest.raises(DBAPIError, match="permission denied"):
        async with database.begin(bob) as db:
            await db.execute(text(statement))


async def test_the_payload_is_ids_only(database: Database, alice: int) -> None:
    await enqueue(database, alice, "tsk_1")
    async with database.begin_dispatch() as db:
        payload = (await db.execute(text("SELECT convert_from(payload, 'UTF8') FROM pgqueuer"))).scalar_one()
    assert payload == f'{{"userId":{alice},"id":"tsk_1"}}'


async def test_the_same_job_is_skipped_while_it_waits_and_while_it_runs(
    database: Database, jobs: Jobs, alice: int, bob: int
) -> None:
    gate = Gate()
    assert await enqueue(database, alice) is True
    assert await enqueue(database, alice) is False
    assert await enqueue(database, bob) is True
    assert await enqueue(database, alice, 2) is True
    async with working(jobs, {"turn": gate}):
        await gate.entered.wait()
        assert await enqueue(database, alice) is False
        gate.let_go.set()
    assert await queue(database) == []
    assert await enqueue(database, alice) is True


async def test_a_handler_gets_who_and_what(database: Database, jobs: Jobs, alice: int) -> None:
    handler = Recorder()
    await enqueue(database, alice, "tsk_1")
    async with working(jobs, {"turn": handler, "other": Recorder()}):
        await handler.wait_for(1)
    assert handler.calls == [Job(kind="turn", user_id=alice, id="tsk_1", attempt=1)]
    assert await queue(database) == []
    assert await log(database) == ["queued", "picked", "successful"]


async def test_a_kind_without_a_handler_waits_for_a_worker_that_has_one(
    database: Database, jobs: Jobs, alice: int
) -> None:
    other = Recorder()
    await enqueue(database, alice)
    async with database.begin(alice) as db:
        await jobs.enqueue(db, JobRequest(kind="other", user_id=alice, id=1))
    async with working(jobs, {"other": other}):
        await other.wait_for(1)
    assert await queue(database) == [("queued", 0)]


async def test_a_delayed_job_waits_until_it_is_due(database: Database, jobs: Jobs, alice: int) -> None:
    handler = Recorder()
    await enqueue(database, alice, "later", delay_s=3600, priority=9)
    await enqueue(database, alice, "first")
    async with working(jobs, {"turn": handler}):
        await handler.wait_for(1)
        assert [job.id for job in handler.calls] == ["first"]
        async with database.begin_dispatch() as db:
            await db.execute(text("UPDATE pgqueuer SET execute_after = now() WHERE status = 'queued'"))
        await handler.wait_for(2)
    assert [job.id for job in handler.calls] == ["first", "later"]


async def test_a_higher_priority_goes_first_and_then_the_older_one(database: Database, jobs: Jobs, alice: int) -> None:
    handler = Recorder()
    for row_id, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5)):
        await enqueue(database, alice, row_id, priority=priority)
    async with working(jobs, {"turn": handler}, replace(QUICK, concurrency=1)):
        await handler.wait_for(4)
    assert [job.id for job in handler.calls] == ["b", "d", "a", "c"]


async def test_a_worker_claims_no_more_jobs_than_it_may_run_at_once(database: Database, jobs: Jobs, alice: int) -> None:
    gate, others = Gate(), Recorder()
    for number in range(12):
        await enqueue(database, alice, number)
    async with working(jobs, {"turn": gate}, replace(QUICK, concurrency=3)):
        await gate.entered.wait()
        async with working(PgQueuerJobs(database), {"turn": others}):
            await others.wait_for(9)
        gate.let_go.set()
    assert await queue(database) == []


async def test_retry_calls_again_and_counts(database: Database, jobs: Jobs, alice: int) -> None:
    handler = Recorder(Retry(), Retry())
    await enqueue(database, alice)
    async with working(jobs, {"turn": handler}):
        await handler.wait_for(3)
    assert [job.attempt for job in handler.calls] == [1, 2, 3]
    assert await queue(database) == []


async def test_retry_waits_as_long_as_it_says(database: Database, jobs: Jobs, alice: int) -> None:
    handler = Recorder(Retry(after_s=3600))
    await enqueue(database, alice)
    async with working(jobs, {"turn": handler}):
        await handler.wait_for(1)
    async with database.begin_dispatch() as db:
        statement = text("SELECT status::text, execute_after - updated AS wait FROM pgqueuer")
        assert tuple((await db.execute(statement)).one()) == ("queued", timedelta(hours=1))


async def test_retries_that_a_handler_asks_for_never_park_its_job(database: Database, jobs: Jobs, alice: int) -> None:
    handler = Recorder(*[Retry()] * 4)
    await enqueue(database, alice)
    async with working(jobs, {"turn": handler}, replace(QUICK, max_failures=2)):
        await handler.wait_for(5)
    assert await jobs.parked() == []


async def test_snooze_sets_the_moment_and_is_no_attempt(database: Database, jobs: Jobs, alice: int) -> None:
    until = datetime(2100, 1, 1, 12, tzinfo=UTC)
    handler = Recorder(Snooze(until=until), Snooze(until=datetime(2000, 1, 1, tzinfo=UTC)))
    await enqueue(database, alice)
    async with working(jobs, {"turn": handler}):
        await handler.wait_for(1)
    async with database.begin_dispatch() as db:
        due = (await db.execute(text("SELECT execute_after FROM pgqueuer WHERE status = 'queued'"))).scalar_one()
        await db.execute(text("UPDATE pgqueuer SET execute_after = now()"))
    assert abs(due - until) < timedelta(seconds=1)
    async with working(jobs, {"turn": handler}):
        await handler.wait_for(3)
    assert [job.attempt for job in handler.calls] == [1, 1, 1]


async def test_cancel_ends_the_job_and_keeps_the_reason(database: Database, jobs: Jobs, alice: int) -> None:
    handler = Recorder(Cancel(reason="the conversation is gone"))
    await enqueue(database, alice)
    async with working(jobs, {"turn": handler}):
        await handler.wait_for(1)
    assert await queue(database) == []
    assert await log(database) == ["queued", "picked", "canceled"]
    async with database.begin_dispatch() as db:
        statement = text("SELECT traceback ->> 'exception_message' FROM pgqueuer_log WHERE status = 'canceled'")
        assert (await db.execute(statement)).scalar_one() == "the conversation is gone"


async def test_a_handler_that_raises_is_called_again_then_its_job_is_parked_with_the_reason(
    database: Database, jobs: Jobs, alice: int, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Recorder(*[LookupError("no such session")] * 3)
    await enqueue(database, alice, 7)
    async with working(jobs, {"turn": handler}, replace(QUICK, max_failures=3)):
        await handler.wait_for(3)
    assert [job.attempt for job in handler.calls] == [1, 2, 3]
    (parked,) = await jobs.parked()
    assert (parked.kind, parked.user_id, parked.id) == ("turn", alice, 7)
    assert parked.reason == "LookupError: no such session"
    ours = [record for record in caplog.records if record.name == "storage.job_engine"]
    assert [record.exc_info is not None for record in ours] == [True, True, True]


async def test_a_failure_waits_longer_each_time(database: Database, jobs: Jobs, alice: int) -> None:
    waits: list[timedelta] = []
    options = replace(QUICK, first_backoff_s=100, longest_backoff_s=300)
    await enqueue(database, alice)
    for _ in range(4):
        handler = Recorder(LookupError())
        async with working(jobs, {"turn": handler}, options):
            await handler.wait_for(1)
        async with database.begin_dispatch() as db:
            waits.append((await db.execute(text("SELECT execute_after - updated FROM pgqueuer"))).scalar_one())
            await db.execute(text("UPDATE pgqueuer SET execute_after = now()"))
    assert [wait.total_seconds() for wait in waits] == [100, 200, 300, 300]


async def test_a_parked_job_does_not_stand_in_the_way_of_a_new_one(database: Database, jobs: Jobs, alice: int) -> None:
    handler = Recorder(LookupError())
    await enqueue(database, alice)
    async with working(jobs, {"turn": handler}, replace(QUICK, max_failures=1)):
        await handler.wait_for(1)
    assert await enqueue(database, alice) is True
    (parked,) = await jobs.parked()
    assert await jobs.release(parked.number) is True  # the new one stays, the parked one goes
    assert await jobs.parked() == []
    assert await queue(database) == [("queued", 0)]


async def test_a_released_job_is_tried_again_with_its_failures_forgotten(
    database: Database, jobs: Jobs, alice: int
) -> None:
    options = replace(QUICK, max_failures=2)
    handler = Recorder(*[LookupError()] * 3)
    await enqueue(database, alice)
    async with working(jobs, {"turn": handler}, options):
        await handler.wait_for(2)
    (parked,) = await jobs.parked()
    assert await jobs.release(parked.number) is True
    assert await jobs.release(parked.number) is False
    async with working(jobs, {"turn": handler}, options):
        await handler.wait_for(4)
    assert [job.attempt for job in handler.calls] == [1, 2, 1, 2]
    assert await queue(database) == []


async def test_a_job_that_is_not_ours_is_cancelled_and_not_started(database: Database, jobs: Jobs, alice: int) -> None:
    handler = Recorder()
    await enqueue(database, alice)
    async with database.begin_dispatch() as db:
        await db.execute(text("UPDATE pgqueuer SET payload = 'not json', priority = 1"))
    await enqueue(database, alice, 2)
    async with working(jobs, {"turn": handler}, replace(QUICK, concurrency=1)):
        await handler.wait_for(1)
    assert [job.id for job in handler.calls] == [2]
    assert sorted(await log(database)) == ["canceled", "picked", "picked", "queued", "queued", "successful"]


async def test_two_workers_do_a_hundred_jobs_once_each(database: Database, jobs: Jobs, alice: int) -> None:
    async with database.begin(alice) as db:
        for number in range(100):
            await jobs.enqueue(db, JobRequest(kind="turn", user_id=alice, id=number))
    finished = Recorder()
    by: Counter[str] = Counter()
    both_work = anyio.Event()

    def handler_of(worker: str) -> Handler:
        async def handler(job: Job) -> Outcome:
            by[worker] += 1
            if len(by) == 2:
                both_work.set()
            await both_work.wait()
            return await finished(job)

        return handler

    async with (
        working(jobs, {"turn": handler_of("one")}, replace(QUICK, concurrency=10)),
        working(PgQueuerJobs(database), {"turn": handler_of("two")}, replace(QUICK, concurrency=10)),
    ):
        await finished.wait_for(100)
    assert sorted(job.id for job in finished.calls) == list(range(100))
    assert set(by) == {"one", "two"}
    assert await queue(database) == []


async def test_stopping_lets_running_jobs_finish_and_takes_no_new_ones(
    database: Database, jobs: Jobs, alice: int
) -> None:
    gate = Gate()
    await enqueue(database, alice, 1)
    async with working(jobs, {"turn": gate}) as stop:
        await gate.entered.wait()
        stop.set()
        await enqueue(database, alice, 2)
        gate.let_go.set()
    assert await queue(database) == [("queued", 0)]
    assert Counter(await log(database)) == {"queued": 2, "picked": 1, "successful": 1}


async def test_a_job_that_outlives_the_drain_is_given_back(database: Database, jobs: Jobs, alice: int) -> None:
    gate, handler = Gate(), Recorder()
    await enqueue(database, alice)
    async with working(jobs, {"turn": gate}, replace(QUICK, drain_s=0)):
        await gate.entered.wait()
    assert [status for status, _ in await queue(database)] == ["queued"]
    async with working(jobs, {"turn": handler}):
        await handler.wait_for(1)
    assert [job.attempt for job in handler.calls] == [1]


async def test_a_worker_that_is_cancelled_while_it_drains_gives_its_jobs_back_at_once(
    database: Database, jobs: Jobs, alice: int
) -> None:
    gate, stop = Gate(), anyio.Event()
    await enqueue(database, alice)

    async def work() -> None:
        await jobs.work({"turn": gate}, stop=stop, options=replace(QUICK, drain_s=3600))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await gate.entered.wait()
            stop.set()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert [status for status, _ in await queue(database)] == ["queued"]


async def test_a_cancelled_worker_gives_its_jobs_back(database: Database, jobs: Jobs, alice: int) -> None:
    gate = Gate()
    await enqueue(database, alice)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            stop = anyio.Event()

            async def work() -> None:
                await jobs.work({"turn": gate}, stop=stop, options=QUICK)

            tasks.start_soon(work)
            await gate.entered.wait()
            tasks.cancel_scope.cancel()
    assert [status for status, _ in await queue(database)] == ["queued"]


async def test_a_worker_picks_up_jobs_without_any_notification(
    database: Database, address: Address, jobs: Jobs, alice: int
) -> None:
    owner = await connect(address)
    await owner.execute("DROP TRIGGER tg_pgqueuer_changed ON pgqueuer")
    await owner.close()
    handler = Recorder()
    async with working(jobs, {"turn": handler}):
        await enqueue(database, alice, 1)
        await handler.wait_for(1)
        await enqueue(database, alice, 2)
        await handler.wait_for(2)
    assert await queue(database) == []


async def test_a_worker_that_lost_its_connection_makes_a_new_one(
    database: Database, address: Address, jobs: Jobs, alice: int
) -> None:
    handler = Recorder()
    await enqueue(database, alice, 1)
    async with working(jobs, {"turn": handler}):
        await handler.wait_for(1)
        owner = await connect(address)
        killed = await owner.fetch(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE '%pgqueuer%' AND pid <> pg_backend_pid()
            """
        )
        await owner.close()
        assert len(killed) >= 1
        await database.engine.dispose()  # the pool's own connections may have been among them
        await enqueue(database, alice, 2)
        await handler.wait_for(2)
    assert [job.id for job in handler.calls][-1] == 2


_HANGING_WORKER = """
import sys
import anyio
from storage.engine import Address
from storage.job_engine import PgQueuerJobs
from storage.jobs import Job, Outcome
from storage.tenancy import Database

async def hang(job: Job) -> Outcome:
    print("started", flush=True)
    await anyio.sleep_forever()
    raise AssertionError

async def main() -> None:
    address = Address(dsn=sys.argv[1], direct_dsn=sys.argv[1], pooled=False)
    await PgQueuerJobs(Database(address)).work({"turn": hang}, stop=anyio.Event())

anyio.run(main)
"""


@asynccontextmanager
async def hanging_worker(address: Address, environment: Mapping[str, str] | None = None) -> AsyncGenerator[None]:
    """Run a worker in a process of its own that has begun a job and does not end it; kill it at the end."""
    command = [sys.executable, "-c", _HANGING_WORKER, address.dsn]
    with anyio.fail_after(60):
        async with await anyio.open_process(command, env=environment, stderr=None) as process:
            try:
                assert process.stdout is not None
                assert await process.stdout.receive()  # a part of the word is enough
                yield
            finally:
                process.kill()
    assert process.returncode == -signal.SIGKILL


async def test_the_job_of_a_killed_worker_is_taken_over(
    database: Database, address: Address, jobs: Jobs, alice: int
) -> None:
    handler = Recorder()
    await enqueue(database, alice)
    async with hanging_worker(address):
        pass
    assert [status for status, _ in await queue(database)] == ["picked"]
    async with working(jobs, {"turn": handler}, replace(QUICK, heartbeat_s=0.5)):
        await handler.wait_for(1)
    assert [job.attempt for job in handler.calls] == [2]
    assert await queue(database) == []


async def claim_and_die(database: Database) -> None:
    """Leave what a worker leaves that claimed every job an hour ago and died at once."""
    async with database.begin_dispatch() as db:
        await db.execute(
            text(
                """
                WITH claimed AS (
                    UPDATE pgqueuer SET status = 'picked', queue_manager_id = gen_random_uuid(),
                        heartbeat = now() - interval '1 h', execute_after = now() - interval '1 h'
                    RETURNING id, priority, entrypoint
                )
                INSERT INTO pgqueuer_log (job_id, status, priority, entrypoint)
                SELECT id, 'picked', priority, entrypoint FROM claimed
                """
            )
        )


async def test_a_job_that_keeps_killing_its_workers_is_parked_and_not_started_again(
    database: Database, jobs: Jobs, alice: int
) -> None:
    handler = Recorder()
    await enqueue(database, alice, "poison")
    for _ in range(3):
        await claim_and_die(database)
    await enqueue(database, alice, "good", priority=-1)
    async with working(jobs, {"turn": handler}, replace(QUICK, max_failures=3, concurrency=1)):
        await handler.wait_for(1)
    assert [job.id for job in handler.calls] == ["good"]
    (parked,) = await jobs.parked()
    assert parked.id == "poison"
    assert parked.reason == "_WorkerDied: 3 starts ended without an outcome; the last worker died with this job"


async def test_deaths_and_exceptions_count_together(database: Database, jobs: Jobs, alice: int) -> None:
    handler = Recorder(Retry(), LookupError("again"))
    await enqueue(database, alice)
    await claim_and_die(database)
    async with working(jobs, {"turn": handler}, replace(QUICK, max_failures=2)):
        await handler.wait_for(2)
    assert [job.attempt for job in handler.calls] == [2, 3]
    assert [parked.reason for parked in await jobs.parked()] == ["LookupError: again"]


async def test_pruning_the_log_keeps_what_is_recent_and_the_reasons_of_parked_jobs(
    database: Database, jobs: Jobs, alice: int
) -> None:
    handler = Recorder(Done(), LookupError("why"))
    for row_id in ("old", "parked"):
        await enqueue(database, alice, row_id)
    async with working(jobs, {"turn": handler}, replace(QUICK, concurrency=1, max_failures=1)):
        await handler.wait_for(2)
    async with database.begin_dispatch() as db:
        await db.execute(text("UPDATE pgqueuer_log SET created = now() - interval '8 days'"))
    await enqueue(database, alice, "recent")
    assert await prune_log(database, keep_days=7, batch=2) == 3
    assert await prune_log(database, keep_days=7) == 0
    assert await log(database) == ["queued", "picked", "failed", "queued"]
    assert [parked.reason for parked in await jobs.parked()] == ["LookupError: why"]


async def test_no_environment_variable_renames_the_engines_tables(
    database: Database, address: Address, alice: int
) -> None:
    environment = {"CHANNEL": "elsewhere", "PGQUEUER_PREFIX": "x_", "PGQUEUER_SCHEMA": "x", "DURABILITY": "none"}
    await enqueue(database, alice)
    async with hanging_worker(address, environment):
        assert [status for status, _ in await queue(database)] == ["picked"]
