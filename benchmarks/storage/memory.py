"""Does memory stay fast as it fills? `make bench-storage-memory [ARGS="--rows N ..."]`.

One database per size, all of its rows one tenant's; the sizes take turns, so that whatever else the machine does hits
them alike. Each call is a transaction of its own: `statement` is the call inside it, `transaction` all of it with
its two set-up and end round trips and, for a write, the commit. Prints one line of JSON: medians in milliseconds, and
flatness = the largest size's median over the smallest's. `--dsn` names a login that may create databases and roles.
"""

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
from sqlalchemy import text

from benchmarks.harness import Target, record, server_dsn
from storage.engine import connect
from storage.memory import MemoryStore
from storage.tenancy import Database
from storage.testing import add_user, ensure_template, fresh_address

CHUNK = 20_000
"""Rows per transaction while filling: the doors allow a statement 30 s."""

_FILL = text(
    """
    INSERT INTO cf_memory_store (id, user_id, namespace, key_name, value)
    SELECT 'mem_' || n, :user_id, 'client/' || n % 1000, 'key-' || n,
           jsonb_build_object('note', 'prefers mail to phone', 'n', n, 'tags', jsonb_build_array('vip', n % 7))
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
    """
)

Call = Callable[[MemoryStore, int], Awaitable[object]]


def get(store: MemoryStore, n: int) -> Awaitable[object]:
    """Read a key that is there."""
    return store.get(f"client/{n % 1000}", f"key-{n}")


def upsert(store: MemoryStore, n: int) -> Awaitable[object]:
    """Write over a key that is there."""
    return store.set(f"client/{n % 1000}", f"key-{n}", {"note": "prefers phone", "n": n, "tags": ["vip"]})


def insert(store: MemoryStore, n: int) -> Awaitable[object]:
    """Write a key that is not there."""
    return store.set(f"client/{n % 1000}", f"new-{n}-{time.perf_counter_ns()}", {"note": "is new", "n": n})


CALLS: dict[str, Call] = {"get": get, "upsert": upsert, "insert": insert}


async def fill(database: Database, user_id: int, rows: int) -> None:
    """Add the rows and let the server tidy up, as its autovacuum would."""
    for first in range(0, rows, CHUNK):
        async with database.begin(user_id) as db:
            span = {"user_id": user_id, "first": first, "last": min(first + CHUNK, rows) - 1}
            await db.execute(_FILL, span)
    connection = await connect(database.address)
    await connection.execute("VACUUM (ANALYZE) cf_memory_store")
    await connection.close()


async def time_call(database: Database, user_id: int, call: Call, n: int) -> tuple[float, float]:
    """Return the milliseconds of the call itself and of its whole transaction."""
    began = time.perf_counter()
    async with database.begin(user_id) as db:
        await db.connection()
        ready = time.perf_counter()
        await call(MemoryStore(db, user_id), n)
        answered = time.perf_counter()
    return (answered - ready) * 1e3, (time.perf_counter() - began) * 1e3


async def measure(sides: dict[int, tuple[Database, int]], rounds: int) -> dict[tuple[str, str, int], list[float]]:
    """Return (call, span, rows) → milliseconds; the first tenth of the rounds warms up."""
    times_ms: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
    pick = random.Random(7)  # noqa: S311 -- the same keys in every run
    order = list(sides)
    for turn in range(rounds + rounds // 10):
        order.append(order.pop(0))
        for name, call in CALLS.items():
            for rows in order:
                database, user_id = sides[rows]
                statement_ms, transaction_ms = await time_call(database, user_id, call, pick.randrange(rows))
                if turn >= rounds // 10:
                    times_ms[name, "statement", rows].append(statement_ms)
                    times_ms[name, "transaction", rows].append(transaction_ms)
    return times_ms


async def run(dsn: str, sizes: list[int], rounds: int) -> dict[str, Any]:
    """Fill one database per size, measure them in turns and return the figures."""
    template = await ensure_template(dsn)
    sides: dict[int, tuple[Database, int]] = {}
    async with AsyncExitStack() as stack:
        for rows in sizes:
            address = await stack.enter_async_context(fresh_address(dsn, template))
            database = Database(address, pool_size=1)
            stack.push_async_callback(database.close)
            user_id = await add_user(database, "bench")
            await fill(database, user_id, rows)
            sides[rows] = (database, user_id)
        times_ms = await measure(sides, rounds)
    median_ms = {
        name: {
            span: {rows: round(statistics.median(times_ms[name, span, rows]), 3) for rows in sizes}
            for span in ("statement", "transaction")
        }
        for name in CALLS
    }
    flatness = {
        name: {span: round(medians[sizes[-1]] / medians[sizes[0]], 2) for span, medians in spans.items()}
        for name, spans in median_ms.items()
    }
    return {"rounds": rounds, "median_ms": median_ms, "flatness": flatness}


def main() -> None:
    """Record the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", help="a login that may create databases and roles; default: an embedded server")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    sizes = sorted(options.rows)
    with server_dsn(options.dsn) as dsn:
        found = anyio.run(run, dsn, sizes, options.rounds)
    flat = {name: spans["statement"] for name, spans in found["flatness"].items()}
    record(
        "storage-memory",
        found,
        headline=f"{sizes[-1]:,} rows to {sizes[0]:,}: "
        + ", ".join(f"{name} {value}x" for name, value in flat.items()),
        targets=tuple(
            Target(name=f"{name}, largest to smallest", value=value, at_most=1.5) for name, value in flat.items()
        ),
    )


if __name__ == "__main__":
    main()
