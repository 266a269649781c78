"""Who may touch which table: roles, grants and row-level security, stated once.

`ensure_roles` runs before every upgrade, because roles belong to the cluster and not to a migration.
`security_statements` is what the migrations must amount to; the drift check compares the two catalogues.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import Table

from storage.base import Base
from storage.engine import RawConnection
from storage.tenancy import ADMIN, DISPATCH, RUNTIME

_EVERYTHING = "SELECT, INSERT, UPDATE, DELETE"

RUNTIME_GRANTS: Mapping[str, str] = MappingProxyType(
    {
        "users": 'SELECT, UPDATE (username, email, password, "isOnboarded", "stripeCustomerId", "subscriptionStatus")',
        "auditLogs": "SELECT, INSERT",
        "agentSteps": "SELECT, INSERT",
        "idempotencyKeys": "SELECT, INSERT",
    }
)
"""Where a tenant may do less than everything with its rows."""

_ANY = "true"

DISPATCH_READS: Mapping[str, tuple[Sequence[str], str]] = MappingProxyType(
    {
        "users": (("id", "username", "email", "password"), _ANY),
        "sessions": (("id", "userId", "expiresAt"), _ANY),
        "apiKeys": (("id", "userId", "keyPrefix", "keyHash", "isActive", "expiresAt", "revokedAt"), _ANY),
        "userWebhooks": (("id", "userId", "webhookToken", "isActive"), _ANY),
        "agentSessions": (("id", "userId", "leaseOwner", "leaseEpoch", "leaseUntil"), '"leaseOwner" IS NOT NULL'),
        "agentExecutions": (
            (
                "id",
                "userId",
                "sessionId",
                "status",
                "agentName",
                "runAfter",
                "createdAt",
                "waitingFor",
                "pausedAt",
                "cancelRequestedAt",
                "deadline",
            ),
            "status IN ('pending', 'planning', 'executing')",
        ),
        "approvals": (("id", "userId", "executionId", "status", "expiresAt"), "status = 'pending'"),
        "outboundMessages": (("id", "userId", "status", "nextAttemptAt"), "status = 'pending'"),
        "toolOutbox": (("id", "userId", "toolName", "status", "nextAttemptAt"), "status = 'pending'"),
        "cf_swarms": (("id", "user_id", "scheduler_owner", "scheduler_epoch", "scheduler_until"), _ANY),
        "cf_memory_store": (("id", "user_id", "expires_at"), "expires_at <= now()"),
    }
)
"""Table → the columns that may be looked up before the tenant is known, and in which rows."""

DISPATCH_LEASES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "agentSessions": ("leaseOwner", "leaseUntil"),
        "cf_swarms": ("scheduler_owner", "scheduler_until"),
    }
)
"""Table → the lease columns that a worker renews for all its rows at once."""

DISPATCH_SWEEPS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "sessions": ("expiresAt", '"expiresAt" <= now()'),
        "cf_memory_store": ("expires_at", "expires_at <= now()"),
    }
)
"""Table → the column that says when a row's time is over, and the rows that may be removed because it is."""

ENGINE_TABLES = ("pgqueuer", "pgqueuer_log", "pgqueuer_schedules", "pgqueuer_statistics")
"""The job engine's; they hold ids only and belong to no tenant."""

WORKER_TABLE = "workers"
"""What processes are at work; of no tenant, and of no tenant's business."""

EXEMPT_TABLES = frozenset({*ENGINE_TABLES, WORKER_TABLE, "alembic_version"})
"""Tables without a tenant. Any other table must have one."""


def owner_columns() -> dict[str, str]:
    """Return table name → tenant column for every tenant table, from the models and never from a column's name."""
    owners: dict[str, str] = {}
    for mapper in Base.registry.mappers:
        owner: str | None = mapper.class_.owner_column
        table = mapper.local_table
        if owner is not None and isinstance(table, Table):
            owners[table.name] = owner
    return dict(sorted(owners.items()))


def tenant_condition(owner: str) -> str:
    """Return the policy's expression; after one transaction the setting is an empty string, not NULL."""
    return f"\"{owner}\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)"


def security_statements() -> list[str]:
    """Return every GRANT, POLICY and trigger that our freshly created tables need, one statement each."""
    return [*_tenant_statements(), *_dispatch_statements(), *_admin_statements(), *_audit_trigger()]


def engine_statements() -> list[str]:
    """Return every GRANT that the job engine's freshly created tables need."""
    return list(_engine_statements())


def _tenant_statements() -> Iterator[str]:
    for table, owner in owner_columns().items():
        condition = tenant_condition(owner)
        yield f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY'
        yield f'ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY'
        yield f'CREATE POLICY tenant ON "{table}" TO {RUNTIME} USING ({condition}) WITH CHECK ({condition})'
        yield f'GRANT {RUNTIME_GRANTS.get(table, _EVERYTHING)} ON "{table}" TO {RUNTIME}'


