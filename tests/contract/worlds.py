# ruff: noqa: S608 -- the statements are built from constants and the fields of our own classes
"""The two worlds that a journal can live in, behind one face: in memory, and in a real Postgres whose clock we move."""

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, NoResultFound

from runtime.approvals import Permit
from runtime.errors import ApprovalGoneError, LeaseLostError
from runtime.events import Event, ExecutionEnded
from runtime.journal import PostgresJournal
from runtime.journal_port import Claim, Journal, Recorded, Settled, Signals
from runtime.operation import Audited
from runtime.testing import FixedClock, MemoryDb, MemoryJournal, MemoryStore
from runtime.testing.memory_store import ApprovalRow, AuditRow, CallRow, ExecutionRow, SessionRow
from runtime.testing.virtual_loop import EPOCH
from storage.engine import Address, RawConnection, connect
from storage.tenancy import Database

USER = 1
"""The tenant; of a fresh database the first user has this id."""

REFUSALS = (LeaseLostError, ApprovalGoneError, IntegrityError, NoResultFound)
"""What a command may answer instead of a value."""

Rows = dict[str, list[dict[str, Any]]]
"""Table → rows, each by the names of the fields in `runtime.testing.memory_store`."""


class World(Protocol):
    """Journals over one state, the doors of people, and a look at the state."""

    def journal(self, owner: str, *, is_forgetful: bool = False) -> Journal: ...

    async def keep(self, db: Any, key: str, value: str) -> None: ...

    async def at(self, instant: datetime) -> None: ...

    async def rows(self) -> Rows: ...

    async def wipe(self) -> None: ...

    async def add_session(self, *, one_task: bool = False, parent: tuple[int, int] | None = None) -> int: ...

    async def queue(
        self,
        session_id: int,
        *,
        task: str = "task",
        limits: dict[str, Any] | None = None,
        parent_execution_id: int | None = None,
    ) -> int: ...

    async def cancel(self, execution_id: int) -> None: ...

    async def pause(self, execution_id: int) -> None: ...

    async def resume(self, execution_id: int) -> None: ...

    async def decide(self, approval_id: int, *, grants: bool, note: str | None = None) -> bool: ...

    async def answer(self, execution_id: int, call_id: str, words: str) -> bool: ...

    async def expire(self) -> list[int]: ...


Op = Callable[[World], Awaitable[Any]]


async def outcome_of(op: Op, world: World) -> Any:
    """Return what a command answers, or the class of its refusal."""
    try:
        return await op(world)
    except REFUSALS as refusal:
        return type(refusal)


async def settle(
    world: World,
    owner: str,
    claim: Claim,
    settled: Sequence[Settled] = (),
    *,
    facts: Sequence[Event] = (),
    audits: Sequence[Audited] = (),
    permit: Permit | None = None,
    keeps: Mapping[str, str] | None = None,
) -> Signals:
    """Run T2 as one command; `keeps` is the effect that commits with it."""
    async with world.journal(owner).tool_commit(claim, permit=permit) as commit:
        for key, value in (keeps or {}).items():
            await world.keep(commit.db, key, value)
        commit.settled.extend(settled)
        commit.facts.extend(facts)
        commit.audits.extend(audits)
    return commit.signals


async def end(
    world: World,
    owner: str,
    claim: Claim,
    ended: ExecutionEnded,
    events: Sequence[Event] = (),
    *,
    keeps: Mapping[str, str] | None = None,
) -> None:
    """End an execution as one command; `keeps` is what commits with its end."""
    async with world.journal(owner).ending(claim, ended, events) as db:
        for key, value in (keeps or {}).items():
            await world.keep(db, key, value)


