"""What the generic entity layer may do with each table: one line per table, checked against the columns at import.

Generic means dumb. A column with a rule (a status, a balance, a counter, a lease, a version, a projection, a secret) is
not `writable`: it changes only through the operation that owns the rule. Above it: `storage.registry`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import ColumnElement, Table, func, or_


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may be done with one table. All names are column names."""

    label: str
    """The column that names a row to a person."""
    shown: tuple[str, ...]
    """The columns of a listing that asks for none."""
    writable: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()
    """Never read, filtered or sorted by, and never named in a result."""
    creates: bool = False
    """Rows may be added with nothing but the writable columns."""
    removes: bool = False
    visible: Callable[[Table], ColumnElement[bool]] | None = None
    """What a row must satisfy to exist for readers and writers."""


def _unexpired(table: Table) -> ColumnElement[bool]:
    """Hide what has expired. The statement's time, because a transaction may outlive the row."""
    expires_at = table.c.expires_at
    return or_(expires_at.is_(None), expires_at > func.statement_timestamp())


def _names(words: str) -> tuple[str, ...]:
    return tuple(words.split())


POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        "agencyTasks": Policy(
            label="title",
            shown=_names("title status priority clientId assignedTo dueDate updatedAt"),
            writable=_names("clientId title description priority taskType tags extractedData assignedTo dueDate"),
            creates=True,
            removes=True,
        ),
        "agentDefinitions": Policy(
            label="name",
            shown=_names("name model tools updatedAt"),
            writable=_names("name instructions model tools outputSchema limits"),
            creates=True,
            removes=True,
        ),
        "agentExecutions": Policy(
            label="taskDescription",
            shown=_names("sessionId agentName taskDescription status error iterations durationMs createdAt"),
        ),
        "agentSessions": Policy(
            label="sessionUuid",
            shown=_names("sessionUuid status currentPhase iterationCount tokensIn tokensOut updatedAt"),
        ),
        "agentSteps": Policy(label="kind", shown=_names("executionId kind createdAt")),
        "apiKeys": Policy(
            label="name",
            shown=_names("name keyPrefix permissions isActive lastUsedAt expiresAt revokedAt"),
            writable=_names("name"),
            redacted=_names("keyHash"),
        ),
        # Deciding is for a person: approvals change through the operations that know who asks.
        "approvals": Policy(
            label="toolName",
            shown=_names("executionId toolName reason status requestedAt expiresAt decidedBy"),
        ),
        "auditLogs": Policy(label="action", shown=_names("action entityType entityId createdAt")),
        "automationWorkflows": Policy(
            label="name",
            shown=_names("name description isActive updatedAt"),
            writable=_names("name description steps config isActive"),
            creates=True,
            removes=True,
        ),
        "botConversations": Policy(
            label="participantId",
            shown=_names("webhookId participantId threadKey status agentSessionId lastActivityAt"),
        ),
        # Whoever has connectUrl drives the browser.
        "browserSessions": Policy(
            label="sessionId",
            shown=_names("sessionId status liveUrl startedAt endedAt"),
            writable=_names("metadata"),
            redacted=_names("connectUrl"),
        ),
        "cf_agents": Policy(label="name", shown=_names("swarm_id type name status capabilities current_task_id")),
        "cf_memory_store": Policy(
            label="key_name", shown=_names("namespace key_name value expires_at updated_at"), visible=_unexpired
        ),
        "cf_neural_patterns": Policy(
            label="pattern_type", shown=_names("swarm_id pattern_type confidence usage_count success_rate")
        ),
        "cf_session_history": Policy(
            label="swarm_id", shown=_names("swarm_id started_at ended_at tasks_completed tasks_failed")
        ),
        "cf_swarms": Policy(
            label="name",
            shown=_names("name topology strategy status max_agents created_at"),
            writable=_names("name"),
        ),
        "cf_task_assignments": Policy(
            label="status",
            shown=_names("task_id agent_id attempt status execution_id started_at completed_at"),
        ),
        "cf_task_dependencies": Policy(
            label="dependency_type", shown=_names("task_id depends_on dependency_type status")
        ),
        "cf_tasks": Policy(
            label="description",
            shown=_names("swarm_id description kind priority status progress created_at"),
        ),
        "clientProfiles": Policy(
            label="name",
            shown=_names("name industry website createdAt"),
            writable=_names("name brandVoice targetAudience industry website socialLinks seoConfig assets"),
            creates=True,
            removes=True,
        ),
        # s3Key decides which bytes a row means, so neither it nor the row that frees them is generic.
        "documents": Policy(
            label="filename",
            shown=_names("filename mimeType size createdAt"),
            writable=_names("filename mimeType metadata"),
        ),
        "generatedProjects": Policy(
            label="name",
            shown=_names("name techStack status previewUrl deploymentUrl createdAt"),
            writable=_names("name description techStack features filesSnapshot"),
            creates=True,
            removes=True,
        ),
        "inboundMessages": Policy(
            label="body",
            shown=_names("webhookId conversationId from to body status receivedAt"),
            redacted=_names("rawBody"),
        ),
        "knowledgeEntries": Policy(
            label="content",
            shown=_names("category content confidence usageCount isActive"),
            writable=_names("category context content examples confidence isActive"),
            creates=True,
            removes=True,
        ),
        # A server on stdio is a command on the worker's machine, so only `agency tools` writes here.
        "mcpServers": Policy(
            label="name", shown=_names("name transport url isActive updatedAt"), redacted=_names("secretSealed")
        ),
        "outboundMessages": Policy(label="body", shown=_names("conversationId to body status error sentAt createdAt")),
        "toolExecutions": Policy(
            label="toolName", shown=_names("executionId toolName state success durationMs error executedAt")
        ),
        "toolOutbox": Policy(
            label="toolName", shown=_names("executionId toolName status attempts nextAttemptAt error createdAt")
        ),
        "userProfiles": Policy(
            label="displayName",
            shown=_names("displayName companyName industry teamSize"),
            writable=_names("displayName avatarUrl companyName industry teamSize primaryGoals preferences"),
            creates=True,
            removes=True,
        ),
        # A webhook is made by the operation that makes its token; removing one takes its conversations along.
        "userWebhooks": Policy(
            label="name",
            shown=_names("name type isActive autoRespond messageCount lastMessageAt"),
            writable=_names("name isActive systemPrompt responseFormat autoRespond responseDelay maxResponseLength"),
            redacted=_names("webhookToken config"),
            removes=True,
        ),
        "user_credits": Policy(label="creditType", shown=_names("creditType balance totalPurchased totalUsed")),
        # username and email are how one logs in: a conflict would tell which exist.
        "users": Policy(
            label="username",
            shown=_names("username email role isOnboarded createdAt"),
            writable=_names("isOnboarded"),
            redacted=_names("password"),
        ),
        "workflowExecutions": Policy(label="status", shown=_names("workflowId status error startedAt completedAt")),
    }
)
"""Every table that is an entity."""

NOT_ENTITIES: Mapping[str, str] = MappingProxyType(
    {
        "sessions": "login credentials: the key of a row is the hash of a token",
        "agentDeltas": "live text of replies, gone once they are recorded; watch a run instead",
        "agentReaders": "who watches right now",
        "blobs": "payloads that are read through the row that names them",
        "workers": "processes, which belong to no tenant",
        "idempotencyKeys": "bookkeeping of the doors; a key is known only to the caller who chose it",
    }
)
"""Every other table, and why it is none."""

RULES: Mapping[str, str] = MappingProxyType(
    {"ck_agencyTasks_assignedTo": "must be your own user id, or null: a card is assigned to its owner or to nobody"}
)
"""CHECKs that guard writable columns, in words: constraint → what would be right. Closed lists need none."""
