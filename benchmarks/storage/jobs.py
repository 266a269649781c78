"""What the jobs port costs: `make bench-storage-jobs [ARGS="--jobs N"]`.

Enqueue: transactions per second that write a row and its job, by 8 callers at once. Dispatch: milliseconds per job of
our worker and of bare pgqueuer, with the same connection, batch, concurrency and an empty handler, in turns. Prints one
line of JSON; ratio = ours over bare. `--dsn` names a login that may create databases and roles.
"""

import argparse
import json
import statistics
import time
from datetime import timedelta
from typing import Any

import anyio
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job as EngineJob
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from benchmarks.harness import Target, record, server_dsn
from storage.job_engine import PgQueuerJobs
from storage.jobs import Done, Job, JobRequest, Outcome, WorkerOptions
from storage.models.crm import AgencyTask
from storage.tenancy import Database
from storage.testing import add_user, ensure_template, fresh_address

CALLERS = 8
BATCH = 20


async def enqueue_with_cause(database: Database, user_id: int, count: int) -> float:
    """Return transactions per second."""
    jobs = PgQueuerJobs(database)

    async def caller(share: int) -> None:
        for _ in range(share):
            async with database.begin(user_id) as db:
                card = AgencyTask(user_id=user_id, title="Fix the landing page")
                db.add(card)
                await db.flush()
                await jobs.enqueue(db, JobRequest(kind="turn", user_id=user_id, id=card.id))

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(CALLERS):
            tasks.start_soon(caller, count // CALLERS)
    return count / (time.perf_counter() - began)


async def fill(database: Database, user_id: int, count: int) -> None:
    """Put that many jobs into the queue, as bare pgqueuer would."""
    connection = await database.dispatch_connection()
    ids = range(count)
    await Queries(AsyncpgDriver(connection)).enqueue(
        ["turn"] * count,
        [json.dumps({"userId": user_id, "id": n}).encode() for n in ids],
        [0] * count,
        dedupe_key=[f"turn:{user_id}:{n}" for n in ids],
    )
    await connection.execute("RESET ROLE")
    await connection.execute("VACUUM (ANALYZE) pgqueuer")
    await connection.close()


class Countdown:
    """Says when the last of `count` jobs was done."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.over = anyio.Event()

    def done(self) -> None:
        """Count one."""
        self.left -= 1
        if self.left == 0:
            self.over.set()


async def ours(database: Database, count: int, concurrency: int) -> float:
    """Return seconds for `count` jobs by our worker."""
    countdown = Countdown(count)

    async def handler(_job: Job) -> Outcome:
        countdown.done()
        return Done()

    async def work() -> None:
        await PgQueuerJobs(database).work(
            {"turn": handler}, stop=countdown.over, options=WorkerOptions(concurrency=concurrency)
        )

    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def bare(database: Database, count: int, concurrency: int) -> float:
    """Return seconds for `count` jobs by pgqueuer alone."""
    countdown = Countdown(count)
    connection = await database.dispatch_connection()
    manager = QueueManager(Queries(AsyncpgDriver(connection)))

    @manager.entrypoint("turn")
    async def handler(_job: EngineJob) -> None:  # pyright: ignore[reportUnusedFunction] -- the decorator keeps it
        countdown.done()
        if countdown.over.is_set():
            manager.shutdown.set()

    began = time.perf_counter()
    await manager.run(batch_size=BATCH, max_concurrent_tasks=concurrency, log_aggregation_interval=timedelta(0))
    seconds = time.perf_counter() - began
    await connection.close()
    return seconds


async def run(dsn: str, count: int, concurrency: int, rounds: int) -> dict[str, Any]:
    """Measure in a database of its own and return the figures."""
    per_job_ms: dict[str, list[float]] = {"ours": [], "bare": []}
    async with fresh_address(dsn, await ensure_template(dsn)) as address:
        database = Database(address, pool_size=CALLERS)
        try:
            user_id = await add_user(database, "bench")
            rate = await enqueue_with_cause(database, user_id, count // 4)
            await ours(database, count // 4 // CALLERS * CALLERS, concurrency)
            for _ in range(rounds):
                for name, side in (("ours", ours), ("bare", bare)):
                    await fill(database, user_id, count)
                    per_job_ms[name].append(await side(database, count, concurrency) / count * 1e3)
        finally:
            await database.close()
    medians = {name: round(statistics.median(times), 4) for name, times in per_job_ms.items()}
    return {
        "enqueue_with_cause_per_s": round(rate),
        "dispatch_ms_per_job": medians,
        "ratio": round(medians["ours"] / medians["bare"], 2),
    }


def main() -> None:
    """Record the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", help="a login that may create databases and roles; default: an embedded server")
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with server_dsn(options.dsn) as dsn:
        found = anyio.run(run, dsn, options.jobs, options.concurrency, options.rounds)
    rate, ratio = found["enqueue_with_cause_per_s"], found["ratio"]
    record(
        "storage-jobs",
        {"jobs": options.jobs, "concurrency": options.concurrency, "rounds": options.rounds, **found},
        headline=f"dispatch {ratio}x bare pgqueuer, {rate} enqueues with their cause per second",
        targets=(
            Target(name="dispatch to bare pgqueuer", value=ratio, at_most=1.3),
            Target(name="enqueues with cause per second", value=rate, at_least=500),
        ),
    )


if __name__ == "__main__":
    main()
