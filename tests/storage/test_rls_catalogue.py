"""The catalogue gate: plain SQL that must find nothing on a migrated database, and something on each broken one.

Tenant tables come from the registry, never from a column's name; a table that is neither there nor exempt fails.
"""

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from storage.engine import RawConnection
from storage.security import EXEMPT_TABLES, owner_columns, tenant_condition
from storage.tenancy import ADMIN, DISPATCH, RUNTIME
from tests.schema.rows import World

SEARCHED_BEFORE_THE_OWNER_IS_KNOWN = (
    "users.username",
    "users.email",
    "apiKeys.keyPrefix",
    "userWebhooks.webhookToken",
)
"""Unique across all tenants, because the owner is what they are looked up for."""

ONLY_TO_THEMSELVES = ("fk_agencyTasks_assignedTo",)
"""Names a user without the owner; a CHECK holds it to the owner (see tests/schema)."""

GIVEN = """
    WITH tenant AS (
        SELECT c.oid, c.relname, t.owner, a.attnum AS owner_number, c.relrowsecurity, c.relforcerowsecurity
        FROM unnest($1::text[], $2::text[]) AS t (name, owner)
            JOIN pg_class c ON c.relname = t.name AND c.relkind IN ('r', 'p')
                AND c.relnamespace = 'public'::regnamespace
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = t.owner
    ), role AS (SELECT * FROM pg_roles WHERE rolname = ANY ($3::text[])),
    exempt AS (SELECT unnest($4::text[]) AS name), global_key AS (SELECT unnest($5::text[]) AS name),
    bare_key AS (SELECT unnest($6::text[]) AS name), condition AS (SELECT $7::text AS expected)
"""

RULES: Mapping[str, str] = MappingProxyType(
    {
        "a table has a tenant or is exempt": """
            SELECT c.relname FROM pg_class c
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'f')
                AND c.oid NOT IN (SELECT oid FROM tenant) AND c.relname NOT IN (SELECT name FROM exempt)
        """,
        "every registered table is there with its owner column": """
            SELECT name FROM unnest($1::text[]) AS t (name) WHERE name NOT IN (SELECT relname FROM tenant)
        """,
        "row-level security is enabled": "SELECT relname FROM tenant WHERE NOT relrowsecurity",
        "row-level security is forced": "SELECT relname FROM tenant WHERE NOT relforcerowsecurity",
        "tenants pass one policy only, with one expression": """
            SELECT tenant.relname || '.' || coalesce(p.polname, '(no policy)')
            FROM tenant CROSS JOIN condition
                LEFT JOIN pg_policy p ON p.polrelid = tenant.oid
                    AND p.polroles && ARRAY[0::oid, (SELECT oid FROM role WHERE rolname = 'agency_runtime')]
            WHERE p.oid IS NULL OR p.polname <> 'tenant' OR NOT p.polpermissive OR p.polcmd <> '*'
                OR pg_get_expr(p.polqual, p.polrelid) <> replace(expected, '?', quote_ident(tenant.owner))
                OR pg_get_expr(p.polwithcheck, p.polrelid) <> replace(expected, '?', quote_ident(tenant.owner))
        """,
        "no policy is for everybody": """
            SELECT p.polrelid::regclass || '.' || p.polname FROM pg_policy p WHERE 0 = ANY (p.polroles)
        """,
        "a view has the rights of who reads it": """
            SELECT c.relname FROM pg_class c
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'v'
                AND NOT coalesce(c.reloptions, '{}') && ARRAY['security_invoker=true', 'security_invoker=on',
                                                              'security_invoker=1', 'security_invoker=yes']
        """,
        "there are no materialised views": """
            SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'm'
        """,
        "no role executes a function with its owner's rights": """
            SELECT role.rolname || ': ' || p.proname FROM pg_proc p CROSS JOIN role
            WHERE p.prosecdef AND has_function_privilege(role.oid, p.oid, 'EXECUTE')
        """,
        "no role truncates, refers or sets triggers": """
            SELECT role.rolname || ': ' || right_ || ' on ' || c.relname
            FROM pg_class c CROSS JOIN role CROSS JOIN unnest(ARRAY['TRUNCATE', 'REFERENCES', 'TRIGGER']) AS right_
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
                AND has_table_privilege(role.oid, c.oid, right_)
        """,
        "no role makes anything": """
            SELECT role.rolname || ': schema ' || n.nspname FROM pg_namespace n CROSS JOIN role
            WHERE has_schema_privilege(role.oid, n.oid, 'CREATE')
            UNION ALL
            SELECT role.rolname || ': database' FROM role
            WHERE has_database_privilege(role.oid, current_database(), 'CREATE')
        """,
        "no role sets a sequence": """
            SELECT role.rolname || ': ' || c.relname FROM pg_class c CROSS JOIN role
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'S'
                AND has_sequence_privilege(role.oid, c.oid, 'UPDATE')
        """,
        "a foreign key between tenant tables carries the owner of both": """
            SELECT k.conname FROM pg_constraint k
                JOIN tenant source ON source.oid = k.conrelid JOIN tenant target ON target.oid = k.confrelid
            WHERE k.contype = 'f' AND k.conname NOT IN (SELECT name FROM bare_key)
                AND NOT EXISTS (
                    SELECT FROM generate_subscripts(k.conkey, 1) i
                    WHERE k.conkey[i] = source.owner_number AND k.confkey[i] = target.owner_number)
        """,
        "a foreign key that empties leaves the owner": """
            SELECT k.conname FROM pg_constraint k JOIN tenant source ON source.oid = k.conrelid
            WHERE k.contype = 'f' AND k.confdeltype IN ('n', 'd')
                AND source.owner_number = ANY (coalesce(k.confdelsetcols, k.conkey))
        """,
        "a unique key leads with the owner": """
            SELECT name FROM (
                SELECT tenant.relname || '.' || coalesce(a.attname, '(expression)') AS name
                FROM pg_index i JOIN tenant ON tenant.oid = i.indrelid
                    LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                WHERE i.indisunique AND NOT i.indisprimary AND i.indkey[0] <> tenant.owner_number) key
            WHERE name NOT IN (SELECT name FROM global_key)
        """,
        "a role is harmless": """
            SELECT rolname FROM role
            WHERE rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole OR rolcreatedb OR rolreplication
        """,
        "all three roles exist": """
            SELECT name FROM unnest($3::text[]) AS r (name) WHERE name NOT IN (SELECT rolname FROM role)
        """,
        "a role owns nothing": """
            SELECT role.rolname || ': ' || c.relname FROM pg_class c JOIN role ON role.oid = c.relowner
            UNION ALL
            SELECT role.rolname || ': ' || p.proname FROM pg_proc p JOIN role ON role.oid = p.proowner
            UNION ALL
            SELECT role.rolname || ': ' || n.nspname FROM pg_namespace n JOIN role ON role.oid = n.nspowner
        """,
        "a role is no member of another": """
            SELECT role.rolname || ' of ' || m.roleid::regrole FROM pg_auth_members m JOIN role ON role.oid = m.member
        """,
    }
)
"""What holds → the query for what breaks it."""