def _columns(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _dispatch_statements() -> Iterator[str]:
    for table, (columns, rows) in DISPATCH_READS.items():
        yield f'GRANT SELECT ({_columns(columns)}) ON "{table}" TO {DISPATCH}'
        yield f'CREATE POLICY dispatch_read ON "{table}" FOR SELECT TO {DISPATCH} USING ({rows})'
    for table, columns in DISPATCH_LEASES.items():
        yield f'GRANT UPDATE ({_columns(columns)}) ON "{table}" TO {DISPATCH}'
        yield f'CREATE POLICY dispatch_lease ON "{table}" FOR UPDATE TO {DISPATCH} USING (true)'
    for table, (column, rows) in DISPATCH_SWEEPS.items():
        yield f'GRANT DELETE, UPDATE ("{column}") ON "{table}" TO {DISPATCH}'
        yield f'CREATE POLICY dispatch_sweep ON "{table}" FOR DELETE TO {DISPATCH} USING ({rows})'
        # SELECT FOR UPDATE SKIP LOCKED asks for a column's UPDATE and passes through UPDATE policies; what is over
        # stays over, because the same condition holds for the changed row.
        yield f'CREATE POLICY dispatch_sweep_lock ON "{table}" FOR UPDATE TO {DISPATCH} USING ({rows})'
    yield f"GRANT {_EVERYTHING} ON {WORKER_TABLE} TO {DISPATCH}"
    yield f'GRANT INSERT ON "auditLogs" TO {DISPATCH}'
    yield f'CREATE POLICY system_audit ON "auditLogs" FOR INSERT TO {DISPATCH}, {ADMIN} WITH CHECK ("userId" IS NULL)'


def _admin_statements() -> Iterator[str]:
    readable = _columns(("id", "username", "email", "role", "createdAt"))
    yield f"GRANT SELECT ({readable}), INSERT, DELETE ON users TO {ADMIN}"
    yield f"CREATE POLICY admin_read ON users FOR SELECT TO {ADMIN} USING (true)"
    yield f"CREATE POLICY admin_add ON users FOR INSERT TO {ADMIN} WITH CHECK (true)"
    yield f"CREATE POLICY admin_remove ON users FOR DELETE TO {ADMIN} USING (true)"
    yield f'GRANT INSERT ON "auditLogs" TO {ADMIN}'


def _engine_statements() -> Iterator[str]:
    """Let a tenant enqueue ids and nothing more: it cannot read a payload, not even its own."""
    for table in ENGINE_TABLES:
        yield f"GRANT {_EVERYTHING} ON {table} TO {DISPATCH}"
        yield f"GRANT USAGE ON SEQUENCE {table}_id_seq TO {DISPATCH}"
    for table in ("pgqueuer", "pgqueuer_log"):
        yield f"GRANT INSERT ON {table} TO {RUNTIME}"
        yield f"GRANT USAGE ON SEQUENCE {table}_id_seq TO {RUNTIME}"
    # `status` because ON CONFLICT names the partial unique index by its predicate, which reads it.
    yield f"GRANT SELECT (id, entrypoint, priority, dedupe_key, status) ON pgqueuer TO {RUNTIME}"


def _audit_trigger() -> Iterator[str]:
    """Stop even the owner of the table: an audit trail that can be edited is none."""
    yield """
        CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'auditLogs is append-only' USING ERRCODE = 'insufficient_privilege';
        END $$
    """
    yield """
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON "auditLogs"
        FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()
    """


async def ensure_roles(connection: RawConnection) -> None:
    """Create the three roles where they are missing and let the current login switch to them.

    Safe under concurrency: roles are shared by all databases of a cluster, and another one may create them right now.
    """
    for role in (RUNTIME, DISPATCH, ADMIN):
        await connection.execute(
            f"""
            DO $$ BEGIN
                CREATE ROLE {role} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END $$
            """
        )
        await _let_login_switch(connection, role)


_GRANT_ATTEMPTS = 3
"""A grant that loses against another one at the same moment is looked at again: the winner may have meant less."""


async def _let_login_switch(connection: RawConnection, role: str) -> None:
    """Grant membership without inheritance, so that a forgotten door gives no rights (16+; on 15 the login decides)."""
    version: int = await connection.fetchval("SELECT current_setting('server_version_num')::int")
    right, option = ("SET", " WITH INHERIT FALSE, SET TRUE") if version >= 160000 else ("MEMBER", "")
    for _ in range(_GRANT_ATTEMPTS):
        if await connection.fetchval("SELECT pg_has_role(current_user, $1, $2)", role, right):
            return
        # Before 16 nothing orders two grants of the same membership, and the second fails on its key.
        await connection.execute(
            f"""
            DO $$ BEGIN
                GRANT {role} TO CURRENT_USER{option};
            EXCEPTION WHEN unique_violation THEN NULL;
            END $$
            """
        )


async def role_problems(connection: RawConnection) -> list[str]:
    """Return what is wrong with the roles, empty when each of them is as harmless as it must be."""
    rows: list[Any] = await connection.fetch(
        """
        SELECT r.rolname,
               r.rolsuper OR r.rolbypassrls OR r.rolcanlogin OR r.rolcreaterole OR r.rolcreatedb AS powerful,
               EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid) AS owns,
               pg_has_role(current_user, r.oid, 'MEMBER') AS ours
        FROM pg_roles r WHERE r.rolname = ANY($1)
        """,
        [RUNTIME, DISPATCH, ADMIN],
    )
    found = {row["rolname"]: row for row in rows}
    problems: list[str] = []
    for role in (RUNTIME, DISPATCH, ADMIN):
        if role not in found:
            problems.append(f"role {role} is missing")
            continue
        row = found[role]
        if row["powerful"]:
            problems.append(f"role {role} may bypass row-level security, log in, or create roles")
        if row["owns"]:
            problems.append(f"role {role} owns a table")
        if not row["ours"]:
            problems.append(f"the login is not a member of {role}")
    return problems
