"""How the document becomes Postgres, as data: what the conformity test holds the migrated catalogue to.

Rules are stated by `table.column` with `*` for any; the first rule that fits counts. What a design page adds to the
document is in `LICENSED`; a column that is neither there nor in the document is a difference.
"""

from collections.abc import Mapping
from types import MappingProxyType

NOT_NULL_TIMES = frozenset(
    {"createdAt", "created_at", "updatedAt", "updated_at", "executedAt", "receivedAt", "lastActivityAt"}
)
"""Times that every row has, set by the database; other times are empty until they come."""

OPTIONAL_LINKS = frozenset(
    {
        "agencyTasks.assignedTo",
        "agencyTasks.clientId",
        "agencyTasks.conversationId",
        "agencyTasks.executionId",
        "agencyTasks.webhookId",
        "agentExecutions.parentExecutionId",
        "botConversations.agentSessionId",
        "cf_agents.agent_session_id",
        "cf_agents.current_task_id",
        "cf_swarms.queen_agent_id",
        "cf_task_assignments.execution_id",
        "generatedProjects.executionId",
        "inboundMessages.conversationId",
        "inboundMessages.executionId",
        "outboundMessages.executionId",
        "outboundMessages.inboundMessageId",
        "toolExecutions.resultBlobId",
    }
)
"""Emptied when their target goes: ON DELETE SET NULL with the column list. All other links go with their target."""

NULLABLE = frozenset(
    {
        # Free text, results, plans and addresses.
        "*.description",
        "*.error",
        "*.result",
        "*.plan",
        "*.*Url",
        "clientProfiles.brandVoice",
        "clientProfiles.industry",
        "clientProfiles.targetAudience",
        "clientProfiles.website",
        # What is known later, or never.
        "agencyTasks.dueDate",
        "agencyTasks.taskType",
        "agentExecutions.durationMs",
        "agentSessions.currentPhase",
        "browserSessions.sessionId",
        "cf_memory_store.expires_at",
        "cf_memory_store.ttl",
        "cf_neural_patterns.confidence",
        "cf_neural_patterns.success_rate",
        # A pattern without a swarm is the user's pool.
        "cf_neural_patterns.swarm_id",
        "documents.mimeType",
        "documents.size",
        "generatedProjects.devServerPort",
        "generatedProjects.techStack",
        "inboundMessages.body",
        "inboundMessages.from",
        "inboundMessages.rawPayload",
        "inboundMessages.to",
        "knowledgeEntries.context",
        "outboundMessages.externalId",
        "toolExecutions.durationMs",
        "toolExecutions.success",
        "userProfiles.companyName",
        "userProfiles.displayName",
        "userProfiles.industry",
        "userProfiles.teamSize",
        "userWebhooks.systemPrompt",
        "users.stripeCustomerId",
        "users.subscriptionStatus",
        *OPTIONAL_LINKS,
    }
)
"""The columns of the document that may be empty, besides times; every other one is NOT NULL."""

DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "agencyTasks.status": "'backlog'",
        "browserSessions.status": "'active'",
        "users.role": "'user'",
        "*.priority": "'medium'",
        "cf_swarms.topology": "'star'",
        "cf_swarms.queen_mode": "'centralized'",
        "cf_swarms.max_agents": "8",
        "*.strategy": "'adaptive'",
        "agentSessions.sessionUuid": "gen_random_uuid()",
        "agentSessions.maxIterations": "100",
        "userWebhooks.autoRespond": "false",
        "userWebhooks.responseDelay": "2",
        "userWebhooks.maxResponseLength": "1000",
        "userWebhooks.responseFormat": "'text'",
        "users.isOnboarded": "false",
        "*.isActive": "true",
        # Counters and progress.
        "agentExecutions.currentPhaseIndex": "0",
        "agentExecutions.iterations": "0",
        "agentSessions.iterationCount": "0",
        "cf_tasks.progress": "0",
        "*.*_count": "0",
        "*.messageCount": "0",
        "*.usageCount": "0",
        # jsonb: lists, values that may be missing, and objects for the rest.
        "agentExecutions.phases": "'[]'",
        "agentExecutions.toolExecutions": "'[]'",
        "apiKeys.permissions": "'[]'",
        "automationWorkflows.steps": "'[]'",
        "botConversations.messageHistory": "'[]'",
        "cf_agents.capabilities": "'[]'",
        "cf_tasks.assigned_agents": "'[]'",
        "clientProfiles.assets": "'[]'",
        "agencyTasks.tags": "'[]'",
        "agentSessions.toolHistory": "'[]'",
        "generatedProjects.features": "'[]'",
        "knowledgeEntries.examples": "'[]'",
        "userProfiles.primaryGoals": "'[]'",
        "*.mediaUrls": "'[]'",
        "*.thinkingSteps": "'[]'",
        "*.plan": "",
        "*.result": "",
        "cf_memory_store.value": "",
        "inboundMessages.rawPayload": "",
    }
)
"""The default of a column; an empty string: none.

Where no rule fits: a status has the first value of its list, jsonb `{}`, a time that every row has `now()`, and
everything else (names, titles, hashes, keys, links) none.
"""

FURTHER_VALUES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        # Accepted because the reference system's SQL accepts them.
        "cf_agents.status": frozenset({"active", "offline"}),
        "cf_neural_patterns.pattern_type": frozenset({"behavior"}),
        "cf_swarms.status": frozenset({"archived"}),
        "cf_tasks.status": frozenset({"in_progress", "cancelled"}),
        "cf_tasks.strategy": frozenset({"consensus"}),
        # The delivery of a message has more to tell.
        "outboundMessages.status": frozenset(
            {"draft", "discarded", "refused", "sending", "unconfirmed", "read", "undelivered"}
        ),
        # The document gives no list; the sender knows these four.
        "userWebhooks.responseFormat": frozenset({"text", "markdown", "html", "json"}),
    }
)
"""What a closed list accepts beyond the document."""

FURTHER_CHECKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "ck_agencyTasks_assignedTo": (
            '(("assignedTo" IS NULL) OR ("assignedTo" = "userId"))',
            "spec/decisions.md",
        ),
        "ck_cf_memory_store_ttl": ("(ttl > 0)", "design/swarm.md"),
        "ck_cf_tasks_progress": ("((progress >= 0) AND (progress <= 100))", "spec/schema.yaml"),
        "ck_user_credits_balance": ("(balance >= 0)", "spec/decisions.md"),
        "ck_users_email_lower": ("((email)::text = lower((email)::text))", "spec/decisions.md"),
        "ck_users_username_lower": ("((username)::text = lower((username)::text))", "spec/decisions.md"),
    }
)
"""CHECKs that are no closed lists: name → expression as Postgres prints it, and the page that asks for it."""

UNIQUES = frozenset(
    {
        ("agentSessions", ("userId", "sessionUuid")),
        ("apiKeys", ("keyPrefix",)),
        ("botConversations", ("userId", "agentSessionId")),
        ("cf_memory_store", ("user_id", "namespace", "key_name")),
        ("cf_task_assignments", ("user_id", "execution_id")),
        ("cf_task_assignments", ("user_id", "task_id", "agent_id", "attempt")),
        ("inboundMessages", ("userId", "webhookId", "providerMessageId")),
        ("toolExecutions", ("userId", "executionId", "toolUseId")),
        ("user_credits", ("userId", "creditType")),
        ("userProfiles", ("userId",)),
        ("userWebhooks", ("webhookToken",)),
        ("agentDefinitions", ("userId", "name")),
        ("approvals", ("userId", "executionId", "toolUseId", "attempt")),
        ("mcpServers", ("userId", "name")),
        ("toolOutbox", ("userId", "executionId", "toolUseId")),
        ("users", ("email",)),
        ("users", ("username",)),
    }
)
"""Natural keys and one-to-one links, without a predicate."""

