# ruff: noqa: S608 -- every name in these statements comes from the metadata
"""What each role can really do: table × command × whose row, generated from the metadata, with positive controls.

The functions return what is wrong, one line each; at the end they are shown databases that are broken on purpose.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest

from storage.engine import RawConnection
from storage.security import (
    DISPATCH_LEASES,
    DISPATCH_READS,
    DISPATCH_SWEEPS,
    ENGINE_TABLES,
    RUNTIME_GRANTS,
    WORKER_TABLE,
)
from storage.tenancy import ADMIN, DISPATCH, RUNTIME
from tests.schema.rows import OWNERS, TABLES, Rows, Values, World, enter, key_of, made_up, matches

REFUSED = "42501"
"""insufficient_privilege: no grant, or a policy's WITH CHECK."""

COMMANDS = ("INSERT", "SELECT", "UPDATE", "DELETE", "MOVE", "UPDATE ALL", "DELETE ALL")
"""MOVE gives the row to another tenant. The last two name no row, so that no SELECT policy comes to help."""

Outcome = int | str
"""The number of rows, or the SQLSTATE of the refusal."""


async def attempt(connection: RawConnection, statement: str, *arguments: Any) -> Outcome:
    """Run a statement, take it back, and return how many rows it saw or why it was refused."""
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        status = await connection.execute(statement, *arguments)
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    else:
        return int(status.split()[-1])
    finally:
        await savepoint.rollback()


def may(table: str, command: str) -> bool:
    """Whether a tenant has the command on its own rows at all."""
    word = "UPDATE" if command == "MOVE" else command.removesuffix(" ALL")
    return re.search(rf"\b{word}\b", RUNTIME_GRANTS.get(table, word)) is not None


def changeable(table: str) -> str:
    """Return a column that a tenant may change where it may change any."""
    listed = re.search(r"UPDATE \(([^)]*)\)", RUNTIME_GRANTS.get(table, ""))
    if listed:
        return listed.group(1).split(", ")[0].strip('"')
    plain = [column for column in TABLES[table].columns if not column.foreign_keys and not column.primary_key]
    return next(column.name for column in reversed(plain) if column.computed is None and column.identity is None)


def expected(table: str, command: str, whose: str) -> Outcome:
    """Return the outcome of a tenant's command on a row of alice."""
    if not may(table, command):
        return REFUSED
    if command == "INSERT":
        return 1 if whose == "own" else REFUSED
    if command == "UPDATE ALL" and table == "users":  # everybody has a row there
        return 0 if whose == "none" else 1
    if command == "MOVE":  # a user's own id may not be changed by anybody
        return REFUSED if whose == "own" or table == "users" else 0
    return 1 if whose == "own" else 0


async def try_command(world: World, command: str, table: str, new: Values, row: Values) -> Outcome:
    """Attempt one command on alice's row of a table."""
    where = matches(row)
    match command:
        case "SELECT":
            return await attempt(world.connection, f'SELECT FROM "{table}" WHERE {where}', *row.values())
        case "DELETE":
            return await attempt(world.connection, f'DELETE FROM "{table}" WHERE {where}', *row.values())
        case "UPDATE":
            column = changeable(table)
            change = f'UPDATE "{table}" SET "{column}" = "{column}" WHERE {where}'
            return await attempt(world.connection, change, *row.values())
        case "MOVE":
            change = f'UPDATE "{table}" SET "{OWNERS[table]}" = {world.bob} WHERE {where}'
            return await attempt(world.connection, change, *row.values())
        case "UPDATE ALL":
            column = changeable(table)
            change = f'UPDATE "{table}" SET "{column}" = $1'
            return await attempt(world.connection, change, made_up(TABLES[table].columns[column]))
        case "DELETE ALL":
            return await attempt(world.connection, f'DELETE FROM "{table}"')
        case _:
            return await attempt(world.connection, *insertion(table, new))


def insertion(table: str, values: Values) -> tuple[Any, ...]:
    """Return an INSERT and its arguments."""
    columns = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    return f'INSERT INTO "{table}" ({columns}) VALUES ({places})', *values.values()


