"""Create the tables, row-level security and grants.

Revision: 0001
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


SECURITY = [
    'ALTER TABLE "agencyTasks" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "agencyTasks" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"agencyTasks\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "agencyTasks" TO agency_runtime',
    'ALTER TABLE "agentExecutions" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "agentExecutions" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"agentExecutions\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "agentExecutions" TO agency_runtime',
    'ALTER TABLE "agentSessions" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "agentSessions" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"agentSessions\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "agentSessions" TO agency_runtime',
    'ALTER TABLE "agentSteps" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "agentSteps" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"agentSteps\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT ON "agentSteps" TO agency_runtime',
    'ALTER TABLE "apiKeys" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "apiKeys" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"apiKeys\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "apiKeys" TO agency_runtime',
    'ALTER TABLE "auditLogs" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "auditLogs" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"auditLogs\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT ON "auditLogs" TO agency_runtime',
    'ALTER TABLE "automationWorkflows" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "automationWorkflows" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"automationWorkflows\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "automationWorkflows" TO agency_runtime',
    'ALTER TABLE "botConversations" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "botConversations" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"botConversations\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "botConversations" TO agency_runtime',
    'ALTER TABLE "browserSessions" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "browserSessions" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"browserSessions\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "browserSessions" TO agency_runtime',
    'ALTER TABLE "cf_agents" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "cf_agents" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"cf_agents\" TO agency_runtime USING (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "cf_agents" TO agency_runtime',
    'ALTER TABLE "cf_memory_store" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "cf_memory_store" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"cf_memory_store\" TO agency_runtime USING (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "cf_memory_store" TO agency_runtime',
    'ALTER TABLE "cf_neural_patterns" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "cf_neural_patterns" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"cf_neural_patterns\" TO agency_runtime USING (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "cf_neural_patterns" TO agency_runtime',
    'ALTER TABLE "cf_session_history" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "cf_session_history" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"cf_session_history\" TO agency_runtime USING (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "cf_session_history" TO agency_runtime',
    'ALTER TABLE "cf_swarms" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "cf_swarms" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"cf_swarms\" TO agency_runtime USING (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "cf_swarms" TO agency_runtime',
    'ALTER TABLE "cf_task_assignments" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "cf_task_assignments" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"cf_task_assignments\" TO agency_runtime USING (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "cf_task_assignments" TO agency_runtime',
    'ALTER TABLE "cf_task_dependencies" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "cf_task_dependencies" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"cf_task_dependencies\" TO agency_runtime USING (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "cf_task_dependencies" TO agency_runtime',
    'ALTER TABLE "cf_tasks" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "cf_tasks" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"cf_tasks\" TO agency_runtime USING (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"user_id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "cf_tasks" TO agency_runtime',
    'ALTER TABLE "clientProfiles" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "clientProfiles" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"clientProfiles\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "clientProfiles" TO agency_runtime',
    'ALTER TABLE "documents" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "documents" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"documents\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "documents" TO agency_runtime',
    'ALTER TABLE "generatedProjects" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "generatedProjects" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"generatedProjects\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "generatedProjects" TO agency_runtime',
    'ALTER TABLE "idempotencyKeys" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "idempotencyKeys" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"idempotencyKeys\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT ON "idempotencyKeys" TO agency_runtime',
    'ALTER TABLE "inboundMessages" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "inboundMessages" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"inboundMessages\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "inboundMessages" TO agency_runtime',
    'ALTER TABLE "knowledgeEntries" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "knowledgeEntries" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"knowledgeEntries\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "knowledgeEntries" TO agency_runtime',
    'ALTER TABLE "outboundMessages" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "outboundMessages" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"outboundMessages\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "outboundMessages" TO agency_runtime',
    'ALTER TABLE "sessions" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "sessions" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"sessions\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "sessions" TO agency_runtime',
    'ALTER TABLE "toolExecutions" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "toolExecutions" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"toolExecutions\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "toolExecutions" TO agency_runtime',
    'ALTER TABLE "userProfiles" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "userProfiles" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"userProfiles\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "userProfiles" TO agency_runtime',
    'ALTER TABLE "userWebhooks" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "userWebhooks" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"userWebhooks\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "userWebhooks" TO agency_runtime',
    'ALTER TABLE "user_credits" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "user_credits" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"user_credits\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "user_credits" TO agency_runtime',
    'ALTER TABLE "users" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "users" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"users\" TO agency_runtime USING (\"id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"id\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, UPDATE (username, email, password, "isOnboarded", "stripeCustomerId", "subscriptionStatus") ON "users" TO agency_runtime',
    'ALTER TABLE "workflowExecutions" ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE "workflowExecutions" FORCE ROW LEVEL SECURITY',
    "CREATE POLICY tenant ON \"workflowExecutions\" TO agency_runtime USING (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint)) WITH CHECK (\"userId\" = (SELECT NULLIF(current_setting('app.user_id', true), '')::bigint))",
    'GRANT SELECT, INSERT, UPDATE, DELETE ON "workflowExecutions" TO agency_runtime',
    'GRANT SELECT ("id", "username", "email", "password") ON "users" TO agency_dispatch',
    'CREATE POLICY dispatch_read ON "users" FOR SELECT TO agency_dispatch USING (true)',
    'GRANT SELECT ("id", "userId", "expiresAt") ON "sessions" TO agency_dispatch',
    'CREATE POLICY dispatch_read ON "sessions" FOR SELECT TO agency_dispatch USING (true)',
    'GRANT SELECT ("id", "userId", "keyPrefix", "keyHash", "isActive", "expiresAt", "revokedAt") ON "apiKeys" TO agency_dispatch',
    'CREATE POLICY dispatch_read ON "apiKeys" FOR SELECT TO agency_dispatch USING (true)',
    'GRANT SELECT ("id", "userId", "webhookToken", "isActive") ON "userWebhooks" TO agency_dispatch',
    'CREATE POLICY dispatch_read ON "userWebhooks" FOR SELECT TO agency_dispatch USING (true)',
    'GRANT SELECT ("id", "userId", "leaseOwner", "leaseEpoch", "leaseUntil") ON "agentSessions" TO agency_dispatch',
    'CREATE POLICY dispatch_read ON "agentSessions" FOR SELECT TO agency_dispatch USING ("leaseOwner" IS NOT NULL)',
    'GRANT SELECT ("id", "userId", "sessionId", "status", "agentName", "runAfter", "createdAt") ON "agentExecutions" TO agency_dispatch',
    "CREATE POLICY dispatch_read ON \"agentExecutions\" FOR SELECT TO agency_dispatch USING (status IN ('pending', 'planning', 'executing'))",
    'GRANT SELECT ("id", "userId", "status", "nextAttemptAt") ON "outboundMessages" TO agency_dispatch',
    "CREATE POLICY dispatch_read ON \"outboundMessages\" FOR SELECT TO agency_dispatch USING (status = 'pending')",
    'GRANT SELECT ("id", "user_id", "scheduler_owner", "scheduler_epoch", "scheduler_until") ON "cf_swarms" TO agency_dispatch',
    'CREATE POLICY dispatch_read ON "cf_swarms" FOR SELECT TO agency_dispatch USING (true)',
    'GRANT SELECT ("id", "user_id", "expires_at") ON "cf_memory_store" TO agency_dispatch',
    'CREATE POLICY dispatch_read ON "cf_memory_store" FOR SELECT TO agency_dispatch USING (expires_at <= now())',
    'GRANT UPDATE ("leaseOwner", "leaseUntil") ON "agentSessions" TO agency_dispatch',
    'CREATE POLICY dispatch_lease ON "agentSessions" FOR UPDATE TO agency_dispatch USING (true)',
    'GRANT UPDATE ("scheduler_owner", "scheduler_until") ON "cf_swarms" TO agency_dispatch',
    'CREATE POLICY dispatch_lease ON "cf_swarms" FOR UPDATE TO agency_dispatch USING (true)',
    'GRANT DELETE, UPDATE ("expiresAt") ON "sessions" TO agency_dispatch',
    'CREATE POLICY dispatch_sweep ON "sessions" FOR DELETE TO agency_dispatch USING ("expiresAt" <= now())',
    'CREATE POLICY dispatch_sweep_lock ON "sessions" FOR UPDATE TO agency_dispatch USING ("expiresAt" <= now())',
    'GRANT DELETE, UPDATE ("expires_at") ON "cf_memory_store" TO agency_dispatch',
    'CREATE POLICY dispatch_sweep ON "cf_memory_store" FOR DELETE TO agency_dispatch USING (expires_at <= now())',
    'CREATE POLICY dispatch_sweep_lock ON "cf_memory_store" FOR UPDATE TO agency_dispatch USING (expires_at <= now())',
    'GRANT INSERT ON "auditLogs" TO agency_dispatch',
    'CREATE POLICY system_audit ON "auditLogs" FOR INSERT TO agency_dispatch, agency_admin WITH CHECK ("userId" IS NULL)',
    'GRANT SELECT ("id", "username", "email", "role", "createdAt"), INSERT, DELETE ON users TO agency_admin',
    "CREATE POLICY admin_read ON users FOR SELECT TO agency_admin USING (true)",
    "CREATE POLICY admin_add ON users FOR INSERT TO agency_admin WITH CHECK (true)",
    "CREATE POLICY admin_remove ON users FOR DELETE TO agency_admin USING (true)",
    'GRANT INSERT ON "auditLogs" TO agency_admin',
    """
    CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'auditLogs is append-only' USING ERRCODE = 'insufficient_privilege';
    END $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON "auditLogs"
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()
    """,
]


def upgrade() -> None:
    op.create_table(
        "auditLogs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=True),
        sa.Column("action", sa.String(length=100), nullable=False),
        sa.Column("entityType", sa.String(length=100), nullable=False),
        sa.Column("entityId", sa.String(length=100), nullable=True),
        sa.Column("oldValues", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("newValues", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("ipAddress", sa.String(length=45), nullable=True),
        sa.Column("userAgent", sa.Text(), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_auditLogs")),
    )
    op.create_index("ix_auditLogs_userId_createdAt", "auditLogs", ["userId", "createdAt"], unique=False)
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("username", sa.String(length=255), nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("email", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=50), server_default="user", nullable=False),
        sa.Column("isOnboarded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("stripeCustomerId", sa.String(length=255), nullable=True),
        sa.Column("subscriptionStatus", sa.String(length=50), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("\"role\" IN ('user', 'admin', 'superadmin')", name=op.f("ck_users_role")),
        sa.CheckConstraint("email = lower(email)", name=op.f("ck_users_email_lower")),
        sa.CheckConstraint("username = lower(username)", name=op.f("ck_users_username_lower")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index("idx_users_email", "users", ["email"], unique=True)
    op.create_index("idx_users_username", "users", ["username"], unique=True)
    op.create_table(
        "agentSessions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("sessionUuid", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("status", sa.String(length=50), server_default="idle", nullable=False),
        sa.Column(
            "context", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "thinkingSteps",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "toolHistory",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("currentPhase", sa.String(length=100), nullable=True),
        sa.Column("iterationCount", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("maxIterations", sa.Integer(), server_default=sa.text("100"), nullable=False),
        sa.Column("nextSeq", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("leaseOwner", sa.String(length=100), nullable=True),
        sa.Column("leaseEpoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("leaseUntil", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tokensIn", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tokensOut", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("costMicros", sa.BigInteger(), server_default=sa.text("0"), nullable=True),
        sa.Column(
            "limits", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updatedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "\"status\" IN ('idle', 'planning', 'executing', 'complete', 'error', 'paused')",
            name=op.f("ck_agentSessions_status"),
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_agentSessions_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agentSessions")),
        sa.UniqueConstraint("userId", "id", name=op.f("uq_agentSessions_userId_id")),
        sa.UniqueConstraint("userId", "sessionUuid", name=op.f("uq_agentSessions_userId_sessionUuid")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index("idx_agent_sessions_user", "agentSessions", ["userId"], unique=False)
    op.create_index(
        "ix_agentSessions_leaseUntil",
        "agentSessions",
        ["leaseUntil"],
        unique=False,
        postgresql_where=sa.text('"leaseOwner" IS NOT NULL'),
    )
    op.create_table(
        "apiKeys",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("keyHash", sa.Text(), nullable=False),
        sa.Column("keyPrefix", sa.String(length=20), nullable=False),
        sa.Column(
            "permissions",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("lastUsedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expiresAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("isActive", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("revokedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_apiKeys_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_apiKeys")),
        sa.UniqueConstraint("keyPrefix", name=op.f("uq_apiKeys_keyPrefix")),
    )
    op.create_index("ix_apiKeys_userId", "apiKeys", ["userId"], unique=False)
    op.create_table(
        "automationWorkflows",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column(
            "steps", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column(
            "config", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("isActive", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updatedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "searchVector",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, left(coalesce(\"name\", '') || ' ' || coalesce(\"description\", ''), 100000))",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["userId"], ["users.id"], name=op.f("fk_automationWorkflows_userId"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_automationWorkflows")),
        sa.UniqueConstraint("userId", "id", name=op.f("uq_automationWorkflows_userId_id")),
    )
    op.create_table(
        "browserSessions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("sessionId", sa.String(length=255), nullable=True),
        sa.Column("status", sa.String(length=50), server_default="active", nullable=False),
        sa.Column("liveUrl", sa.Text(), nullable=True),
        sa.Column("connectUrl", sa.Text(), nullable=True),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("startedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("endedAt", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("\"status\" IN ('active', 'completed', 'error')", name=op.f("ck_browserSessions_status")),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_browserSessions_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_browserSessions")),
    )
    op.create_index("idx_browser_sessions_status", "browserSessions", ["status"], unique=False)
    op.create_index("idx_browser_sessions_user", "browserSessions", ["userId"], unique=False)
    op.create_table(
        "cf_memory_store",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("namespace", sa.String(length=255), nullable=False),
        sa.Column("key_name", sa.String(length=255), nullable=False),
        sa.Column("value", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("ttl", sa.Integer(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "provenance", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "search_vector",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, left(coalesce(\"key_name\", '') || ' ' || coalesce(\"value\"::text, ''), 100000))",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.CheckConstraint("ttl > 0", name=op.f("ck_cf_memory_store_ttl")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_cf_memory_store_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cf_memory_store")),
        sa.UniqueConstraint(
            "user_id", "namespace", "key_name", name=op.f("uq_cf_memory_store_user_id_namespace_key_name")
        ),
        postgresql_with={"fillfactor": 80},
    )
    op.create_index(
        "ix_cf_memory_store_expires_at",
        "cf_memory_store",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_table(
        "cf_swarms",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("topology", sa.String(length=20), server_default="star", nullable=False),
        sa.Column("queen_mode", sa.String(length=20), server_default="centralized", nullable=False),
        sa.Column("max_agents", sa.Integer(), server_default=sa.text("8"), nullable=False),
        sa.Column("strategy", sa.String(length=20), server_default="adaptive", nullable=False),
        sa.Column("status", sa.String(length=20), server_default="initializing", nullable=False),
        sa.Column(
            "config", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("queen_agent_id", sa.String(length=255), nullable=True),
        sa.Column("scheduler_owner", sa.String(length=100), nullable=True),
        sa.Column("scheduler_epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("scheduler_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("\"queen_mode\" IN ('centralized', 'distributed')", name=op.f("ck_cf_swarms_queen_mode")),
        sa.CheckConstraint(
            "\"status\" IN ('initializing', 'active', 'paused', 'destroyed', 'archived')",
            name=op.f("ck_cf_swarms_status"),
        ),
        sa.CheckConstraint(
            "\"strategy\" IN ('balanced', 'specialized', 'adaptive')", name=op.f("ck_cf_swarms_strategy")
        ),
        sa.CheckConstraint(
            "\"topology\" IN ('hierarchical', 'mesh', 'ring', 'star')", name=op.f("ck_cf_swarms_topology")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_cf_swarms_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cf_swarms")),
        sa.UniqueConstraint("user_id", "id", name=op.f("uq_cf_swarms_user_id_id")),
    )
    op.create_index("ix_cf_swarms_queen_agent_id", "cf_swarms", ["queen_agent_id"], unique=False)
    op.create_table(
        "clientProfiles",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("brandVoice", sa.Text(), nullable=True),
        sa.Column("targetAudience", sa.Text(), nullable=True),
        sa.Column("industry", sa.String(length=100), nullable=True),
        sa.Column("website", sa.Text(), nullable=True),
        sa.Column(
            "socialLinks",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "seoConfig", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "assets", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "searchVector",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, left(coalesce(\"name\", '') || ' ' || coalesce(\"brandVoice\", '') || ' ' || coalesce(\"targetAudience\", '') || ' ' || coalesce(\"industry\", ''), 100000))",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_clientProfiles_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clientProfiles")),
        sa.UniqueConstraint("userId", "id", name=op.f("uq_clientProfiles_userId_id")),
    )
    op.create_table(
        "documents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("mimeType", sa.String(length=100), nullable=True),
        sa.Column("size", sa.Integer(), nullable=True),
        sa.Column("s3Key", sa.String(length=500), nullable=False),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "searchVector",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('simple'::regconfig, left(coalesce(\"filename\", ''), 100000))", persisted=True),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_documents_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_documents")),
    )
    op.create_index("ix_documents_userId", "documents", ["userId"], unique=False)
    op.create_table(
        "idempotencyKeys",
        sa.Column("userId", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("operation", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("argumentHash", sa.String(length=64), nullable=False),
        sa.Column("entity", sa.String(length=100), nullable=True),
        sa.Column("rowId", sa.String(length=255), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_idempotencyKeys_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("userId", "operation", "key", name=op.f("pk_idempotencyKeys")),
    )
    op.create_table(
        "knowledgeEntries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("category", sa.String(length=50), nullable=False),
        sa.Column("context", sa.Text(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column(
            "examples", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("confidence", sa.Numeric(precision=3, scale=2), nullable=False),
        sa.Column("usageCount", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("isActive", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "searchVector",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, left(coalesce(\"content\", '') || ' ' || coalesce(\"context\", ''), 100000))",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_knowledgeEntries_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_knowledgeEntries")),
    )
    op.create_index("ix_knowledgeEntries_userId_category", "knowledgeEntries", ["userId", "category"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("expiresAt", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_sessions_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_index("idx_sessions_user", "sessions", ["userId"], unique=False)
    op.create_index("ix_sessions_expiresAt", "sessions", ["expiresAt"], unique=False)
    op.create_table(
        "userProfiles",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("displayName", sa.String(length=255), nullable=True),
        sa.Column("avatarUrl", sa.Text(), nullable=True),
        sa.Column("companyName", sa.String(length=255), nullable=True),
        sa.Column("industry", sa.String(length=100), nullable=True),
        sa.Column("teamSize", sa.String(length=50), nullable=True),
        sa.Column(
            "primaryGoals",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "preferences",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_userProfiles_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_userProfiles")),
        sa.UniqueConstraint("userId", name=op.f("uq_userProfiles_userId")),
    )
    op.create_table(
        "userWebhooks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=50), nullable=False),
        sa.Column("webhookToken", sa.String(length=100), nullable=False),
        sa.Column("isActive", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "config", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("systemPrompt", sa.Text(), nullable=True),
        sa.Column("responseFormat", sa.String(length=50), server_default="text", nullable=False),
        sa.Column("autoRespond", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("responseDelay", sa.Integer(), server_default=sa.text("2"), nullable=False),
        sa.Column("maxResponseLength", sa.Integer(), server_default=sa.text("1000"), nullable=False),
        sa.Column("messageCount", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lastMessageAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updatedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "\"responseFormat\" IN ('text', 'markdown', 'html', 'json')", name=op.f("ck_userWebhooks_responseFormat")
        ),
        sa.CheckConstraint("\"type\" IN ('sms', 'email', 'custom')", name=op.f("ck_userWebhooks_type")),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_userWebhooks_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_userWebhooks")),
        sa.UniqueConstraint("userId", "id", name=op.f("uq_userWebhooks_userId_id")),
    )
    op.create_index("idx_webhooks_token", "userWebhooks", ["webhookToken"], unique=True)
    op.create_index("idx_webhooks_user", "userWebhooks", ["userId"], unique=False)
    op.create_table(
        "user_credits",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("creditType", sa.String(length=50), nullable=False),
        sa.Column("balance", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("totalPurchased", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("totalUsed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updatedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "\"creditType\" IN ('enrichment', 'calling', 'scraping')", name=op.f("ck_user_credits_creditType")
        ),
        sa.CheckConstraint("balance >= 0", name=op.f("ck_user_credits_balance")),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_user_credits_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_credits")),
        sa.UniqueConstraint("userId", "creditType", name=op.f("uq_user_credits_userId_creditType")),
    )
    op.create_table(
        "agentExecutions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("sessionId", sa.BigInteger(), nullable=False),
        sa.Column("taskDescription", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=50), server_default="pending", nullable=False),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "phases", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("currentPhaseIndex", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "thinkingSteps",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "toolExecutions",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("iterations", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("durationMs", sa.Integer(), nullable=True),
        sa.Column("startedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agentName", sa.String(length=255), nullable=False),
        sa.Column("waitingFor", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("runAfter", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cancelRequestedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tokensIn", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tokensOut", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("costMicros", sa.BigInteger(), server_default=sa.text("0"), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "searchVector",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, left(coalesce(\"taskDescription\", ''), 100000))", persisted=True
            ),
            nullable=False,
        ),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'planning', 'executing', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_agentExecutions_status"),
        ),
        sa.ForeignKeyConstraint(
            ["userId", "sessionId"],
            ["agentSessions.userId", "agentSessions.id"],
            name=op.f("fk_agentExecutions_userId_sessionId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_agentExecutions_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agentExecutions")),
        sa.UniqueConstraint("userId", "id", name=op.f("uq_agentExecutions_userId_id")),
    )
    op.create_index("idx_agent_executions_session", "agentExecutions", ["sessionId"], unique=False)
    op.create_index("idx_agent_executions_status", "agentExecutions", ["status"], unique=False)
    op.create_index(
        "ix_agentExecutions_runAfter",
        "agentExecutions",
        ["runAfter"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'planning', 'executing')"),
    )
    op.create_table(
        "botConversations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("webhookId", sa.BigInteger(), nullable=False),
        sa.Column("participantId", sa.String(length=255), nullable=False),
        sa.Column(
            "context", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "messageHistory",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("status", sa.String(length=50), server_default="active", nullable=False),
        sa.Column("lastActivityAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agentSessionId", sa.BigInteger(), nullable=True),
        sa.Column("threadKey", sa.String(length=255), server_default="", nullable=False),
        sa.Column("turnDueAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updatedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("\"status\" IN ('active', 'paused', 'closed')", name=op.f("ck_botConversations_status")),
        sa.ForeignKeyConstraint(
            ["userId", "agentSessionId"],
            ["agentSessions.userId", "agentSessions.id"],
            name=op.f("fk_botConversations_userId_agentSessionId"),
            ondelete='SET NULL ("agentSessionId")',
        ),
        sa.ForeignKeyConstraint(
            ["userId", "webhookId"],
            ["userWebhooks.userId", "userWebhooks.id"],
            name=op.f("fk_botConversations_userId_webhookId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_botConversations_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_botConversations")),
        sa.UniqueConstraint("userId", "agentSessionId", name=op.f("uq_botConversations_userId_agentSessionId")),
        sa.UniqueConstraint("userId", "id", name=op.f("uq_botConversations_userId_id")),
    )
    op.create_index("idx_conversations_webhook", "botConversations", ["webhookId"], unique=False)
    op.create_index(
        "uq_botConversations_open",
        "botConversations",
        ["userId", "webhookId", "participantId", "threadKey"],
        unique=True,
        postgresql_where=sa.text("status <> 'closed'"),
    )
    op.create_table(
        "cf_neural_patterns",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("swarm_id", sa.String(length=255), nullable=True),
        sa.Column("pattern_type", sa.String(length=50), nullable=False),
        sa.Column(
            "pattern_data",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("confidence", sa.Numeric(), nullable=True),
        sa.Column("usage_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("success_rate", sa.Numeric(), nullable=True),
        sa.CheckConstraint(
            "\"pattern_type\" IN ('coordination', 'optimization', 'prediction', 'behavior')",
            name=op.f("ck_cf_neural_patterns_pattern_type"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "swarm_id"],
            ["cf_swarms.user_id", "cf_swarms.id"],
            name=op.f("fk_cf_neural_patterns_user_id_swarm_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_cf_neural_patterns_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cf_neural_patterns")),
    )
    op.create_index("ix_cf_neural_patterns_swarm_id", "cf_neural_patterns", ["swarm_id"], unique=False)
    op.create_index("ix_cf_neural_patterns_user_id", "cf_neural_patterns", ["user_id"], unique=False)
    op.create_table(
        "cf_session_history",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("swarm_id", sa.String(length=255), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tasks_completed", sa.Integer(), server_default=sa.text("0"), nullable=True),
        sa.Column("tasks_failed", sa.Integer(), server_default=sa.text("0"), nullable=True),
        sa.Column("total_messages", sa.Integer(), server_default=sa.text("0"), nullable=True),
        sa.Column("avg_task_duration", sa.Numeric(precision=10, scale=2), nullable=True),
        sa.Column("session_data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id", "swarm_id"],
            ["cf_swarms.user_id", "cf_swarms.id"],
            name=op.f("fk_cf_session_history_user_id_swarm_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_cf_session_history_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cf_session_history")),
    )
    op.create_index("ix_cf_session_history_swarm_id", "cf_session_history", ["swarm_id"], unique=False)
    op.create_index("ix_cf_session_history_user_id", "cf_session_history", ["user_id"], unique=False)
    op.create_table(
        "cf_tasks",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("swarm_id", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("priority", sa.String(length=20), server_default="medium", nullable=False),
        sa.Column("strategy", sa.String(length=20), server_default="adaptive", nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("progress", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "assigned_agents",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("kind", sa.String(length=255), server_default="general", nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("deps_left", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default=sa.text("3"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "search_vector",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, left(coalesce(\"description\", ''), 100000))", persisted=True
            ),
            nullable=False,
        ),
        sa.CheckConstraint("\"priority\" IN ('low', 'medium', 'high', 'critical')", name=op.f("ck_cf_tasks_priority")),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'assigned', 'running', 'completed', 'failed', 'cancelled', 'in_progress')",
            name=op.f("ck_cf_tasks_status"),
        ),
        sa.CheckConstraint(
            "\"strategy\" IN ('parallel', 'sequential', 'adaptive', 'consensus')", name=op.f("ck_cf_tasks_strategy")
        ),
        sa.CheckConstraint("progress BETWEEN 0 AND 100", name=op.f("ck_cf_tasks_progress")),
        sa.ForeignKeyConstraint(
            ["user_id", "swarm_id"],
            ["cf_swarms.user_id", "cf_swarms.id"],
            name=op.f("fk_cf_tasks_user_id_swarm_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_cf_tasks_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cf_tasks")),
        sa.UniqueConstraint("user_id", "id", name=op.f("uq_cf_tasks_user_id_id")),
    )
    # Four values need no bigint. On its own, because create_table has no room for the directive.
    op.execute(
        "-- squawk-ignore prefer-bigint-over-smallint\nALTER TABLE cf_tasks ADD COLUMN pri smallint DEFAULT 1 NOT NULL"
    )
    op.create_index(
        "ix_cf_tasks_ready",
        "cf_tasks",
        ["swarm_id", sa.literal_column("pri DESC"), "seq"],
        unique=False,
        postgresql_where=sa.text("status = 'pending' AND deps_left = 0"),
    )
    op.create_index("ix_cf_tasks_swarm_id", "cf_tasks", ["swarm_id"], unique=False)
    op.create_table(
        "workflowExecutions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("workflowId", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=50), server_default="pending", nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("startedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completedAt", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'running', 'completed', 'failed')", name=op.f("ck_workflowExecutions_status")
        ),
        sa.ForeignKeyConstraint(
            ["userId", "workflowId"],
            ["automationWorkflows.userId", "automationWorkflows.id"],
            name=op.f("fk_workflowExecutions_userId_workflowId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["userId"], ["users.id"], name=op.f("fk_workflowExecutions_userId"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workflowExecutions")),
    )
    op.create_index(
        "ix_workflowExecutions_userId_workflowId", "workflowExecutions", ["userId", "workflowId"], unique=False
    )
    op.create_table(
        "agencyTasks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("clientId", sa.BigInteger(), nullable=True),
        sa.Column("webhookId", sa.BigInteger(), nullable=True),
        sa.Column("conversationId", sa.BigInteger(), nullable=True),
        sa.Column("executionId", sa.BigInteger(), nullable=True),
        sa.Column("title", sa.String(length=500), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=50), server_default="backlog", nullable=False),
        sa.Column("priority", sa.String(length=20), server_default="medium", nullable=False),
        sa.Column("taskType", sa.String(length=50), nullable=True),
        sa.Column("intent", sa.String(length=100), server_default="general", nullable=False),
        sa.Column(
            "tags", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column(
            "extractedData",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("assignedTo", sa.BigInteger(), nullable=True),
        sa.Column("dueDate", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updatedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "searchVector",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, left(coalesce(\"title\", '') || ' ' || coalesce(\"description\", ''), 100000))",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.CheckConstraint('"assignedTo" IS NULL OR "assignedTo" = "userId"', name=op.f("ck_agencyTasks_assignedTo")),
        sa.CheckConstraint("\"priority\" IN ('low', 'medium', 'high', 'urgent')", name=op.f("ck_agencyTasks_priority")),
        sa.CheckConstraint(
            "\"status\" IN ('backlog', 'todo', 'in_progress', 'review', 'done')", name=op.f("ck_agencyTasks_status")
        ),
        sa.ForeignKeyConstraint(
            ["assignedTo"], ["users.id"], name=op.f("fk_agencyTasks_assignedTo"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["userId", "clientId"],
            ["clientProfiles.userId", "clientProfiles.id"],
            name=op.f("fk_agencyTasks_userId_clientId"),
            ondelete='SET NULL ("clientId")',
        ),
        sa.ForeignKeyConstraint(
            ["userId", "conversationId"],
            ["botConversations.userId", "botConversations.id"],
            name=op.f("fk_agencyTasks_userId_conversationId"),
            ondelete='SET NULL ("conversationId")',
        ),
        sa.ForeignKeyConstraint(
            ["userId", "executionId"],
            ["agentExecutions.userId", "agentExecutions.id"],
            name=op.f("fk_agencyTasks_userId_executionId"),
            ondelete='SET NULL ("executionId")',
        ),
        sa.ForeignKeyConstraint(
            ["userId", "webhookId"],
            ["userWebhooks.userId", "userWebhooks.id"],
            name=op.f("fk_agencyTasks_userId_webhookId"),
            ondelete='SET NULL ("webhookId")',
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_agencyTasks_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agencyTasks")),
        sa.UniqueConstraint("userId", "id", name=op.f("uq_agencyTasks_userId_id")),
    )
    op.create_index("idx_agency_tasks_client", "agencyTasks", ["clientId"], unique=False)
    op.create_index("idx_agency_tasks_status", "agencyTasks", ["status"], unique=False)
    op.create_index("idx_agency_tasks_user", "agencyTasks", ["userId"], unique=False)
    op.create_index("ix_agencyTasks_assignedTo", "agencyTasks", ["assignedTo"], unique=False)
    op.create_index("ix_agencyTasks_conversationId", "agencyTasks", ["conversationId"], unique=False)
    op.create_index("ix_agencyTasks_executionId", "agencyTasks", ["executionId"], unique=False)
    op.create_index("ix_agencyTasks_webhookId", "agencyTasks", ["webhookId"], unique=False)
    op.create_index(
        "uq_agencyTasks_open_intent",
        "agencyTasks",
        ["userId", "conversationId", "intent"],
        unique=True,
        postgresql_where=sa.text("status <> 'done'"),
    )
    op.create_table(
        "agentSteps",
        sa.Column("sessionId", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("executionId", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("body", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "labels", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "\"kind\" IN ('user', 'assistant', 'tool_result', 'system', 'plan', 'phase', 'compaction', 'control')",
            name=op.f("ck_agentSteps_kind"),
        ),
        sa.ForeignKeyConstraint(
            ["userId", "executionId"],
            ["agentExecutions.userId", "agentExecutions.id"],
            name=op.f("fk_agentSteps_userId_executionId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["userId", "sessionId"],
            ["agentSessions.userId", "agentSessions.id"],
            name=op.f("fk_agentSteps_userId_sessionId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_agentSteps_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sessionId", "seq", name=op.f("pk_agentSteps")),
    )
    op.create_index("ix_agentSteps_userId_executionId", "agentSteps", ["userId", "executionId"], unique=False)
    op.create_table(
        "cf_agents",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("swarm_id", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=100), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="spawning", nullable=False),
        sa.Column(
            "capabilities",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("current_task_id", sa.String(length=255), nullable=True),
        sa.Column("message_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("success_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("agent_session_id", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "\"status\" IN ('spawning', 'idle', 'busy', 'error', 'terminated', 'active', 'offline')",
            name=op.f("ck_cf_agents_status"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "agent_session_id"],
            ["agentSessions.userId", "agentSessions.id"],
            name=op.f("fk_cf_agents_user_id_agent_session_id"),
            ondelete="SET NULL (agent_session_id)",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "current_task_id"],
            ["cf_tasks.user_id", "cf_tasks.id"],
            name=op.f("fk_cf_agents_user_id_current_task_id"),
            ondelete="SET NULL (current_task_id)",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "swarm_id"],
            ["cf_swarms.user_id", "cf_swarms.id"],
            name=op.f("fk_cf_agents_user_id_swarm_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_cf_agents_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cf_agents")),
        sa.UniqueConstraint("user_id", "id", name=op.f("uq_cf_agents_user_id_id")),
    )
    op.create_index("ix_cf_agents_agent_session_id", "cf_agents", ["agent_session_id"], unique=False)
    op.create_index("ix_cf_agents_current_task_id", "cf_agents", ["current_task_id"], unique=False)
    op.create_index("ix_cf_agents_swarm_id", "cf_agents", ["swarm_id"], unique=False)
    op.create_table(
        "cf_task_dependencies",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("task_id", sa.String(length=255), nullable=False),
        sa.Column("depends_on", sa.String(length=255), nullable=False),
        sa.Column("dependency_type", sa.String(length=20), server_default="blocking", nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "\"dependency_type\" IN ('blocking', 'optional', 'parallel')",
            name=op.f("ck_cf_task_dependencies_dependency_type"),
        ),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'satisfied', 'failed')", name=op.f("ck_cf_task_dependencies_status")
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "depends_on"],
            ["cf_tasks.user_id", "cf_tasks.id"],
            name=op.f("fk_cf_task_dependencies_user_id_depends_on"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "task_id"],
            ["cf_tasks.user_id", "cf_tasks.id"],
            name=op.f("fk_cf_task_dependencies_user_id_task_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_cf_task_dependencies_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cf_task_dependencies")),
        sa.UniqueConstraint(
            "user_id", "task_id", "depends_on", name=op.f("uq_cf_task_dependencies_user_id_task_id_depends_on")
        ),
    )
    op.create_index("ix_cf_task_dependencies_depends_on", "cf_task_dependencies", ["depends_on"], unique=False)
    op.create_table(
        "generatedProjects",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("executionId", sa.BigInteger(), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("techStack", sa.String(length=50), nullable=True),
        sa.Column(
            "features", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column(
            "filesSnapshot",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("status", sa.String(length=50), server_default="active", nullable=False),
        sa.Column("devServerPort", sa.Integer(), nullable=True),
        sa.Column("previewUrl", sa.Text(), nullable=True),
        sa.Column("deploymentUrl", sa.Text(), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "searchVector",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, left(coalesce(\"name\", '') || ' ' || coalesce(\"description\", ''), 100000))",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.CheckConstraint("\"status\" IN ('active', 'archived', 'deleted')", name=op.f("ck_generatedProjects_status")),
        sa.ForeignKeyConstraint(
            ["userId", "executionId"],
            ["agentExecutions.userId", "agentExecutions.id"],
            name=op.f("fk_generatedProjects_userId_executionId"),
            ondelete='SET NULL ("executionId")',
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_generatedProjects_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_generatedProjects")),
    )
    op.create_index(
        "ix_generatedProjects_userId_executionId", "generatedProjects", ["userId", "executionId"], unique=False
    )
    op.create_table(
        "inboundMessages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("webhookId", sa.BigInteger(), nullable=False),
        sa.Column("from", sa.String(length=255), nullable=True),
        sa.Column("to", sa.String(length=255), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column(
            "mediaUrls", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("rawPayload", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("status", sa.String(length=50), server_default="received", nullable=False),
        sa.Column("processedAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("receivedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("rawBody", sa.LargeBinary(), nullable=False),
        sa.Column("providerMessageId", sa.String(length=255), nullable=False),
        sa.Column("receivedSeq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("conversationId", sa.BigInteger(), nullable=True),
        sa.Column("executionId", sa.BigInteger(), nullable=True),
        sa.Column(
            "searchVector",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('simple'::regconfig, left(coalesce(\"body\", ''), 100000))", persisted=True),
            nullable=False,
        ),
        sa.CheckConstraint("\"status\" IN ('received', 'processed', 'error')", name=op.f("ck_inboundMessages_status")),
        sa.ForeignKeyConstraint(
            ["userId", "conversationId"],
            ["botConversations.userId", "botConversations.id"],
            name=op.f("fk_inboundMessages_userId_conversationId"),
            ondelete='SET NULL ("conversationId")',
        ),
        sa.ForeignKeyConstraint(
            ["userId", "executionId"],
            ["agentExecutions.userId", "agentExecutions.id"],
            name=op.f("fk_inboundMessages_userId_executionId"),
            ondelete='SET NULL ("executionId")',
        ),
        sa.ForeignKeyConstraint(
            ["userId", "webhookId"],
            ["userWebhooks.userId", "userWebhooks.id"],
            name=op.f("fk_inboundMessages_userId_webhookId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_inboundMessages_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inboundMessages")),
        sa.UniqueConstraint("userId", "id", name=op.f("uq_inboundMessages_userId_id")),
        sa.UniqueConstraint(
            "userId",
            "webhookId",
            "providerMessageId",
            name=op.f("uq_inboundMessages_userId_webhookId_providerMessageId"),
        ),
    )
    op.create_index("idx_inbound_messages_webhook", "inboundMessages", ["webhookId"], unique=False)
    op.create_index("ix_inboundMessages_conversationId", "inboundMessages", ["conversationId"], unique=False)
    op.create_index("ix_inboundMessages_executionId", "inboundMessages", ["executionId"], unique=False)
    op.create_table(
        "toolExecutions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("executionId", sa.BigInteger(), nullable=False),
        sa.Column("toolName", sa.String(length=100), nullable=False),
        sa.Column(
            "parameters", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("success", sa.Boolean(), nullable=True),
        sa.Column("durationMs", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("executedAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("toolUseId", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("idempotencyKey", sa.String(length=64), nullable=True),
        sa.Column("leaseEpoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "\"state\" IN ('pending', 'started', 'done', 'error', 'unknown', 'cancelled', 'awaiting_approval')",
            name=op.f("ck_toolExecutions_state"),
        ),
        sa.ForeignKeyConstraint(
            ["userId", "executionId"],
            ["agentExecutions.userId", "agentExecutions.id"],
            name=op.f("fk_toolExecutions_userId_executionId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_toolExecutions_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_toolExecutions")),
        sa.UniqueConstraint(
            "userId", "executionId", "toolUseId", name=op.f("uq_toolExecutions_userId_executionId_toolUseId")
        ),
    )
    op.create_table(
        "cf_task_assignments",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("task_id", sa.String(length=255), nullable=False),
        sa.Column("agent_id", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="assigned", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("execution_id", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "\"status\" IN ('assigned', 'active', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_cf_task_assignments_status"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "agent_id"],
            ["cf_agents.user_id", "cf_agents.id"],
            name=op.f("fk_cf_task_assignments_user_id_agent_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "execution_id"],
            ["agentExecutions.userId", "agentExecutions.id"],
            name=op.f("fk_cf_task_assignments_user_id_execution_id"),
            ondelete="SET NULL (execution_id)",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "task_id"],
            ["cf_tasks.user_id", "cf_tasks.id"],
            name=op.f("fk_cf_task_assignments_user_id_task_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_cf_task_assignments_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cf_task_assignments")),
        sa.UniqueConstraint("user_id", "execution_id", name=op.f("uq_cf_task_assignments_user_id_execution_id")),
        sa.UniqueConstraint(
            "user_id",
            "task_id",
            "agent_id",
            "attempt",
            name=op.f("uq_cf_task_assignments_user_id_task_id_agent_id_attempt"),
        ),
    )
    op.create_index("ix_cf_task_assignments_agent_id", "cf_task_assignments", ["agent_id"], unique=False)
    op.create_index("ix_cf_task_assignments_status", "cf_task_assignments", ["status"], unique=False)
    op.create_table(
        "outboundMessages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("userId", sa.BigInteger(), nullable=False),
        sa.Column("webhookId", sa.BigInteger(), nullable=False),
        sa.Column("conversationId", sa.BigInteger(), nullable=False),
        sa.Column("inboundMessageId", sa.BigInteger(), nullable=True),
        sa.Column("to", sa.String(length=255), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column(
            "mediaUrls", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("status", sa.String(length=50), server_default="pending", nullable=False),
        sa.Column("externalId", sa.String(length=255), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("sentAt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("executionId", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("nextAttemptAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=True),
        sa.Column("createdAt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "searchVector",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('simple'::regconfig, left(coalesce(\"body\", ''), 100000))", persisted=True),
            nullable=False,
        ),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'sent', 'delivered', 'failed', 'draft', 'discarded', 'refused', 'sending', 'unconfirmed', 'read', 'undelivered')",
            name=op.f("ck_outboundMessages_status"),
        ),
        sa.ForeignKeyConstraint(
            ["userId", "conversationId"],
            ["botConversations.userId", "botConversations.id"],
            name=op.f("fk_outboundMessages_userId_conversationId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["userId", "executionId"],
            ["agentExecutions.userId", "agentExecutions.id"],
            name=op.f("fk_outboundMessages_userId_executionId"),
            ondelete='SET NULL ("executionId")',
        ),
        sa.ForeignKeyConstraint(
            ["userId", "inboundMessageId"],
            ["inboundMessages.userId", "inboundMessages.id"],
            name=op.f("fk_outboundMessages_userId_inboundMessageId"),
            ondelete='SET NULL ("inboundMessageId")',
        ),
        sa.ForeignKeyConstraint(
            ["userId", "webhookId"],
            ["userWebhooks.userId", "userWebhooks.id"],
            name=op.f("fk_outboundMessages_userId_webhookId"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["userId"], ["users.id"], name=op.f("fk_outboundMessages_userId"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outboundMessages")),
    )
    op.create_index("ix_outboundMessages_conversationId", "outboundMessages", ["conversationId"], unique=False)
    op.create_index(
        "ix_outboundMessages_due",
        "outboundMessages",
        ["nextAttemptAt"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index("ix_outboundMessages_executionId", "outboundMessages", ["executionId"], unique=False)
    op.create_index("ix_outboundMessages_inboundMessageId", "outboundMessages", ["inboundMessageId"], unique=False)
    op.create_index("ix_outboundMessages_userId", "outboundMessages", ["userId"], unique=False)
    op.create_index("ix_outboundMessages_webhookId", "outboundMessages", ["webhookId"], unique=False)
    # Closes the cycle swarms -> agents -> swarms. Inside create_table SQLAlchemy would silently skip it.
    op.create_foreign_key(
        "fk_cf_swarms_user_id_queen_agent_id",
        "cf_swarms",
        "cf_agents",
        ["user_id", "queen_agent_id"],
        ["user_id", "id"],
        ondelete="SET NULL (queen_agent_id)",
    )
    for statement in SECURITY:
        op.execute(statement)


def downgrade() -> None:
    op.execute('DROP TRIGGER append_only ON "auditLogs"')
    op.execute("DROP FUNCTION audit_is_append_only()")
    op.drop_constraint("fk_cf_swarms_user_id_queen_agent_id", "cf_swarms", type_="foreignkey")
    op.drop_index("ix_outboundMessages_webhookId", table_name="outboundMessages")
    op.drop_index("ix_outboundMessages_userId", table_name="outboundMessages")
    op.drop_index("ix_outboundMessages_inboundMessageId", table_name="outboundMessages")
    op.drop_index("ix_outboundMessages_executionId", table_name="outboundMessages")
    op.drop_index(
        "ix_outboundMessages_due", table_name="outboundMessages", postgresql_where=sa.text("status = 'pending'")
    )
    op.drop_index("ix_outboundMessages_conversationId", table_name="outboundMessages")
    op.drop_table("outboundMessages")
    op.drop_index("ix_cf_task_assignments_status", table_name="cf_task_assignments")
    op.drop_index("ix_cf_task_assignments_agent_id", table_name="cf_task_assignments")
    op.drop_table("cf_task_assignments")
    op.drop_table("toolExecutions")
    op.drop_index("ix_inboundMessages_executionId", table_name="inboundMessages")
    op.drop_index("ix_inboundMessages_conversationId", table_name="inboundMessages")
    op.drop_index("idx_inbound_messages_webhook", table_name="inboundMessages")
    op.drop_table("inboundMessages")
    op.drop_index("ix_generatedProjects_userId_executionId", table_name="generatedProjects")
    op.drop_table("generatedProjects")
    op.drop_index("ix_cf_task_dependencies_depends_on", table_name="cf_task_dependencies")
    op.drop_table("cf_task_dependencies")
    op.drop_index("ix_cf_agents_swarm_id", table_name="cf_agents")
    op.drop_index("ix_cf_agents_current_task_id", table_name="cf_agents")
    op.drop_index("ix_cf_agents_agent_session_id", table_name="cf_agents")
    op.drop_table("cf_agents")
    op.drop_index("ix_agentSteps_userId_executionId", table_name="agentSteps")
    op.drop_table("agentSteps")
    op.drop_index("uq_agencyTasks_open_intent", table_name="agencyTasks", postgresql_where=sa.text("status <> 'done'"))
    op.drop_index("ix_agencyTasks_webhookId", table_name="agencyTasks")
    op.drop_index("ix_agencyTasks_executionId", table_name="agencyTasks")
    op.drop_index("ix_agencyTasks_conversationId", table_name="agencyTasks")
    op.drop_index("ix_agencyTasks_assignedTo", table_name="agencyTasks")
    op.drop_index("idx_agency_tasks_user", table_name="agencyTasks")
    op.drop_index("idx_agency_tasks_status", table_name="agencyTasks")
    op.drop_index("idx_agency_tasks_client", table_name="agencyTasks")
    op.drop_table("agencyTasks")
    op.drop_index("ix_workflowExecutions_userId_workflowId", table_name="workflowExecutions")
    op.drop_table("workflowExecutions")
    op.drop_index("ix_cf_tasks_swarm_id", table_name="cf_tasks")
    op.drop_index(
        "ix_cf_tasks_ready", table_name="cf_tasks", postgresql_where=sa.text("status = 'pending' AND deps_left = 0")
    )
    op.drop_table("cf_tasks")
    op.drop_index("ix_cf_session_history_user_id", table_name="cf_session_history")
    op.drop_index("ix_cf_session_history_swarm_id", table_name="cf_session_history")
    op.drop_table("cf_session_history")
    op.drop_index("ix_cf_neural_patterns_user_id", table_name="cf_neural_patterns")
    op.drop_index("ix_cf_neural_patterns_swarm_id", table_name="cf_neural_patterns")
    op.drop_table("cf_neural_patterns")
    op.drop_index(
        "uq_botConversations_open", table_name="botConversations", postgresql_where=sa.text("status <> 'closed'")
    )
    op.drop_index("idx_conversations_webhook", table_name="botConversations")
    op.drop_table("botConversations")
    op.drop_index(
        "ix_agentExecutions_runAfter",
        table_name="agentExecutions",
        postgresql_where=sa.text("status IN ('pending', 'planning', 'executing')"),
    )
    op.drop_index("idx_agent_executions_status", table_name="agentExecutions")
    op.drop_index("idx_agent_executions_session", table_name="agentExecutions")
    op.drop_table("agentExecutions")
    op.drop_table("user_credits")
    op.drop_index("idx_webhooks_user", table_name="userWebhooks")
    op.drop_index("idx_webhooks_token", table_name="userWebhooks")
    op.drop_table("userWebhooks")
    op.drop_table("userProfiles")
    op.drop_index("ix_sessions_expiresAt", table_name="sessions")
    op.drop_index("idx_sessions_user", table_name="sessions")
    op.drop_table("sessions")
    op.drop_index("ix_knowledgeEntries_userId_category", table_name="knowledgeEntries")
    op.drop_table("knowledgeEntries")
    op.drop_table("idempotencyKeys")
    op.drop_index("ix_documents_userId", table_name="documents")
    op.drop_table("documents")
    op.drop_table("clientProfiles")
    op.drop_index("ix_cf_swarms_queen_agent_id", table_name="cf_swarms")
    op.drop_table("cf_swarms")
    op.drop_index(
        "ix_cf_memory_store_expires_at",
        table_name="cf_memory_store",
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.drop_table("cf_memory_store")
    op.drop_index("idx_browser_sessions_user", table_name="browserSessions")
    op.drop_index("idx_browser_sessions_status", table_name="browserSessions")
    op.drop_table("browserSessions")
    op.drop_table("automationWorkflows")
    op.drop_index("ix_apiKeys_userId", table_name="apiKeys")
    op.drop_table("apiKeys")
    op.drop_index(
        "ix_agentSessions_leaseUntil", table_name="agentSessions", postgresql_where=sa.text('"leaseOwner" IS NOT NULL')
    )
    op.drop_index("idx_agent_sessions_user", table_name="agentSessions")
    op.drop_table("agentSessions")
    op.drop_index("idx_users_username", table_name="users")
    op.drop_index("idx_users_email", table_name="users")
    op.drop_table("users")
    op.drop_index("ix_auditLogs_userId_createdAt", table_name="auditLogs")
    op.drop_table("auditLogs")