class MemoryWorld:
    """A `MemoryStore` on a clock that the test moves."""

    make: Callable[[MemoryStore, str], MemoryJournal] = MemoryJournal

    def __init__(self) -> None:
        self._clock = FixedClock(EPOCH)
        self.store = MemoryStore(self._clock)
        self._journals: dict[str, MemoryJournal] = {}

    def journal(self, owner: str, *, is_forgetful: bool = False) -> Journal:
        made = MemoryJournal(self.store, owner)
        return made if is_forgetful else self._journals.setdefault(owner, made)

    async def keep(self, db: MemoryDb, key: str, value: str) -> None:
        db.put(key, value)

    async def at(self, instant: datetime) -> None:
        self._clock.move(instant - self._clock.now())

    async def wipe(self) -> None:
        self._clock = FixedClock(EPOCH)
        self.store, self._journals = MemoryStore(self._clock), {}

    async def rows(self) -> Rows:
        return rows_of(self.store)

    async def add_session(self, *, one_task: bool = False, parent: tuple[int, int] | None = None) -> int:
        return self.store.add_session(USER, one_task=one_task, parent=parent)

    async def queue(
        self,
        session_id: int,
        *,
        task: str = "task",
        limits: dict[str, Any] | None = None,
        parent_execution_id: int | None = None,
    ) -> int:
        return self.store.queue(
            session_id, agent_name="agent", task=task, limits=limits, parent_execution_id=parent_execution_id
        )

    async def cancel(self, execution_id: int) -> None:
        self.store.request_cancel(execution_id)

    async def pause(self, execution_id: int) -> None:
        self.store.pause(execution_id)

    async def resume(self, execution_id: int) -> None:
        self.store.resume(execution_id)

    async def decide(self, approval_id: int, *, grants: bool, note: str | None = None) -> bool:
        if grants:
            return self.store.grant(approval_id, by="ann")
        return self.store.deny(approval_id, by="ann", note=note)

    async def answer(self, execution_id: int, call_id: str, words: str) -> bool:
        return self.store.answer(execution_id, call_id, words)

    async def expire(self) -> list[int]:
        return self.store.expire_approvals()


def rows_of(store: MemoryStore) -> Rows:
    """Return the rows of a store in the form in which both worlds show them."""
    steps = [
        {"session_id": session_id, "seq": seq, "execution_id": recorded.execution_id, **_body(recorded)}
        for session_id, recorded_steps in sorted(store.steps.items())
        for seq, recorded in enumerate(recorded_steps, start=1)
    ]
    return {
        "sessions": [_plain(row) for row in store.sessions.values()],
        "executions": [_plain(row) for row in store.executions.values()],
        "steps": steps,
        "calls": [_plain(store.calls[key]) for key in sorted(store.calls)],
        "approvals": [_plain(store.approvals[key]) for key in sorted(store.approvals)],
        "audits": [_plain(row) for row in store.audits],
        "kept": [{"key": key, "value": str(value)} for key, value in sorted(store.kept_by(USER).items())],
    }


def _plain(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in fields(row)}


def _body(recorded: Recorded) -> dict[str, Any]:
    event, label = recorded.event, recorded.label
    labels = {} if label is None else label.as_json()
    return {"kind": event.kind, "body": json.loads(json.dumps(event.model_dump())), "labels": labels}


def _columns(row: type[Any], *, table: str = "") -> str:
    """Return the columns that are this row's fields."""
    names = [column.name for column in fields(row) if column.name != "blob"]
    return ", ".join(f'{table}"{_camel(name)}" AS {name}' for name in names)


def _camel(name: str) -> str:
    return re.sub("_(.)", lambda match: match[1].upper(), name)


_LOOKS = {
    "sessions": f'SELECT {_columns(SessionRow)} FROM "agentSessions" ORDER BY id',
    "executions": f'SELECT {_columns(ExecutionRow)} FROM "agentExecutions" ORDER BY id',
    "steps": """
        SELECT "sessionId" AS session_id, seq, "executionId" AS execution_id, kind, body, labels FROM "agentSteps"
        ORDER BY "sessionId", seq
    """,
    "calls": f"""
        SELECT {_columns(CallRow, table="t.")}, convert_from(b.content, 'UTF8') AS blob
        FROM "toolExecutions" t LEFT JOIN blobs b ON b.id = t."resultBlobId"
        ORDER BY t."executionId", t."toolUseId" COLLATE "C"
    """,
    "approvals": f"SELECT {_columns(ApprovalRow)} FROM approvals ORDER BY id",
    "audits": f'SELECT {_columns(AuditRow)} FROM "auditLogs" ORDER BY id',
    "kept": """
        SELECT DISTINCT ON ("contentType" COLLATE "C")
            substr("contentType", 6) AS key, convert_from(content, 'UTF8') AS value FROM blobs
        WHERE "contentType" LIKE 'kept:%' ORDER BY "contentType" COLLATE "C", id DESC
    """,
}