async def runtime_faults(world: World, tables: Sequence[str] = tuple(TABLES)) -> list[str]:
    """Try every command on a row of alice as nobody, as bob and as alice."""
    found: list[str] = []
    for table in tables:
        transaction = world.connection.transaction()
        await transaction.start()
        try:
            found += await _table_faults(world, table)
        except asyncpg.PostgresError as error:
            found.append(f"{table}: alice cannot have a row ({error.sqlstate})")
        finally:
            await transaction.rollback()
    return found


async def _table_faults(world: World, table: str) -> list[str]:
    found: list[str] = []
    rows = Rows(world.connection, world.alice)
    await enter(world.connection, RUNTIME, world.alice)
    new, row = await rows.values(table), Values()
    for command in COMMANDS:
        if command == "SELECT":  # inserted with its own values only after INSERT has been tried with them
            await enter(world.connection, RUNTIME, world.alice)
            row = await rows.one(table)
        for whose, tenant in (("none", None), ("other", world.bob), ("own", world.alice)):
            await enter(world.connection, RUNTIME, tenant)
            outcome = await try_command(world, command, table, new, row)
            if outcome != expected(table, command, whose):
                found.append(f"{table}: {command} by {whose} gives {outcome}")
    return found


# The other two roles: what they are granted, and what their policies let through

GRANTABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")

Privilege = tuple[str, str, str, str]
"""Role, table, column (empty: the whole table), privilege."""

OUTSIDE_TENANCY: frozenset[Privilege] = frozenset(
    {
        *(
            (DISPATCH, table, "", right)
            for table in (*ENGINE_TABLES, WORKER_TABLE)
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
        ),
        (RUNTIME, "pgqueuer", "", "INSERT"),
        (RUNTIME, "pgqueuer_log", "", "INSERT"),
        *(
            (RUNTIME, "pgqueuer", column, "SELECT")
            for column in ("id", "entrypoint", "priority", "dedupe_key", "status")
        ),
        (DISPATCH, "auditLogs", "", "INSERT"),
        (ADMIN, "auditLogs", "", "INSERT"),
        (ADMIN, "users", "", "INSERT"),
        (ADMIN, "users", "", "DELETE"),
        *((ADMIN, "users", column, "SELECT") for column in ("id", "username", "email", "role", "createdAt")),
    }
)
"""A tenant may enqueue a job and never read one's payload; an administrator may make and remove users."""

_PRIVILEGES = """
    WITH roles AS (SELECT unnest($1::text[]) AS role), rights AS (SELECT unnest($2::text[]) AS privilege)
    SELECT role, c.relname::text, '' AS "column", privilege FROM pg_class c, roles, rights
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND has_table_privilege(role, c.oid, privilege)
    UNION ALL
    SELECT role, c.relname::text, a.attname::text, privilege FROM pg_class c, pg_attribute a, roles, rights
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
        AND NOT has_table_privilege(role, c.oid, privilege) AND has_column_privilege(role, c.oid, a.attnum, privilege)
"""


def _stated(role: str, table: str, grants: str) -> set[Privilege]:
    """Return the privileges of a list like `SELECT, UPDATE (a, b)`."""
    found: set[Privilege] = set()
    for right, columns in re.findall(r"(\w+)(?: \(([^)]*)\))?(?:, |$)", grants):
        found |= {(role, table, column.strip('"'), right) for column in columns.split(", ")}
    return found


def allowed_privileges() -> set[Privilege]:
    """Return every privilege that the three roles are to have."""
    found = set(OUTSIDE_TENANCY)
    for table in TABLES:
        found |= _stated(RUNTIME, table, RUNTIME_GRANTS.get(table, "SELECT, INSERT, UPDATE, DELETE"))
    for table, (columns, _) in DISPATCH_READS.items():
        found |= {(DISPATCH, table, column, "SELECT") for column in columns}
    for table, columns in DISPATCH_LEASES.items():
        found |= {(DISPATCH, table, column, "UPDATE") for column in columns}
    for table, (column, _) in DISPATCH_SWEEPS.items():
        found |= {(DISPATCH, table, "", "DELETE"), (DISPATCH, table, column, "UPDATE")}
    return found