INHERITED = """
    SELECT m.member::regrole || ' of ' || role.rolname FROM pg_auth_members m JOIN role ON role.oid = m.roleid
    WHERE m.inherit_option
"""
"""Memberships that give rights without a door. Before 16 the login's own flag decides, which is not ours."""

_PROBE = """
    CREATE TEMPORARY TABLE probe ("?" bigint);
    ALTER TABLE probe ENABLE ROW LEVEL SECURITY;
    CREATE POLICY probe ON probe USING ({condition})
"""


async def _policy_expression(connection: RawConnection) -> str:
    """Return the policy's expression as this server prints it, with `?` for the owner column."""
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        await connection.execute(_PROBE.format(condition=tenant_condition("?")))
        printed = await connection.fetchval(
            "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = 'probe'::regclass"
        )
    finally:
        await savepoint.rollback()
    return str(printed).replace('"?"', "?")


async def gate(connection: RawConnection) -> list[str]:
    """Return what breaks which rule, one line each. The connection is inside a transaction."""
    owners = owner_columns()
    arguments = (
        list(owners),
        list(owners.values()),
        [RUNTIME, DISPATCH, ADMIN],
        list(EXEMPT_TABLES),
        list(SEARCHED_BEFORE_THE_OWNER_IS_KNOWN),
        list(ONLY_TO_THEMSELVES),
        await _policy_expression(connection),
    )
    version = await connection.fetchval("SELECT current_setting('server_version_num')::int")
    rules = dict(RULES) if version < 160000 else {**RULES, "no membership is inherited": INHERITED}
    found: list[str] = []
    for rule, query in rules.items():
        rows = await connection.fetch(GIVEN + query, *arguments)
        found += sorted(f"{rule}: {row[0]}" for row in rows)
    return found


async def test_the_gate_finds_nothing(world: World) -> None:
    assert await gate(world.connection) == []