_SEEN = ("agentSessions", "agentExecutions", "agentSteps", "toolExecutions", "approvals", "auditLogs", "blobs")

_CLOCK = """
    CREATE SCHEMA simulated;
    CREATE TABLE simulated.clock (at timestamptz NOT NULL);
    INSERT INTO simulated.clock VALUES (pg_catalog.now());
    CREATE FUNCTION simulated.now() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT at FROM simulated.clock';
    CREATE FUNCTION simulated.clock_timestamp() RETURNS timestamptz STABLE LANGUAGE sql
        AS 'SELECT at FROM simulated.clock';
    GRANT USAGE ON SCHEMA simulated TO PUBLIC;
    GRANT SELECT ON simulated.clock TO PUBLIC;
"""
"""The clock of the statements is a row: they find this `now()` before that of pg_catalog, so every comparison of times
is exact and no test waits. Column defaults keep the real one."""

_WAKE = ', "waitingFor" = NULL, "runAfter" = now()'


class PostgresWorld:
    """A real database; people's doors are statements on a connection of their own."""

    def __init__(self, database: Database, raw: RawConnection) -> None:
        self._database = database
        self._raw = raw
        self._journals: dict[str, PostgresJournal] = {}

    def journal(self, owner: str, *, is_forgetful: bool = False) -> Journal:
        made = PostgresJournal(self._database, owner)
        return made if is_forgetful else self._journals.setdefault(owner, made)

    async def keep(self, db: Any, key: str, value: str) -> None:
        values = {"user_id": USER, "key": f"kept:{key}", "value": value.encode()}
        await db.execute(_KEEP, values)

    async def at(self, instant: datetime) -> None:
        await self._raw.execute("UPDATE simulated.clock SET at = $1", instant)

    async def wipe(self) -> None:
        self._journals = {}
        await self._raw.execute(_WIPE)
        await self.at(EPOCH)

    async def rows(self) -> Rows:
        return {table: [dict(row) for row in await self._raw.fetch(look)] for table, look in _LOOKS.items()}

    async def add_session(self, *, one_task: bool = False, parent: tuple[int, int] | None = None) -> int:
        insert = """
            INSERT INTO "agentSessions" ("userId", context, "parentSessionId", "parentSeq") VALUES ($1, $2, $3, $4)
            RETURNING id
        """
        return await self._raw.fetchval(insert, USER, {"oneTask": one_task}, *(parent or (None, None)))

    async def queue(
        self,
        session_id: int,
        *,
        task: str = "task",
        limits: dict[str, Any] | None = None,
        parent_execution_id: int | None = None,
    ) -> int:
        insert = """
            INSERT INTO "agentExecutions"
                ("userId", "sessionId", "agentName", "taskDescription", limits, "parentExecutionId")
            VALUES ($1, $2, 'agent', $5, $3, $4) RETURNING id
        """
        return await self._raw.fetchval(insert, USER, session_id, limits or {}, parent_execution_id, task)

    async def cancel(self, execution_id: int) -> None:
        await self._change(execution_id, '"cancelRequestedAt" = coalesce("cancelRequestedAt", now())', "true")

    async def pause(self, execution_id: int) -> None:
        await self._change(execution_id, '"pausedAt" = coalesce("pausedAt", now())', _IS_ACTIVE)

    async def resume(self, execution_id: int) -> None:
        wakes = f"""
            "waitingFor" = CASE WHEN {_IS_ACTIVE} THEN NULL ELSE "waitingFor" END,
            "runAfter" = CASE WHEN {_IS_ACTIVE} THEN now() ELSE "runAfter" END
        """
        await self._change(execution_id, f'"pausedAt" = NULL, {wakes}', '"pausedAt" IS NOT NULL')

    async def _change(self, execution_id: int, changes: str, condition: str) -> None:
        await self._raw.execute(
            f'UPDATE "agentExecutions" SET {changes} WHERE id = $1 AND {condition}',
            execution_id,
        )

    async def decide(self, approval_id: int, *, grants: bool, note: str | None = None) -> bool:
        statement = """
            UPDATE approvals SET status = $2, "decidedAt" = now(), "decidedBy" = 'ann', note = $3
            WHERE id = $1 AND status = 'pending' AND "expiresAt" > now() RETURNING "executionId"
        """
        status = "granted" if grants else "denied"
        async with self._raw.transaction():
            woken = await self._raw.fetchval(statement, approval_id, status, None if grants else note)
            await self._wake(woken)
        return woken is not None

    async def answer(self, execution_id: int, call_id: str, words: str) -> bool:
        statement = """
            UPDATE "toolExecutions" SET result = jsonb_build_object('answer', $3::text)
            WHERE "executionId" = $1 AND "toolUseId" = $2 AND state = 'started' AND result IS NULL
            RETURNING "executionId"
        """
        async with self._raw.transaction():
            woken = await self._raw.fetchval(statement, execution_id, call_id, words)
            await self._wake(woken)
        return woken is not None

    async def expire(self) -> list[int]:
        statement = """
            UPDATE approvals SET status = 'expired', "decidedAt" = now()
            WHERE status = 'pending' AND "expiresAt" <= now()
            RETURNING id, "executionId" AS execution_id
        """
        async with self._raw.transaction():
            gone = await self._raw.fetch(statement)
            for row in gone:
                await self._wake(row["execution_id"])
        return sorted(row["id"] for row in gone)

    async def _wake(self, execution_id: int | None) -> None:
        await self._raw.execute(
            f'UPDATE "agentExecutions" SET "waitingFor" = NULL, "runAfter" = now() WHERE id = $1 AND {_IS_ACTIVE}',
            execution_id,
        )