async def privilege_faults(connection: RawConnection) -> list[str]:
    """Compare what the roles may with what they are to have, column by column."""
    rows = await connection.fetch(_PRIVILEGES, [RUNTIME, DISPATCH, ADMIN], list(GRANTABLE))
    actual: set[Privilege] = {(row[0], row[1], row[2], row[3]) for row in rows}
    allowed = allowed_privileges()
    lines = [("too much", privilege) for privilege in actual - allowed]
    lines += [("missing", privilege) for privilege in allowed - actual]
    return sorted(
        f"{role} {what}: {right} on {table}.{column}".rstrip(".") for what, (role, table, column, right) in lines
    )


LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

OTHER_KIND: Mapping[str, Values] = MappingProxyType(
    {
        "agentExecutions": {"status": "completed"},
        "agentSessions": {"leaseOwner": "worker"},
        "approvals": {"status": "denied"},
        "cf_memory_store": {"expires_at": LONG_AGO},
        "outboundMessages": {"status": "draft"},
        "sessions": {"expiresAt": LONG_AGO},
        "toolOutbox": {"status": "failed"},
    }
)
"""Tables of which the dispatcher sees some rows: values that make a row of the other kind than a plain one."""


async def dispatch_faults(world: World) -> list[str]:
    """Try every command as the dispatcher, with and without a tenant's id set, on rows of both kinds."""
    found: list[str] = []
    transaction = world.connection.transaction()
    await transaction.start()
    try:
        await enter(world.connection, RUNTIME, world.alice)
        rows = Rows(world.connection, world.alice)
        await rows.fill()
        for table, values in OTHER_KIND.items():
            await rows.add(table, **values)
        seen = {table: await counts(world.connection, table, where) for table, (_, where) in DISPATCH_READS.items()}
        seen["users"] = (2, 2)
        swept = {table: await counts(world.connection, table, where) for table, (_, where) in DISPATCH_SWEEPS.items()}
        news = {table: await rows.values(table) for table in TABLES if table != "users"}
        for tenant in (None, world.alice):
            await enter(world.connection, DISPATCH, tenant)
            for table in TABLES:
                for command, outcome, should in await dispatch_outcomes(world.connection, table, seen, swept):
                    if outcome != should:
                        found.append(f"{table}: {command} gives {outcome}, not {should}")
            found += await refused_inserts(world.connection, news)
    finally:
        await transaction.rollback()
    kinds = {
        **{f"{table} (read)": seen[table] for table in DISPATCH_READS if DISPATCH_READS[table][1] != "true"},
        **swept,
    }
    return found + [
        f"{table}: {n} of {total} rows fit, which proves nothing"
        for table, (n, total) in kinds.items()
        if not 0 < n < total
    ]


async def counts(connection: RawConnection, table: str, condition: str) -> tuple[int, int]:
    """Return how many rows fit a condition, and how many there are."""
    fitting = await connection.fetchval(f'SELECT count(*) FROM "{table}" WHERE {condition}')
    return fitting, await connection.fetchval(f'SELECT count(*) FROM "{table}"')


async def dispatch_outcomes(
    connection: RawConnection, table: str, seen: Mapping[str, tuple[int, int]], swept: Mapping[str, tuple[int, int]]
) -> list[tuple[str, Outcome, Outcome]]:
    """Return command, outcome and what it should be for SELECT, UPDATE and DELETE on one table."""
    readable = DISPATCH_READS[table][0][0] if table in DISPATCH_READS else key_of(table)[0]
    lease = DISPATCH_LEASES.get(table, [key_of(table)[0]])[-1]
    return [
        (
            "SELECT",
            await attempt(connection, f'SELECT "{readable}" FROM "{table}"'),
            seen[table][0] if table in DISPATCH_READS else REFUSED,
        ),
        (
            "UPDATE",
            await attempt(connection, f'UPDATE "{table}" SET "{lease}" = DEFAULT WHERE "{readable}" IS NOT NULL'),
            seen[table][0] if table in DISPATCH_LEASES else REFUSED,
        ),
        (
            "DELETE",
            await attempt(connection, f'DELETE FROM "{table}"'),
            swept[table][0] if table in DISPATCH_SWEEPS else REFUSED,
        ),
    ]