BREAKS = {
    "a table of nobody": ("CREATE TABLE notes (id bigint)", "a table has a tenant or is exempt: notes"),
    "a table of nobody with an owner column": (
        'CREATE TABLE notes (id bigint, "userId" bigint)',
        "a table has a tenant or is exempt: notes",
    ),
    "a table that is gone": (
        "DROP TABLE documents",
        "every registered table is there with its owner column: documents",
    ),
    "RLS disabled": ("ALTER TABLE documents DISABLE ROW LEVEL SECURITY", "row-level security is enabled: documents"),
    "RLS not forced": ("ALTER TABLE documents NO FORCE ROW LEVEL SECURITY", "row-level security is forced: documents"),
    "no policy": (
        "DROP POLICY tenant ON documents",
        "tenants pass one policy only, with one expression: documents.(no policy)",
    ),
    "another expression": (
        "ALTER POLICY tenant ON documents WITH CHECK (true)",
        "tenants pass one policy only, with one expression: documents.tenant",
    ),
    "a second policy": (
        "CREATE POLICY extra ON documents FOR SELECT TO agency_runtime USING (true)",
        "tenants pass one policy only, with one expression: documents.extra",
    ),
    "a policy for everybody": (
        "CREATE POLICY extra ON pgqueuer USING (true)",
        "no policy is for everybody: pgqueuer.extra",
    ),
    "a view of its owner": (
        "CREATE VIEW everyone AS SELECT username FROM users",
        "a view has the rights of who reads it: everyone",
    ),
    "a materialised view": (
        "CREATE MATERIALIZED VIEW everyone AS SELECT username FROM users",
        "there are no materialised views: everyone",
    ),
    "a function with its owner's rights": (
        "CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM users'",
        "no role executes a function with its owner's rights: agency_runtime: peek",
    ),
    "TRUNCATE": (
        "GRANT TRUNCATE ON documents TO agency_runtime",
        "no role truncates, refers or sets triggers: agency_runtime: TRUNCATE on documents",
    ),
    "a role that makes things": (
        "CREATE SCHEMA workshop; GRANT CREATE ON SCHEMA workshop TO agency_dispatch",
        "no role makes anything: agency_dispatch: schema workshop",
    ),
    "a role that sets a sequence": (
        "GRANT UPDATE ON SEQUENCE documents_id_seq TO agency_runtime",
        "no role sets a sequence: agency_runtime: documents_id_seq",
    ),
    "a foreign key without the owner": (
        'ALTER TABLE documents ADD CONSTRAINT bare FOREIGN KEY (size) REFERENCES "clientProfiles" (id)',
        "a foreign key between tenant tables carries the owner of both: bare",
    ),
    "a foreign key whose owners are crossed": (
        """ALTER TABLE documents ADD CONSTRAINT crossed
           FOREIGN KEY (size, "userId") REFERENCES "clientProfiles" ("userId", id)""",
        "a foreign key between tenant tables carries the owner of both: crossed",
    ),
    "a foreign key that empties the owner": (
        """ALTER TABLE documents ADD CONSTRAINT emptying
           FOREIGN KEY ("userId", size) REFERENCES "clientProfiles" ("userId", id) ON DELETE SET NULL""",
        "a foreign key that empties leaves the owner: emptying",
    ),
    "a unique key over all tenants": (
        'CREATE UNIQUE INDEX ON documents ("s3Key", "userId")',
        "a unique key leads with the owner: documents.s3Key",
    ),
    "a unique expression": (
        "CREATE UNIQUE INDEX ON documents (lower(filename))",
        "a unique key leads with the owner: documents.(expression)",
    ),
    "a role that logs in": ("ALTER ROLE agency_runtime LOGIN", "a role is harmless: agency_runtime"),
    "a role that makes databases": ("ALTER ROLE agency_admin CREATEDB", "a role is harmless: agency_admin"),
    "a role that owns": (
        "GRANT CREATE ON SCHEMA public TO agency_runtime; ALTER TABLE documents OWNER TO agency_runtime",
        "a role owns nothing: agency_runtime: documents",
    ),
    "a role inside another": (
        "GRANT agency_dispatch TO agency_runtime",
        "a role is no member of another: agency_runtime of agency_dispatch",
    ),
}


@pytest.mark.parametrize(("statement", "told"), BREAKS.values(), ids=BREAKS.keys())
async def test_the_gate_finds_what_is_broken(world: World, statement: str, told: str) -> None:
    """Roles belong to the cluster and others use them: what is done to them here is never committed."""
    await world.connection.execute(statement)
    assert told in await gate(world.connection)


async def test_the_gate_finds_rights_without_a_door(world: World) -> None:
    if await world.connection.fetchval("SELECT current_setting('server_version_num')::int") < 160000:
        pytest.skip("before 16 a membership does not say whether it is inherited")
    login = await world.connection.fetchval("SELECT quote_ident(session_user)")
    await world.connection.execute("GRANT agency_admin TO CURRENT_USER WITH INHERIT TRUE")
    assert f"no membership is inherited: {login} of agency_admin" in await gate(world.connection)