_IS_ACTIVE = "status IN ('pending', 'planning', 'executing')"

_KEEP = text(
    """
    INSERT INTO blobs ("userId", "contentType", "sizeBytes", content)
    VALUES (:user_id, :key, octet_length(CAST(:value AS bytea)), :value)
    """
)

_WIPE = """
    DELETE FROM "agentSessions";
    DELETE FROM blobs;
    ALTER TABLE "auditLogs" DISABLE TRIGGER USER;
    DELETE FROM "auditLogs";
    ALTER TABLE "auditLogs" ENABLE TRIGGER USER;
    SELECT setval(pg_get_serial_sequence('"agentSessions"', 'id'), 1, false),
           setval(pg_get_serial_sequence('"agentExecutions"', 'id'), 1, false),
           setval(pg_get_serial_sequence('approvals', 'id'), 1, false)
"""


@asynccontextmanager
async def postgres_world(address: Address) -> AsyncGenerator[PostgresWorld]:
    """Yield the world of a migrated database that has one user, with its clock at `EPOCH`."""
    raw = await connect(address, direct=True)
    for kind in ("json", "jsonb"):
        await raw.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    await raw.execute(_CLOCK)
    for table in _SEEN:
        # For the owner of the tables, who plays the people here; the roles of the product are held to their tenant.
        await raw.execute(f'ALTER TABLE "{table}" NO FORCE ROW LEVEL SECURITY')
    name = urlsplit(address.dsn).path.removeprefix("/")
    await raw.execute(f'ALTER DATABASE "{name}" SET search_path = simulated, pg_catalog, public')
    await raw.execute("SET search_path = simulated, pg_catalog, public")
    database = Database(address, pool_size=3)
    try:
        world = PostgresWorld(database, raw)
        await world.at(EPOCH)
        yield world
    finally:
        await database.close()
        await raw.close()


def later(seconds: float) -> datetime:
    """Return an instant on the clock of both worlds."""
    return EPOCH + timedelta(seconds=seconds)
