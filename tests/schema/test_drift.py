"""The drift check: silent while migrations and declarations agree, and loud about every way in which they may not."""

from collections.abc import AsyncGenerator

import anyio.to_thread
import pytest
from sqlalchemy import Column, Integer, Table

from storage.base import Base
from storage.catalogue import catalogue, catalogue_hash
from storage.drift import EMPTY, build_declared, differences, main
from storage.engine import RawConnection, connect
from storage.testing import fresh_address

Catalogue = dict[str, list[str]]


@pytest.fixture(scope="module")
async def declared(server_dsn: str) -> Catalogue:
    """The catalogue of what the code declares."""
    async with fresh_address(server_dsn, EMPTY) as address:
        await build_declared(address)
        connection = await connect(address)
        try:
            return await catalogue(connection)
        finally:
            await connection.close()


@pytest.fixture(scope="module")
async def shared(server_dsn: str, template: str) -> AsyncGenerator[RawConnection]:
    """The owner's connection to the one migrated database of this module."""
    async with fresh_address(server_dsn, template) as address:
        connection = await connect(address)
        yield connection
        await connection.close()


@pytest.fixture
async def migrated(shared: RawConnection) -> AsyncGenerator[RawConnection]:
    """The same, inside a transaction that takes back what a test alters."""
    transaction = shared.transaction()
    await transaction.start()
    yield shared
    await transaction.rollback()


async def test_the_migrations_amount_to_what_the_code_declares(migrated: RawConnection, declared: Catalogue) -> None:
    assert differences(await catalogue(migrated), declared) == []


async def in_a_thread(server_dsn: str) -> int:
    """Run the command where it may have an event loop of its own."""
    return await anyio.to_thread.run_sync(main, ["--server", server_dsn])


