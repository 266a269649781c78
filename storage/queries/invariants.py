"""What must be true of a tenant's sessions and executions at every moment, also in the middle of work.

`RULES` are those that rows alone can tell, one statement and so one snapshot each. Whatever needs the words of an event
is compared by `runtime.invariants`, from the histories that `ended_histories` gives: Postgres cannot look into a `json`
body that has a NUL character in it.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ScalarResult, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models.agents import AgentExecution, AgentStep, ToolExecution
from storage.queries.executions import ACTIVE

_RowT = TypeVar("_RowT", AgentStep, ToolExecution)

_BATCH = 100
"""Executions that are in memory at once, with all their steps."""

_ACTIVE_EXECUTION = """
    EXISTS (SELECT FROM "agentExecutions" e WHERE e."sessionId" = s.id
            AND e.status IN ('pending', 'planning', 'executing'))
"""

_TOOL_ENTRY = """
    jsonb_build_object('tool', t."toolName", 'state', t.state, 'success', t.success, 'durationMs', t."durationMs",
                       'executionId', t."executionId", 'toolExecutionId', t.id, 'error', t.error)
"""

RULES: Mapping[str, str] = {
    "the journal of a session has a gap": """
        SELECT s.id, s."nextSeq", count(a.seq) AS steps, min(a.seq) AS first, max(a.seq) AS last
        FROM "agentSessions" s LEFT JOIN "agentSteps" a ON a."sessionId" = s.id
        GROUP BY s.id
        HAVING s."nextSeq" <> count(a.seq) + 1
            OR coalesce(min(a.seq), 1) <> 1 OR coalesce(max(a.seq), 0) <> count(a.seq)
    """,
    "a step is in another session than its execution": """
        SELECT e.id, e."sessionId" AS session, a."sessionId" AS "stepSession", a.seq
        FROM "agentSteps" a JOIN "agentExecutions" e ON e.id = a."executionId" WHERE a."sessionId" <> e."sessionId"
    """,
    "a driven execution has another number of ends than one": """
        SELECT e.id, e.status, count(*) FILTER (WHERE a.kind = 'control') AS ends FROM "agentExecutions" e
        JOIN "agentSteps" a ON a."executionId" = e.id
        GROUP BY e.id
        HAVING count(*) FILTER (WHERE a.kind = 'control')
            <> CASE WHEN e.status IN ('completed', 'failed', 'cancelled') THEN 1 ELSE 0 END
    """,
    "an execution counts other iterations than its replies": """
        SELECT e.id, e.iterations, count(a.seq) AS replies FROM "agentExecutions" e
        LEFT JOIN "agentSteps" a ON a."executionId" = e.id AND a.kind = 'assistant'
        GROUP BY e.id HAVING e.iterations <> count(a.seq)
    """,
    "a session does not add up to its executions": """
        SELECT s.id, s."iterationCount", s."tokensIn", s."tokensOut", s."costMicros", sums.*
        FROM "agentSessions" s, LATERAL (
            SELECT coalesce(sum(e.iterations), 0) AS iterations, coalesce(sum(e."tokensIn"), 0) AS tokens_in,
                   coalesce(sum(e."tokensOut"), 0) AS tokens_out,
                   CASE WHEN coalesce(bool_or(e."costMicros" IS NULL), false) THEN NULL
                        ELSE coalesce(sum(e."costMicros"), 0) END AS cost
            FROM "agentExecutions" e WHERE e."sessionId" = s.id
        ) sums
        WHERE (s."iterationCount", s."tokensIn", s."tokensOut") <> (iterations, tokens_in, tokens_out)
           OR s."costMicros" IS DISTINCT FROM cost
    """,
    "a terminal execution still promises the result of a call": """
        SELECT t.id, t."toolName", t.state, e.status FROM "toolExecutions" t
        JOIN "agentExecutions" e ON e.id = t."executionId"
        WHERE t.state IN ('pending', 'started', 'awaiting_approval')
          AND e.status IN ('completed', 'failed', 'cancelled')
    """,
    "a call and its results in the journal do not agree": """
        SELECT t.id, t."toolName", t.state, count(a.seq) AS results FROM "toolExecutions" t
        LEFT JOIN "agentSteps" a ON a."executionId" = t."executionId" AND a.kind = 'tool_result'
                                AND a.body ->> 'call_id' = t."toolUseId"
        GROUP BY t.id
        HAVING count(a.seq) > 1
            OR (t.state <> 'unknown' AND count(a.seq) <> CASE
                WHEN t.state IN ('done', 'error') OR (t.state = 'cancelled' AND t.success IS NOT NULL) THEN 1
                ELSE 0 END)
    """,
    "an execution has a time of its end exactly when it has ended": """
        SELECT id, status, "completedAt", "durationMs" FROM "agentExecutions"
        WHERE ("completedAt" IS NOT NULL) <> (status IN ('completed', 'failed', 'cancelled'))
           OR ("durationMs" IS NOT NULL) <> (status IN ('completed', 'failed', 'cancelled'))
    """,
    "a session is shown as busy although nothing is left to do in it": f"""
        SELECT s.id, s.status FROM "agentSessions" s
        WHERE s.status NOT IN ('idle', 'complete', 'error') AND NOT {_ACTIVE_EXECUTION}
    """,  # noqa: S608 -- built from constants, as below
    "a session is leased although nothing is left to do in it": f"""
        SELECT s.id, s."leaseOwner", s."leaseUntil" FROM "agentSessions" s
        WHERE s."leaseOwner" IS NOT NULL AND NOT {_ACTIVE_EXECUTION}
    """,  # noqa: S608
    "an ended execution shows other tool calls than its rows": f"""
        SELECT e.id, jsonb_array_length(e."toolExecutions") AS shown, jsonb_array_length(rows.entries) AS calls
        FROM "agentExecutions" e, LATERAL (
            SELECT coalesce(jsonb_agg(entry ORDER BY id), '[]'::jsonb) AS entries FROM (
                SELECT t.id, {_TOOL_ENTRY} AS entry FROM "toolExecutions" t
                WHERE t."executionId" = e.id ORDER BY t.id DESC LIMIT :length
            ) newest
        ) rows
        WHERE (e.status IN ('completed', 'failed', 'cancelled') OR e."waitingFor" IS NOT NULL)
            AND e."toolExecutions" <> rows.entries
    """,  # noqa: S608
    "a session shows other tool calls than those of its ended executions": f"""
        SELECT s.id, s.status, jsonb_array_length(s."toolHistory") AS shown, jsonb_array_length(rows.entries) AS calls
        FROM "agentSessions" s, LATERAL (
            SELECT coalesce(jsonb_agg(entry ORDER BY id), '[]'::jsonb) AS entries FROM (
                SELECT t.id, {_TOOL_ENTRY} AS entry FROM "toolExecutions" t
                JOIN "agentExecutions" e ON e.id = t."executionId"
                WHERE e."sessionId" = s.id AND e.status IN ('completed', 'failed', 'cancelled')
                ORDER BY t.id DESC LIMIT :length
            ) newest
        ) rows
        WHERE s."toolHistory" <> rows.entries
            AND NOT EXISTS (SELECT FROM "agentExecutions" e WHERE e."sessionId" = s.id
                            AND e.status IN ('planning', 'executing'))
    """,  # noqa: S608
    "a session shows other thoughts than its executions": """
        SELECT s.id, s.status, jsonb_array_length(s."thinkingSteps") AS shown, jsonb_array_length(rows.entries) AS steps
        FROM "agentSessions" s, LATERAL (
            SELECT coalesce(jsonb_agg(step ORDER BY id, at), '[]'::jsonb) AS entries FROM (
                SELECT e.id, step, at
                FROM "agentExecutions" e, jsonb_array_elements(e."thinkingSteps") WITH ORDINALITY x(step, at)
                WHERE e."sessionId" = s.id ORDER BY e.id DESC, at DESC LIMIT :length
            ) newest
        ) rows
        WHERE s."thinkingSteps" <> rows.entries
    """,
    "an execution that waits is held by somebody": """
        SELECT e.id, e.status, s.status AS session, s."leaseOwner" FROM "agentExecutions" e
        JOIN "agentSessions" s ON s.id = e."sessionId"
        WHERE e."waitingFor" IS NOT NULL
          AND (e.status NOT IN ('planning', 'executing') OR s.status <> 'paused' OR s."leaseOwner" IS NOT NULL)
    """,
    "an execution waits for what has come": """
        SELECT e.id, e."waitingFor" FROM "agentExecutions" e
        WHERE e."waitingFor" IS NOT NULL AND (
            EXISTS (SELECT FROM "toolExecutions" t
                    WHERE t."executionId" = e.id AND t.state = 'started' AND t.result IS NOT NULL)
            OR EXISTS (SELECT FROM approvals a JOIN "toolExecutions" t
                       ON t."executionId" = a."executionId" AND t."toolUseId" = a."toolUseId"
                       WHERE a."executionId" = e.id AND t.state = 'awaiting_approval' AND a.status <> 'pending')
            OR EXISTS (SELECT FROM "agentExecutions" child
                       WHERE e."waitingFor"->>'kind' = 'execution' AND child.id = (e."waitingFor"->>'id')::bigint
                         AND child.status IN ('completed', 'failed', 'cancelled')))
    """,
    "a call awaits an approval that nobody is asked for": """
        SELECT t.id, t."toolName", t."toolUseId" FROM "toolExecutions" t
        WHERE t.state = 'awaiting_approval' AND NOT EXISTS (
            SELECT FROM approvals a WHERE a."executionId" = t."executionId" AND a."toolUseId" = t."toolUseId")
    """,
    "a person is asked for an approval that no call awaits": """
        SELECT a.id, a."toolName", a."toolUseId" FROM approvals a
        WHERE a.status = 'pending' AND NOT EXISTS (
            SELECT FROM "toolExecutions" t WHERE t."executionId" = a."executionId" AND t."toolUseId" = a."toolUseId"
                AND t.state = 'awaiting_approval')
    """,
    "an approval is used up by a call that has not begun": """
        SELECT a.id, t.state FROM approvals a
        JOIN "toolExecutions" t ON t."executionId" = a."executionId" AND t."toolUseId" = a."toolUseId"
        WHERE a.status = 'used' AND t.state IN ('pending', 'awaiting_approval')
    """,
    "an approval outlives its execution": """
        SELECT a.id, a.status, e.status AS execution FROM approvals a
        JOIN "agentExecutions" e ON e.id = a."executionId"
        WHERE a.status IN ('pending', 'granted') AND e.status IN ('completed', 'failed', 'cancelled')
    """,
    "an ended execution is still paused, or waits": """
        SELECT id, status, "pausedAt", "waitingFor" FROM "agentExecutions"
        WHERE status IN ('completed', 'failed', 'cancelled') AND ("pausedAt" IS NOT NULL OR "waitingFor" IS NOT NULL)
    """,
}
"""A broken promise → the rows that break it; `:length` is how many entries a projection shows.

