"""Behind a pooler in transaction mode, where SQLAlchemy's defaults fail and silently answer with wrong rows."""

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from storage.engine import Address, connect
from storage.errors import DatabaseNotReadyError
from storage.job_engine import PgQueuerJobs
from storage.jobs import JobRequest
from storage.memory import MemoryStore
from storage.models.swarm import MemoryEntry
from storage.schema_state import require_ready
from storage.tenancy import Database
from tests.servers.pooler import INSTALL, pooling, program
from tests.servers.product import settings_for, walk_through
from tests.user import Agency

TASKS, ROUNDS = 10, 30


@pytest.fixture(scope="session")
def pooler(server_dsn: str) -> Generator[str]:
    """`user@host:port` of a PgBouncer before the tests' server."""
    found = program()
    if found is None:
        pytest.skip(INSTALL)
    with pooling(server_dsn, found) as where:
        yield where


@pytest.fixture
def pooled(address: Address, pooler: str) -> Address:
    """This test's database, through the pooler."""
    return replace(address, dsn=f"postgresql://{pooler}{urlsplit(address.dsn).path}", pooled=True)


async def test_everything_works_through_a_transaction_pooler(
    pooled: Address, agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = await walk_through(agency, settings_for(pooled.dsn, pooled.direct_dsn), monkeypatch)

    assert [story["status"] for story in report.messages] == ["processed", "processed"]
    assert report.swarm["tasks"] == {"completed": 4}
    assert report.mcp["card"]["title"] == "Fix the landing page"


@dataclass
class Tally:
    """How the rounds of a workload ended."""

    right: int = 0
    wrong: list[str] = field(default_factory=list[str])
    """Answers that belong to another question or another tenant."""
    errors: Counter[str] = field(default_factory=Counter[str])


async def one_round(database: Database, user_id: int, mark: int) -> list[str]:
    """Ask questions whose answers only this round knows, each in words of its own; return wrong answers."""
    wrong: list[str] = []
    async with database.begin(user_id) as db:
        await MemoryStore(db, user_id).set("marks", str(mark), {"mark": mark})
        added = await PgQueuerJobs(database).enqueue(
            db, JobRequest(kind="probe", user_id=user_id, id=mark, delay_s=600)
        )
        wrong += [] if added else [f"{mark} was taken for a job that is there"]
    async with database.begin(user_id, read_only=True) as db:
        shape = text(f"SELECT CAST(:mark AS bigint) AS c{mark % 7}, current_setting('app.user_id')::int")
        row: Sequence[Any] = (await db.execute(shape, {"mark": mark})).one()
        wrong += [] if tuple(row) == (mark, user_id) else [f"{mark} of {user_id} answered with {tuple(row)}"]
        item = await MemoryStore(db, user_id).get("marks", str(mark))
        wrong += [] if item is not None and item.value == {"mark": mark} else [f"{mark} remembered as {item}"]
        owners = set(await db.scalars(select(MemoryEntry.user_id).order_by(MemoryEntry.id).limit(mark % 30 + 1)))
        wrong += [] if owners == {user_id} else [f"{user_id} sees rows of {owners}"]
    return wrong


async def interleave(address: Address, tenants: Sequence[int], *, first_mark: int) -> Tally:
    """Let tasks of several tenants ask at the same time over the pooler's few connections; a mark for each round."""
    tally = Tally()
    database = Database(address, pool_size=TASKS)

    async def ask(task: int) -> None:
        user_id = tenants[task % len(tenants)]
        for mark in range(first_mark + task, first_mark + TASKS * ROUNDS, TASKS):
            try:
                wrong = await one_round(database, user_id, mark)
            except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                tally.errors[type(error).__name__] += 1
            else:
                tally.wrong += wrong
                tally.right += not wrong

    try:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for task in range(TASKS):
                    tasks.start_soon(ask, task)
    finally:
        await database.close()
    return tally


async def test_interleaved_tenants_get_their_own_answers_and_no_errors(
    pooled: Address, database: Database, alice: int, bob: int
) -> None:
    tally = await interleave(pooled, [alice, bob], first_mark=1_000)
    assert tally == Tally(right=TASKS * ROUNDS)

    careless = await interleave(replace(pooled, pooled=False), [alice, bob], first_mark=9_000)
    assert careless.wrong or careless.errors, "SQLAlchemy's defaults are known to fail here: this test sees nothing"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
@pytest.mark.parametrize(
    "query",
    [
        "sslmode=disable",
        "channel_binding=require&sslmode=prefer",
        "pgbouncer=true&connection_limit=1&pool_timeout=0&schema=public",
        "application_name=somebody&options=-c%20statement_timeout%3D1",
    ],
)
async def test_addresses_are_taken_as_hosters_print_them(pooled: Address, scheme: str, query: str) -> None:
    printed = f"{pooled.dsn.replace('postgresql', scheme, 1)}?{query}"
    connection = await connect(replace(pooled, dsn=printed))
    try:
        assert await connection.fetchval("SELECT current_setting('application_name')") == "agency"
    finally:
        await connection.close()


async def test_a_pooler_where_the_server_itself_is_needed_is_refused_with_the_setting_to_make(pooled: Address) -> None:
    with pytest.raises(DatabaseNotReadyError) as refused:
        await require_ready(replace(pooled, direct_dsn=pooled.dsn))
    assert "DATABASE_URL_DIRECT" in refused.value.remedy
    await require_ready(pooled)
