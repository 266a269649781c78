"""Add what the runtime keeps: approvals, blobs, live text, definitions, workers, tool servers, limits, forks.

Revision: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


SECURITY = [
    'ALTER TABLE "agentDefinitions" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "agentDefinitions" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"agentDefinitions\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "agentDefinitions" TO agency_runtime',
    'ALTER TABLE "agentDeltas" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "agentDeltas" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"agentDeltas\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "agentDeltas" TO agency_runtime',
    'ALTER TABLE "agentReaders" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "agentReaders" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"agentReaders\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "agentReaders" TO agency_runtime',
    'ALTER TABLE "approvals" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "approvals" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"approvals\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "approvals" TO agency_runtime',
    'ALTER TABLE "blobs" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "blobs" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"blobs\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "blobs" TO agency_runtime',
    'ALTER TABLE "mcpServers" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "mcpServers" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"mcpServers\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "mcpServers" TO agency_runtime',
    'ALTER TABLE "toolOutbox" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "toolOutbox" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"toolOutbox\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "toolOutbox" TO agency_runtime',
    'GRANT SELECT ("id", "userId", "executionId", "status", "expiresAt") ON "approvals" TO agency_dispatch',
    "CREATE POLICY dispatch_read ON \"approvals\" FOR SELECT TO agency_dispatch USING (status = 'pending')",
    'GRANT SELECT ("id", "userId", "toolName", "status", "nextAttemptAt") ON "toolOutbox" TO agency_dispatch',
    "CREATE POLICY dispatch_read ON \"toolOutbox\" FOR SELECT TO agency_dispatch USING (status = 'pending')",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON workers TO agency_dispatch",
    'GRANT SELECT ("waitingFor", "pausedAt", "cancelRequestedAt", "deadline") ON "agentExecutions" TO agency_dispatch',
]

LINKS = (
    ("agentExecutions", "fk_agentExecutions_userId_parentExecutionId"),
    ("agentSessions", "fk_agentSessions_userId_parentSessionId"),
    ("toolExecutions", "fk_toolExecutions_userId_resultBlobId"),
)
"""Foreign keys of columns that were just added, so no row has a value to check."""

EMPTY_COLUMN = "-- squawk-ignore constraint-missing-not-valid"


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("agents", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("tools", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("startedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seenAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "agentDefinitions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("instructions", sa.Text(), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=True),
        sa.Column("tools", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("outputSchema", postgresql.JSONB(), nullable=True),
        sa.Column("limits", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updatedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_agentDefinitions_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agentDefinitions")),
        sa.UniqueConstraint("userId", "name", name=op.f("uq_agentDefinitions_userId_name")),
    )
    op.create_table(
        "blobs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("contentType", sa.String(length=100), nullable=False),
        sa.Column("sizeBytes", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_blobs_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blobs")),
        sa.UniqueConstraint("userId", "id", name=op.f("uq_blobs_userId_id")),
    )
    op.create_table(
        "mcpServers",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("transport", sa.String(length=20), nullable=False),
        sa.Column("command", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("secretSealed", sa.Text(), nullable=True),
        sa.Column("pins", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("isActive", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updatedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("\"transport\" IN ('stdio', 'http')", name=op.f("ck_mcpServers_transport")),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_mcpServers_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mcpServers")),
        sa.UniqueConstraint("userId", "name", name=op.f("uq_mcpServers_userId_name")),
    )
    op.create_table(
        "agentDeltas",
        sa.Column("userId", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sessionId", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("offset", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["userId", "sessionId"],
            ["agentSessions.userId", "agentSessions.id"],
            name=op.f("fk_agentDeltas_userId_sessionId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_agentDeltas_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("userId", "sessionId", "seq", "epoch", "offset", name=op.f("pk_agentDeltas")),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "agentReaders",
        sa.Column("userId", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sessionId", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seenAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["userId", "sessionId"],
            ["agentSessions.userId", "agentSessions.id"],
            name=op.f("fk_agentReaders_userId_sessionId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_agentReaders_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("userId", "sessionId", name=op.f("pk_agentReaders")),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "approvals",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("executionId", sa.BigInteger(), nullable=False),
        sa.Column("toolUseId", sa.String(length=255), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("toolName", sa.String(length=100), nullable=False),
        sa.Column("requestHash", sa.String(length=64), nullable=False),
        sa.Column("payload", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("requestedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expiresAt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decidedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decidedBy", sa.String(length=255), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'granted', 'denied', 'expired', 'used')", name=op.f("ck_approvals_status")
        ),
        sa.ForeignKeyConstraint(
            ["userId", "executionId"],
            ["agentExecutions.userId", "agentExecutions.id"],
            name=op.f("fk_approvals_userId_executionId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_approvals_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
        sa.UniqueConstraint(
            "userId",
            "executionId",
            "toolUseId",
            "attempt",
            name=op.f("uq_approvals_userId_executionId_toolUseId_attempt"),
        ),
    )
    op.create_index(
        "ix_approvals_expiresAt",
        "approvals",
        ["expiresAt"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "toolOutbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("executionId", sa.BigInteger(), nullable=False),
        sa.Column("toolUseId", sa.String(length=255), nullable=False),
        sa.Column("toolName", sa.String(length=100), nullable=False),
        sa.Column("arguments", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("nextAttemptAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("result", postgresql.JSONB(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("\"status\" IN ('pending', 'delivered', 'failed')", name=op.f("ck_toolOutbox_status")),
        sa.ForeignKeyConstraint(
            ["userId", "executionId"],
            ["agentExecutions.userId", "agentExecutions.id"],
            name=op.f("fk_toolOutbox_userId_executionId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_toolOutbox_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_toolOutbox")),
        sa.UniqueConstraint(
            "userId", "executionId", "toolUseId", name=op.f("uq_toolOutbox_userId_executionId_toolUseId")
        ),
    )
    op.create_index(
        "ix_toolOutbox_nextAttemptAt",
        "toolOutbox",
        ["nextAttemptAt"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.add_column("agentExecutions", sa.Column("definitionHash", sa.String(length=64), nullable=True))
    op.add_column("agentExecutions", sa.Column("parentExecutionId", sa.BigInteger(), nullable=True))
    op.add_column("agentExecutions", sa.Column("pausedAt", sa.DateTime(timezone=True), nullable=True))
    op.add_column("agentExecutions", sa.Column("deadline", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "agentExecutions",
        sa.Column("limits", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    op.add_column("agentExecutions", sa.Column("toolCalls", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "agentExecutions", sa.Column("reservedTokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column(
        "agentExecutions", sa.Column("reservedCostMicros", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column(
        "agentExecutions", sa.Column("unsettledTokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column(
        "agentExecutions",
        sa.Column("unsettledCostMicros", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_index(
        "ix_agentExecutions_userId_parentExecutionId",
        "agentExecutions",
        ["userId", "parentExecutionId"],
        unique=False,
        postgresql_where=sa.text('"parentExecutionId" IS NOT NULL'),
    )
    op.create_foreign_key(
        op.f("fk_agentExecutions_userId_parentExecutionId"),
        "agentExecutions",
        "agentExecutions",
        ["userId", "parentExecutionId"],
        ["userId", "id"],
        ondelete='SET NULL ("parentExecutionId")',
        postgresql_not_valid=True,
    )
    op.add_column("agentSessions", sa.Column("parentSessionId", sa.BigInteger(), nullable=True))
    op.add_column("agentSessions", sa.Column("parentSeq", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_agentSessions_userId_parentSessionId",
        "agentSessions",
        ["userId", "parentSessionId"],
        unique=False,
        postgresql_where=sa.text('"parentSessionId" IS NOT NULL'),
    )
    op.create_foreign_key(
        op.f("fk_agentSessions_userId_parentSessionId"),
        "agentSessions",
        "agentSessions",
        ["userId", "parentSessionId"],
        ["userId", "id"],
        ondelete="CASCADE",
        postgresql_not_valid=True,
    )
    op.add_column("toolExecutions", sa.Column("resultBlobId", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_toolExecutions_userId_resultBlobId",
        "toolExecutions",
        ["userId", "resultBlobId"],
        unique=False,
        postgresql_where=sa.text('"resultBlobId" IS NOT NULL'),
    )
    op.create_foreign_key(
        op.f("fk_toolExecutions_userId_resultBlobId"),
        "toolExecutions",
        "blobs",
        ["userId", "resultBlobId"],
        ["userId", "id"],
        ondelete='SET NULL ("resultBlobId")',
        postgresql_not_valid=True,
    )

    for table, name in LINKS:
        op.execute(f'{EMPTY_COLUMN}\nALTER TABLE "{table}" VALIDATE CONSTRAINT "{name}"')
    for statement in SECURITY:
        op.execute(statement)


def downgrade() -> None:
    op.execute(
        'REVOKE SELECT ("waitingFor", "pausedAt", "cancelRequestedAt", "deadline") ON "agentExecutions" FROM agency_dispatch'
    )
    op.drop_constraint(op.f("fk_toolExecutions_userId_resultBlobId"), "toolExecutions", type_="foreignkey")
    op.drop_index(
        "ix_toolExecutions_userId_resultBlobId",
        table_name="toolExecutions",
        postgresql_where=sa.text('"resultBlobId" IS NOT NULL'),
    )
    op.drop_column("toolExecutions", "resultBlobId")
    op.drop_constraint(op.f("fk_agentSessions_userId_parentSessionId"), "agentSessions", type_="foreignkey")
    op.drop_index(
        "ix_agentSessions_userId_parentSessionId",
        table_name="agentSessions",
        postgresql_where=sa.text('"parentSessionId" IS NOT NULL'),
    )
    op.drop_column("agentSessions", "parentSeq")
    op.drop_column("agentSessions", "parentSessionId")
    op.drop_constraint(op.f("fk_agentExecutions_userId_parentExecutionId"), "agentExecutions", type_="foreignkey")
    op.drop_index(
        "ix_agentExecutions_userId_parentExecutionId",
        table_name="agentExecutions",
        postgresql_where=sa.text('"parentExecutionId" IS NOT NULL'),
    )
    op.drop_column("agentExecutions", "unsettledCostMicros")
    op.drop_column("agentExecutions", "unsettledTokens")
    op.drop_column("agentExecutions", "reservedCostMicros")
    op.drop_column("agentExecutions", "reservedTokens")
    op.drop_column("agentExecutions", "toolCalls")
    op.drop_column("agentExecutions", "limits")
    op.drop_column("agentExecutions", "deadline")
    op.drop_column("agentExecutions", "pausedAt")
    op.drop_column("agentExecutions", "parentExecutionId")
    op.drop_column("agentExecutions", "definitionHash")
    op.drop_index(
        "ix_toolOutbox_nextAttemptAt", table_name="toolOutbox", postgresql_where=sa.text("status = 'pending'")
    )
    op.drop_table("toolOutbox")
    op.drop_index("ix_approvals_expiresAt", table_name="approvals", postgresql_where=sa.text("status = 'pending'"))
    op.drop_table("approvals")
    op.drop_table("agentReaders")
    op.drop_table("agentDeltas")
    op.drop_table("mcpServers")
    op.drop_table("blobs")
    op.drop_table("agentDefinitions")
    op.drop_table("workers")