Executions without steps are those of agents that are functions: a swarm runs and ends them, no journal does.
"""


async def broken(db: AsyncSession, rules: Mapping[str, str], parameters: Mapping[str, Any]) -> list[str]:
    """Return every broken rule with the rows that break it; a rule is given the parameters that it names."""
    found: list[str] = []
    for rule, query in rules.items():
        named = {name: value for name, value in parameters.items() if f":{name}" in query}
        rows = (await db.execute(text(query), named)).mappings()
        found += [f"{rule}: {dict(row)}" for row in rows]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """An execution with everything that is recorded of it, oldest first."""

    execution: AgentExecution
    steps: Sequence[AgentStep]
    calls: Sequence[ToolExecution]


async def ended_histories(db: AsyncSession) -> AsyncGenerator[History]:
    """Yield every execution that has ended, oldest first; what they hold does not change any more."""
    after = 0
    while executions := await _ended_after(db, after):
        ids = [execution.id for execution in executions]
        steps, calls = await _steps_of(db, ids), await _calls_of(db, ids)
        for execution in executions:
            yield History(execution=execution, steps=steps[execution.id], calls=calls[execution.id])
        after = ids[-1]


async def _ended_after(db: AsyncSession, after: int) -> Sequence[AgentExecution]:
    ended = select(AgentExecution).where(AgentExecution.status.not_in(ACTIVE), AgentExecution.id > after)
    # What the caller's session has seen before may have changed since.
    fresh = ended.order_by(AgentExecution.id).limit(_BATCH).execution_options(populate_existing=True)
    return (await db.scalars(fresh)).all()


async def _steps_of(db: AsyncSession, execution_ids: Sequence[int]) -> Mapping[int, list[AgentStep]]:
    statement = select(AgentStep).where(AgentStep.execution_id.in_(execution_ids)).order_by(AgentStep.seq)
    return _grouped(await db.scalars(statement.execution_options(populate_existing=True)))


async def _calls_of(db: AsyncSession, execution_ids: Sequence[int]) -> Mapping[int, list[ToolExecution]]:
    statement = select(ToolExecution).where(ToolExecution.execution_id.in_(execution_ids)).order_by(ToolExecution.id)
    return _grouped(await db.scalars(statement.execution_options(populate_existing=True)))


def _grouped(rows: ScalarResult[_RowT]) -> Mapping[int, list[_RowT]]:
    grouped: defaultdict[int, list[_RowT]] = defaultdict(list)
    for row in rows:
        grouped[row.execution_id].append(row)
    return grouped
