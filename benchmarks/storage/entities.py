"""What the entity layer costs: `make bench-storage-entities [ARGS="--dsn DSN --rounds N --rows N"]`.

Per call in an open transaction, on the same connection and rows, taking turns: bare asyncpg (records), bare SQLAlchemy
Core (the statement is built per call, as one writes it; rows become dicts), and the entity store. Prints medians and
ratios. `--dsn` names a login that may create databases and roles; without it an embedded server is started.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from sqlalchemy import Text, cast, column, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.harness import Target, record, server_dsn
from storage.engine import RawConnection
from storage.entities import EntityStore
from storage.filters import Filter, Query
from storage.models.crm import AgencyTask
from storage.registry import spec_of
from storage.tenancy import Database, raw_connection
from storage.testing import add_user, ensure_template, fresh_address

RIVALS = ("asyncpg", "sqlalchemy", "entities")
CARD = spec_of(AgencyTask)
TABLE = CARD.table
_VERSION = cast(column("xmin", _selectable=TABLE), Text).label("_version")
_GET_COLUMNS = [TABLE.columns[name] for name in CARD.readable]
_FIND_COLUMNS = [TABLE.columns[name] for name in ("id", *CARD.shown)]
_NEW = {"title": "Fix the landing page of Acme Dental", "priority": "urgent", "tags": ["web"]}

Call = Callable[[int], Awaitable[object]]


def quoted(columns: list[Any]) -> str:
    """Return the columns and the version as SQL text."""
    return ", ".join([*(f'"{one.name}"' for one in columns), "xmin::text AS _version"])


def with_asyncpg(connection: RawConnection, user_id: int) -> dict[str, Call]:
    """Return the three calls as asyncpg's user writes them."""
    get = f'SELECT {quoted(_GET_COLUMNS)} FROM "agencyTasks" WHERE id = $1 AND "userId" = $2'
    find = (
        f'SELECT {quoted(_FIND_COLUMNS)} FROM "agencyTasks" WHERE "userId" = $1 AND priority = $2'
        ' ORDER BY "dueDate" DESC, id DESC LIMIT 21'
    )
    create = (
        'INSERT INTO "agencyTasks" ("userId", title, priority, tags) VALUES ($1, $2, $3, $4) '
        f"RETURNING {quoted(_GET_COLUMNS)}"
    )

    async def find_rows(_: int) -> object:
        return [dict(row) for row in await connection.fetch(find, user_id, "high")]

    return {
        "get": lambda key: connection.fetchrow(get, key, user_id),
        "find": find_rows,
        # The connection is SQLAlchemy's, whose jsonb codec takes and gives text.
        "create": lambda _: connection.fetchrow(create, user_id, _NEW["title"], _NEW["priority"], json.dumps(["web"])),
    }


def with_sqlalchemy(db: AsyncSession, user_id: int) -> dict[str, Call]:
    """Return the three calls as a user of SQLAlchemy Core writes them."""
    columns = TABLE.c

    async def get(key: int) -> object:
        statement = select(*_GET_COLUMNS, _VERSION).where(columns.id == key, columns.userId == user_id)
        return dict((await db.execute(statement)).mappings().one())

    async def find(_: int) -> object:
        statement = (
            select(*_FIND_COLUMNS, _VERSION)
            .where(columns.userId == user_id, columns.priority == "high")
            .order_by(columns.dueDate.desc(), columns.id.desc())
            .limit(21)
        )
        return [dict(row) for row in (await db.execute(statement)).mappings()]

    async def create(_: int) -> object:
        statement = insert(TABLE).values(userId=user_id, **_NEW).returning(*_GET_COLUMNS, _VERSION)
        return dict((await db.execute(statement)).mappings().one())

    return {"get": get, "find": find, "create": create}


def with_entities(db: AsyncSession, user_id: int) -> dict[str, Call]:
    """Return the three calls through the entity store."""
    store = EntityStore(db, user_id)
    query = Query(where=[Filter("priority", "eq", "high")], order_by="-dueDate")
    return {
        "get": lambda key: store.get(CARD, key),
        "find": lambda _: store.find(CARD, query),
        "create": lambda _: store.add(CARD, _NEW),
    }


async def fill(database: Database, user_id: int, rows: int) -> list[int]:
    """Add cards, two thirds of them with a due date, and return their ids."""
    async with database.begin(user_id) as db:
        store = EntityStore(db, user_id)
        return [
            (
                await store.add(
                    CARD,
                    {
                        "title": f"Card {n}",
                        "priority": ("low", "high")[n % 2],
                        "extractedData": {"n": n, "words": ["some", "json"]},
                        "dueDate": f"2026-11-{n % 28 + 1:02}T09:00:00Z" if n % 3 else None,
                    },
                )
            )["id"]
            for n in range(rows)
        ]


async def measure(database: Database, user_id: int, ids: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Return verb → rival → median microseconds; the first tenth of the rounds warms up."""
    times_us: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    async with database.begin(user_id) as db:
        sides = (
            with_asyncpg(await raw_connection(db), user_id),
            with_sqlalchemy(db, user_id),
            with_entities(db, user_id),
        )
        for turn in range(rounds + rounds // 10):
            for verb in ("get", "find", "create"):
                # Whoever comes first in a turn pays for cold caches, so the order rotates.
                for at in range(turn, turn + len(sides)):
                    call = sides[at % len(sides)][verb]
                    began = time.perf_counter()
                    await call(ids[turn % len(ids)])
                    if turn >= rounds // 10:
                        times_us[verb, RIVALS[at % len(sides)]].append((time.perf_counter() - began) * 1e6)
        await db.rollback()
    return {
        verb: {rival: round(statistics.median(times_us[verb, rival]), 1) for rival in RIVALS}
        for verb in ("get", "find", "create")
    }


async def run(dsn: str, rounds: int, rows: int) -> dict[str, Any]:
    """Measure in a database of its own and return the figures."""
    async with fresh_address(dsn, await ensure_template(dsn)) as address:
        database = Database(address, pool_size=1)
        try:
            user_id = await add_user(database, "bench")
            ids = await fill(database, user_id, rows)
            async with database.begin(user_id) as db:
                server = (await db.connection()).sync_connection
                postgres = ".".join(map(str, server.dialect.server_version_info or ())) if server else ""
            medians = await measure(database, user_id, ids, rounds)
        finally:
            await database.close()
    ratios = {
        verb: {rival: round(figures["entities"] / figures[rival], 2) for rival in RIVALS[:2]}
        for verb, figures in medians.items()
    }
    return {"postgres": postgres, "median_us": medians, "entities_to": ratios}


def main() -> None:
    """Print a table, record the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", help="a login that may create databases and roles; default: an embedded server")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=500)
    options = parser.parse_args()
    with server_dsn(options.dsn) as dsn:
        found = anyio.run(run, dsn, options.rounds, options.rows)
    for verb, figures in found["median_us"].items():
        print(f"{verb:6}  {'  '.join(f'{rival} {figures[rival]:7.1f} µs' for rival in RIVALS)}")
    ratios = {verb: figures["sqlalchemy"] for verb, figures in found["entities_to"].items()}
    record(
        "storage-entities",
        {"rounds": options.rounds, "rows": options.rows, **found},
        headline=", ".join(f"{verb} {ratio}x bare SQLAlchemy" for verb, ratio in ratios.items()),
        targets=tuple(Target(name=f"{verb} to SQLAlchemy", value=ratio, at_most=1.3) for verb, ratio in ratios.items()),
    )


if __name__ == "__main__":
    main()