async def refused_inserts(connection: RawConnection, news: Mapping[str, Values]) -> list[str]:
    """Try to insert rows of a tenant, which neither of the two roles may; and the system's own audit row."""
    found: list[str] = []
    for table, values in news.items():
        outcome = await attempt(connection, *insertion(table, values))
        if outcome != REFUSED:
            found.append(f"{table}: INSERT gives {outcome}")
    outcome = await attempt(connection, *insertion("auditLogs", news["auditLogs"] | {"userId": None}))
    return found if outcome == 1 else [*found, f"auditLogs: INSERT of the system gives {outcome}"]


async def admin_faults(world: World) -> list[str]:
    """Try every command as the administrator: users come and go, everything else is out of reach."""
    found: list[str] = []
    transaction = world.connection.transaction()
    await transaction.start()
    try:
        await enter(world.connection, RUNTIME, world.alice)
        rows = Rows(world.connection, world.alice)
        await rows.fill()
        news = {table: await rows.values(table) for table in TABLES if table != "users"}
        for tenant in (None, world.alice):
            await enter(world.connection, ADMIN, tenant)
            for table in TABLES:
                key = key_of(table)[0]
                for command, statement in (
                    ("SELECT", f'SELECT "{key}" FROM "{table}"'),
                    ("UPDATE", f'UPDATE "{table}" SET "{key}" = DEFAULT'),
                    ("DELETE", f'DELETE FROM "{table}"'),
                ):
                    should: Outcome = 2 if table == "users" and command != "UPDATE" else REFUSED
                    outcome = await attempt(world.connection, statement)
                    if outcome != should:
                        found.append(f"{table}: {command} gives {outcome}, not {should}")
            found += await refused_inserts(world.connection, news)
            outcome = await attempt(world.connection, *insertion("users", await rows.values("users")))
            if outcome != 1:
                found.append(f"users: INSERT gives {outcome}")
            if (outcome := await attempt(world.connection, "SELECT password FROM users")) != REFUSED:
                found.append(f"users: SELECT of a password gives {outcome}")
    finally:
        await transaction.rollback()
    return found


async def test_a_tenant_can_do_to_its_own_rows_what_it_may_and_nothing_to_others(world: World) -> None:
    assert await runtime_faults(world) == []


async def test_the_dispatcher_reaches_the_listed_columns_of_the_due_rows_only(world: World) -> None:
    assert await dispatch_faults(world) == []


async def test_the_administrator_makes_and_removes_users_and_sees_nothing_else(world: World) -> None:
    assert await admin_faults(world) == []


async def test_each_role_has_exactly_the_privileges_that_are_listed(world: World) -> None:
    assert await privilege_faults(world.connection) == []


def test_no_tenant_may_rewrite_the_journal_or_the_audit_trail() -> None:
    for table in ("agentSteps", "auditLogs"):
        assert [command for command in COMMANDS if may(table, command)] == ["INSERT", "SELECT"]


RUNTIME_BREAKS = {
    "a policy that lets everybody read": (
        "ALTER POLICY tenant ON documents USING (true)",
        "documents: SELECT by none gives 1",
    ),
    "a policy that lets everybody write": (
        "ALTER POLICY tenant ON documents WITH CHECK (true)",
        "documents: INSERT by other gives 1",
    ),
    "a row that may be given away": (
        "ALTER POLICY tenant ON documents USING (true) WITH CHECK (true)",
        "documents: MOVE by own gives 1",
    ),
    "a second policy": (
        "CREATE POLICY extra ON documents FOR DELETE USING (true)",
        "documents: DELETE ALL by other gives 1",
    ),
    "row-level security off": (
        "ALTER TABLE documents DISABLE ROW LEVEL SECURITY",
        "documents: DELETE by other gives 1",
    ),
    "no policy": ("DROP POLICY tenant ON documents", "documents: alice cannot have a row (42501)"),
    "a grant too few": ("REVOKE DELETE ON documents FROM agency_runtime", "documents: DELETE by own gives 42501"),
    "a trail that may be edited": (
        'GRANT UPDATE ON "agentSteps" TO agency_runtime',
        "agentSteps: UPDATE by own gives 1",
    ),
    "a tenant who may end": ("GRANT DELETE ON users TO agency_runtime", "users: DELETE by own gives 1"),
}