async def test_the_command_succeeds_when_there_is_no_drift(server_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await in_a_thread(server_dsn) == 0
    assert "the migrations amount to what the code declares" in capsys.readouterr().out


async def test_the_command_fails_and_names_a_table_without_a_migration(
    server_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stray = Table("strayNotes", Base.metadata, Column("id", Integer, primary_key=True))
    try:
        assert await in_a_thread(server_dsn) == 1
    finally:
        Base.metadata.remove(stray)
    written = capsys.readouterr().out
    assert '+ tables: "strayNotes": table' in written
    assert "alembic: ('add_table'" in written


ALTERATIONS = {
    "the text of a policy": ("ALTER POLICY tenant ON documents USING (true)", "- policies: documents.tenant"),
    "the role of a policy": ("ALTER POLICY tenant ON documents TO PUBLIC", "- policies: documents.tenant"),
    "a policy too many": ("CREATE POLICY extra ON documents FOR SELECT USING (true)", "- policies: documents.extra"),
    "a policy too few": ("DROP POLICY dispatch_read ON users", "+ policies: users.dispatch_read"),
    "row-level security off": ("ALTER TABLE documents DISABLE ROW LEVEL SECURITY", "- tables: documents"),
    "row-level security not forced": ("ALTER TABLE documents NO FORCE ROW LEVEL SECURITY", "- tables: documents"),
    "the text of a CHECK": (
        """ALTER TABLE users DROP CONSTRAINT ck_users_role,
           ADD CONSTRAINT ck_users_role CHECK (role IN ('user', 'admin', 'superadmin', 'root'))""",
        "- constraints: users.ck_users_role",
    ),
    "a CHECK that is not validated": (
        """ALTER TABLE cf_memory_store DROP CONSTRAINT ck_cf_memory_store_ttl,
           ADD CONSTRAINT ck_cf_memory_store_ttl CHECK (ttl > 0) NOT VALID""",
        "- constraints: cf_memory_store.ck_cf_memory_store_ttl",
    ),
    "the action of a foreign key": (
        """ALTER TABLE sessions DROP CONSTRAINT "fk_sessions_userId",
           ADD CONSTRAINT "fk_sessions_userId" FOREIGN KEY ("userId") REFERENCES users (id)""",
        '- constraints: sessions."fk_sessions_userId"',
    ),
    "a dropped index": (
        "DROP INDEX idx_browser_sessions_user",
        '+ indexes: "browserSessions": CREATE INDEX idx_browser',
    ),
    "the predicate of a partial index": (
        """DROP INDEX "ix_outboundMessages_due";
           CREATE INDEX "ix_outboundMessages_due" ON "outboundMessages" ("nextAttemptAt") WHERE status = 'draft'""",
        '- indexes: "outboundMessages"',
    ),
    "an index that is no longer unique": (
        "DROP INDEX idx_users_email; CREATE INDEX idx_users_email ON users (email)",
        "- indexes: users: CREATE INDEX idx_users_email",
    ),
    "a grant too many": ("GRANT TRUNCATE ON documents TO agency_runtime", "- grants: relation documents: truncate"),
    "a grant to everybody": ("GRANT SELECT ON users TO PUBLIC", "- grants: relation users: select to PUBLIC"),
    "a grant on one column": (
        "GRANT SELECT (payload) ON pgqueuer TO agency_runtime",
        "- grants: column pgqueuer.payload: select to agency_runtime",
    ),
    "a grant that may be passed on": (
        "GRANT SELECT ON documents TO agency_runtime WITH GRANT OPTION",
        "- grants: relation documents: select to agency_runtime with grant option",
    ),
    "a grant too few": ("REVOKE DELETE ON documents FROM agency_runtime", "+ grants: relation documents: delete"),
    "a grant on a function revoked": (
        "REVOKE EXECUTE ON FUNCTION fn_pgqueuer_changed() FROM PUBLIC",
        "+ grants: function fn_pgqueuer_changed: execute to PUBLIC",
    ),
    "a grant on tables to come": (
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO agency_dispatch",
        "- grants: every new r: select to agency_dispatch",
    ),
    "a default": ('ALTER TABLE "userWebhooks" ALTER "responseDelay" SET DEFAULT 0', '- columns: "userWebhooks"'),
    "a default that is gone": ("ALTER TABLE cf_swarms ALTER status DROP DEFAULT", "- columns: cf_swarms.status"),
    "a column that may be empty": (
        "ALTER TABLE documents ALTER filename DROP NOT NULL",
        "- columns: documents.filename",
    ),
    "the length of a column": ('ALTER TABLE documents ALTER "s3Key" TYPE text', '- columns: documents."s3Key"'),
    "a column too many": ("ALTER TABLE documents ADD checksum text", "- columns: documents.checksum"),
    "the kind of an identity": (
        "ALTER TABLE documents ALTER id SET GENERATED ALWAYS",
        "- columns: documents.id: bigint not null identity always",
    ),
    "the expression of a generated column": (
        """ALTER TABLE documents DROP "searchVector";
           ALTER TABLE documents ADD "searchVector" tsvector
               GENERATED ALWAYS AS (to_tsvector('english', filename)) STORED""",
        '- columns: documents."searchVector"',
    ),
    "the fill factor": ('ALTER TABLE "agentSessions" RESET (fillfactor)', '- tables: "agentSessions"'),
    "a table that crashes away": ("ALTER TABLE documents SET UNLOGGED", "- tables: documents: table unlogged"),
    "the body of a function": (
        """CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql
           AS 'BEGIN RETURN NULL; END'""",
        "- functions: CREATE OR REPLACE FUNCTION public.audit_is_append_only()",
    ),
    "a function with its owner's rights": (
        "ALTER FUNCTION audit_is_append_only() SECURITY DEFINER",
        "- functions: CREATE OR REPLACE FUNCTION public.audit_is_append_only()",
    ),
    "a dropped trigger": ('DROP TRIGGER append_only ON "auditLogs"', '+ triggers: "auditLogs"'),
    "a disabled trigger": (
        'ALTER TABLE "auditLogs" DISABLE TRIGGER append_only',
        '- triggers: "auditLogs": CREATE TRIGGER append_only',
    ),
    "a view": ("CREATE VIEW everyone AS SELECT username FROM users", "- tables: everyone: view"),
    "a rule": ("CREATE RULE silent AS ON DELETE TO documents DO INSTEAD NOTHING", "- triggers: CREATE RULE silent"),
    "a type": ("CREATE TYPE colour AS ENUM ('red')", "- types: colour: enum 'red'"),
    "a label of a type": ("ALTER TYPE pgqueuer_status ADD VALUE 'lost'", "- types: pgqueuer_status: enum"),
    "a sequence": ("ALTER SEQUENCE documents_id_seq CACHE 100", "- sequences: documents_id_seq"),
}
"""What somebody might do to a database by hand, and the start of a line that must tell of it."""


@pytest.mark.parametrize(("statement", "told"), ALTERATIONS.values(), ids=ALTERATIONS.keys())
async def test_what_was_altered_by_hand_is_found(
    migrated: RawConnection, declared: Catalogue, statement: str, told: str
) -> None:
    await migrated.execute(statement)
    found = differences(await catalogue(migrated), declared)
    assert [line for line in found if line.startswith(told)], found


async def test_a_table_made_again_in_another_order_has_the_same_hash(migrated: RawConnection) -> None:
    before = catalogue_hash(await catalogue(migrated))
    await migrated.execute(
        """
        DROP INDEX idx_browser_sessions_status, idx_browser_sessions_user;
        CREATE INDEX idx_browser_sessions_user ON "browserSessions" ("userId");
        CREATE INDEX idx_browser_sessions_status ON "browserSessions" (status);
        ALTER TABLE "browserSessions" DROP "liveUrl", DROP "connectUrl";
        ALTER TABLE "browserSessions" ADD "connectUrl" text, ADD "liveUrl" text;
        """
    )
    assert catalogue_hash(await catalogue(migrated)) == before