UNIQUE_WHILE_OPEN = frozenset(
    {
        ("agencyTasks", ("userId", "conversationId", "intent")),
        ("botConversations", ("userId", "webhookId", "participantId", "threadKey")),
    }
)
"""What may exist once among the rows that are not over (design/channels.md)."""

UNIQUE_INDEXES = frozenset({"idx_users_email", "idx_users_username", "idx_webhooks_token"})
"""Named indexes of the document that are the unique key itself."""

RELATION_TREE_NOT_NULL = frozenset({"cf_task_assignments.status"})
"""Columns that the reference system lets be empty and whose note calls it wrong."""

LICENSED: Mapping[str, str] = MappingProxyType(
    {
        "agencyTasks.executionId": "spec/decisions.md",
        "agencyTasks.intent": "design/channels.md",
        "agencyTasks.searchVector": "spec/decisions.md",
        "agentDefinitions.createdAt": "design/architecture.md",
        "agentDefinitions.id": "design/architecture.md",
        "agentDefinitions.instructions": "design/architecture.md",
        "agentDefinitions.limits": "design/architecture.md",
        "agentDefinitions.model": "design/architecture.md",
        "agentDefinitions.name": "design/architecture.md",
        "agentDefinitions.outputSchema": "design/architecture.md",
        "agentDefinitions.tools": "design/architecture.md",
        "agentDefinitions.updatedAt": "design/architecture.md",
        "agentDefinitions.userId": "design/architecture.md",
        "agentDeltas.epoch": "design/architecture.md",
        "agentDeltas.offset": "design/architecture.md",
        "agentDeltas.seq": "design/architecture.md",
        "agentDeltas.sessionId": "design/architecture.md",
        "agentDeltas.text": "design/architecture.md",
        "agentDeltas.userId": "design/architecture.md",
        "agentExecutions.agentName": "design/runtime.md",
        "agentExecutions.attempt": "design/runtime.md",
        "agentExecutions.cancelRequestedAt": "design/runtime.md",
        "agentExecutions.costMicros": "design/runtime.md",
        "agentExecutions.deadline": "design/runtime.md",
        "agentExecutions.definitionHash": "design/runtime.md",
        "agentExecutions.limits": "design/runtime.md",
        "agentExecutions.parentExecutionId": "design/runtime.md",
        "agentExecutions.pausedAt": "design/runtime.md",
        "agentExecutions.reservedCostMicros": "design/runtime.md",
        "agentExecutions.reservedTokens": "design/runtime.md",
        "agentExecutions.runAfter": "design/runtime.md",
        "agentExecutions.searchVector": "spec/decisions.md",
        "agentExecutions.tokensIn": "design/runtime.md",
        "agentExecutions.tokensOut": "design/runtime.md",
        "agentExecutions.toolCalls": "design/runtime.md",
        "agentExecutions.unsettledCostMicros": "design/runtime.md",
        "agentExecutions.unsettledTokens": "design/runtime.md",
        "agentExecutions.waitingFor": "design/runtime.md",
        "agentReaders.seenAt": "design/architecture.md",
        "agentReaders.sessionId": "design/architecture.md",
        "agentReaders.userId": "design/architecture.md",
        "agentSessions.costMicros": "design/runtime.md",
        "agentSessions.leaseEpoch": "design/runtime.md",
        "agentSessions.leaseOwner": "design/runtime.md",
        "agentSessions.leaseUntil": "design/runtime.md",
        "agentSessions.limits": "design/runtime.md",
        "agentSessions.nextSeq": "design/runtime.md",
        "agentSessions.parentSeq": "design/runtime.md",
        "agentSessions.parentSessionId": "design/runtime.md",
        "agentSessions.tokensIn": "design/runtime.md",
        "agentSessions.tokensOut": "design/runtime.md",
        "agentSteps.body": "design/runtime.md",
        "agentSteps.createdAt": "design/runtime.md",
        "agentSteps.executionId": "design/runtime.md",
        "agentSteps.kind": "design/runtime.md",
        "agentSteps.labels": "design/runtime.md",
        "agentSteps.seq": "design/runtime.md",
        "agentSteps.sessionId": "design/runtime.md",
        "agentSteps.userId": "spec/decisions.md",
        "apiKeys.revokedAt": "spec/decisions.md",
        "approvals.attempt": "design/architecture.md",
        "approvals.decidedAt": "design/architecture.md",
        "approvals.decidedBy": "design/architecture.md",
        "approvals.executionId": "design/architecture.md",
        "approvals.expiresAt": "design/architecture.md",
        "approvals.id": "design/architecture.md",
        "approvals.note": "design/architecture.md",
        "approvals.payload": "design/architecture.md",
        "approvals.reason": "design/architecture.md",
        "approvals.requestHash": "design/architecture.md",
        "approvals.requestedAt": "design/architecture.md",
        "approvals.status": "design/architecture.md",
        "approvals.toolName": "design/architecture.md",
        "approvals.toolUseId": "design/architecture.md",
        "approvals.userId": "design/architecture.md",
        "auditLogs.action": "design/architecture.md",
        "auditLogs.createdAt": "design/architecture.md",
        "auditLogs.entityId": "design/architecture.md",
        "auditLogs.entityType": "design/architecture.md",
        "auditLogs.id": "design/architecture.md",
        "auditLogs.ipAddress": "design/architecture.md",
        "auditLogs.newValues": "design/architecture.md",
        "auditLogs.oldValues": "design/architecture.md",
        "auditLogs.userAgent": "design/architecture.md",
        "auditLogs.userId": "design/architecture.md",
        "automationWorkflows.searchVector": "spec/decisions.md",
        "blobs.content": "design/architecture.md",
        "blobs.contentType": "design/architecture.md",
        "blobs.createdAt": "design/architecture.md",
        "blobs.id": "design/architecture.md",
        "blobs.sizeBytes": "design/architecture.md",
        "blobs.userId": "design/architecture.md",
        "botConversations.agentSessionId": "spec/decisions.md",
        "botConversations.threadKey": "design/channels.md",
        "botConversations.turnDueAt": "design/channels.md",
        "cf_agents.agent_session_id": "spec/decisions.md",
        "cf_agents.user_id": "spec/decisions.md",
        "cf_memory_store.created_at": "spec/decisions.md",
        "cf_memory_store.provenance": "spec/decisions.md",
        "cf_memory_store.search_vector": "spec/decisions.md",
        "cf_memory_store.updated_at": "spec/decisions.md",
        "cf_memory_store.user_id": "spec/decisions.md",
        "cf_memory_store.version": "spec/decisions.md",
        "cf_neural_patterns.user_id": "spec/decisions.md",
        "cf_session_history.user_id": "spec/decisions.md",
        "cf_swarms.queen_agent_id": "design/swarm.md",
        "cf_swarms.scheduler_epoch": "design/swarm.md",
        "cf_swarms.scheduler_owner": "design/swarm.md",
        "cf_swarms.scheduler_until": "design/swarm.md",
        "cf_swarms.user_id": "spec/decisions.md",
        "cf_task_assignments.attempt": "spec/decisions.md",
        "cf_task_assignments.error": "design/swarm.md",
        "cf_task_assignments.execution_id": "spec/decisions.md",
        "cf_task_assignments.user_id": "spec/decisions.md",
        "cf_task_dependencies.created_at": "design/architecture.md",
        "cf_task_dependencies.dependency_type": "design/architecture.md",
        "cf_task_dependencies.depends_on": "design/architecture.md",
        "cf_task_dependencies.id": "design/architecture.md",
        "cf_task_dependencies.status": "design/architecture.md",
        "cf_task_dependencies.task_id": "design/architecture.md",
        "cf_task_dependencies.user_id": "design/architecture.md",
        "cf_tasks.attempts": "design/swarm.md",
        "cf_tasks.created_at": "design/swarm.md",
        "cf_tasks.deps_left": "design/swarm.md",
        "cf_tasks.kind": "design/swarm.md",
        "cf_tasks.max_attempts": "design/swarm.md",
        "cf_tasks.pri": "design/swarm.md",
        "cf_tasks.search_vector": "spec/decisions.md",
        "cf_tasks.seq": "design/swarm.md",
        "cf_tasks.user_id": "spec/decisions.md",
        "clientProfiles.searchVector": "spec/decisions.md",
        "documents.searchVector": "spec/decisions.md",
        "generatedProjects.searchVector": "spec/decisions.md",
        "idempotencyKeys.argumentHash": "spec/decisions.md",
        "idempotencyKeys.createdAt": "spec/decisions.md",
        "idempotencyKeys.entity": "spec/decisions.md",
        "idempotencyKeys.key": "spec/decisions.md",
        "idempotencyKeys.operation": "spec/decisions.md",
        "idempotencyKeys.result": "spec/decisions.md",
        "idempotencyKeys.rowId": "spec/decisions.md",
        "idempotencyKeys.userId": "spec/decisions.md",
        "inboundMessages.conversationId": "spec/decisions.md",
        "inboundMessages.executionId": "spec/decisions.md",
        "inboundMessages.providerMessageId": "spec/decisions.md",
        "inboundMessages.rawBody": "spec/decisions.md",
        "inboundMessages.receivedSeq": "spec/decisions.md",
        "inboundMessages.searchVector": "spec/decisions.md",
        "knowledgeEntries.searchVector": "spec/decisions.md",
        "mcpServers.command": "design/architecture.md",
        "mcpServers.createdAt": "design/architecture.md",
        "mcpServers.id": "design/architecture.md",
        "mcpServers.isActive": "design/architecture.md",
        "mcpServers.name": "design/architecture.md",
        "mcpServers.pins": "design/architecture.md",
        "mcpServers.secretSealed": "design/architecture.md",
        "mcpServers.transport": "design/architecture.md",
        "mcpServers.updatedAt": "design/architecture.md",
        "mcpServers.url": "design/architecture.md",
        "mcpServers.userId": "design/architecture.md",
        "outboundMessages.attempts": "design/channels.md",
        "outboundMessages.executionId": "spec/decisions.md",
        "outboundMessages.nextAttemptAt": "design/channels.md",
        "outboundMessages.searchVector": "spec/decisions.md",
        "outboundMessages.userId": "spec/decisions.md",
        "toolExecutions.attempt": "design/runtime.md",
        "toolExecutions.idempotencyKey": "design/runtime.md",
        "toolExecutions.leaseEpoch": "design/runtime.md",
        "toolExecutions.resultBlobId": "design/runtime.md",
        "toolExecutions.state": "design/runtime.md",
        "toolExecutions.toolUseId": "design/runtime.md",
        "toolExecutions.userId": "spec/decisions.md",
        "toolOutbox.arguments": "design/architecture.md",
        "toolOutbox.attempts": "design/architecture.md",
        "toolOutbox.createdAt": "design/architecture.md",
        "toolOutbox.error": "design/architecture.md",
        "toolOutbox.executionId": "design/architecture.md",
        "toolOutbox.id": "design/architecture.md",
        "toolOutbox.nextAttemptAt": "design/architecture.md",
        "toolOutbox.result": "design/architecture.md",
        "toolOutbox.status": "design/architecture.md",
        "toolOutbox.toolName": "design/architecture.md",
        "toolOutbox.toolUseId": "design/architecture.md",
        "toolOutbox.userId": "design/architecture.md",
    }
)
"""`table.column` beyond the document → the page that adds it. The tables of the job engine are not ours."""