@pytest.mark.parametrize(("statement", "told"), RUNTIME_BREAKS.values(), ids=RUNTIME_BREAKS.keys())
async def test_the_matrix_of_tenants_finds_a_broken_table(world: World, statement: str, told: str) -> None:
    await world.connection.execute(statement)
    assert told in await runtime_faults(world, ["documents", "agentSteps", "users"])


DISPATCH_BREAKS = {
    "rows that are not due": (
        "ALTER POLICY dispatch_read ON cf_memory_store USING (true)",
        "cf_memory_store: SELECT gives 2, not 1",
    ),
    "no row at all": ('DROP POLICY dispatch_read ON "userWebhooks"', "userWebhooks: SELECT gives 0, not 1"),
    "another table": (
        "GRANT SELECT ON documents TO agency_dispatch",
        "documents: SELECT gives 0, not 42501",
    ),
    "a sweep of what is not over": (
        "ALTER POLICY dispatch_sweep ON sessions USING (true)",
        "sessions: DELETE gives 2, not 1",
    ),
    "rows made for a tenant": (
        "GRANT INSERT ON sessions TO agency_dispatch; CREATE POLICY extra ON sessions FOR INSERT WITH CHECK (true)",
        "sessions: INSERT gives 1",
    ),
    "an audit row in a tenant's name": (
        'ALTER POLICY system_audit ON "auditLogs" WITH CHECK (true)',
        "auditLogs: INSERT gives 1",
    ),
}


@pytest.mark.parametrize(("statement", "told"), DISPATCH_BREAKS.values(), ids=DISPATCH_BREAKS.keys())
async def test_the_matrix_of_the_dispatcher_finds_a_broken_table(world: World, statement: str, told: str) -> None:
    await world.connection.execute(statement)
    assert told in await dispatch_faults(world)


ADMIN_BREAKS = {
    "a password": ("GRANT SELECT (password) ON users TO agency_admin", "users: SELECT of a password gives 2"),
    "another table": ("GRANT SELECT ON documents TO agency_admin", "documents: SELECT gives 0, not 42501"),
    "no removal": ("DROP POLICY admin_remove ON users", "users: DELETE gives 0, not 2"),
}


@pytest.mark.parametrize(("statement", "told"), ADMIN_BREAKS.values(), ids=ADMIN_BREAKS.keys())
async def test_the_matrix_of_the_administrator_finds_a_broken_table(world: World, statement: str, told: str) -> None:
    await world.connection.execute(statement)
    assert told in await admin_faults(world)


PRIVILEGE_BREAKS = {
    "a column too many": (
        "GRANT SELECT (role) ON users TO agency_dispatch",
        "agency_dispatch too much: SELECT on users.role",
    ),
    "a whole table": (
        "GRANT UPDATE ON users TO agency_runtime",
        "agency_runtime too much: UPDATE on users",
    ),
    "everybody": ("GRANT DELETE ON documents TO PUBLIC", "agency_admin too much: DELETE on documents"),
    "a payload": (
        "GRANT SELECT (payload) ON pgqueuer TO agency_runtime",
        "agency_runtime too much: SELECT on pgqueuer.payload",
    ),
    "the version of the schema": (
        "GRANT SELECT ON alembic_version TO agency_runtime",
        "agency_runtime too much: SELECT on alembic_version",
    ),
    "a privilege too few": (
        'REVOKE SELECT ("keyHash") ON "apiKeys" FROM agency_dispatch',
        "agency_dispatch missing: SELECT on apiKeys.keyHash",
    ),
}


@pytest.mark.parametrize(("statement", "told"), PRIVILEGE_BREAKS.values(), ids=PRIVILEGE_BREAKS.keys())
async def test_a_privilege_beyond_the_list_is_found(world: World, statement: str, told: str) -> None:
    await world.connection.execute(statement)
    assert told in await privilege_faults(world.connection)
