"""The ledger: what must be true of a tenant's rows once everything has come to rest, whatever was killed before.

One checker for every fault and load test. It reads as the tenant does and knows nothing about how the rows came about.
"""

from collections.abc import Collection, Mapping
from typing import Any

import anyio
from sqlalchemy import text, update

from runtime.invariants import check_invariants
from runtime.toolbox import OPERATIONS
from storage.models.agents import AgentExecution, AgentSession
from storage.queries.invariants import broken
from storage.tenancy import Database

WRITING = sorted(found.name for found in OPERATIONS.values() if found.effect == "db")
"""The tools with an effect, each of which leaves one audit row in the transaction of its effect."""

LASTING_RULES: Mapping[str, str] = {
    "a card has no call that made it": """
        SELECT c.id, c.title FROM "agencyTasks" c
        WHERE c."executionId" IS NOT NULL AND NOT EXISTS (
            SELECT FROM "toolExecutions" t
            WHERE t."executionId" = c."executionId" AND t.state = 'done' AND t.result ->> 'id' = c.id::text
        )
    """,
    "a call has made a card that is not there": """
        SELECT t.id, t.result FROM "toolExecutions" t
        WHERE t."toolName" = 'create_task' AND t.state = 'done'
          AND NOT EXISTS (SELECT FROM "agencyTasks" c WHERE c.id::text = t.result ->> 'id')
    """,
    "two open cards for one wish": """
        SELECT "conversationId", intent, count(*) FROM "agencyTasks"
        WHERE "conversationId" IS NOT NULL AND status <> 'done'
        GROUP BY "conversationId", intent HAVING count(*) > 1
    """,
    "a call has left another number of replies than one": """
        SELECT t.id, t.result, count(o.id) AS replies FROM "toolExecutions" t
        LEFT JOIN "outboundMessages" o ON o.id::text = t.result ->> 'id'
        WHERE t."toolName" = 'reply' AND t.state = 'done' GROUP BY t.id HAVING count(o.id) <> 1
    """,
    "a message was answered more than once": """
        SELECT e.id, e.status, array_agg(o.id) AS replies FROM "agentExecutions" e
        JOIN "outboundMessages" o ON o."executionId" = e.id
        GROUP BY e.id HAVING count(*) > 1
    """,
    "another number of effects than of calls that are done": """
        SELECT coalesce(t.execution_id, l.execution_id) AS "executionId", coalesce(t.name, l.name) AS name,
               t.calls, l.effects
        FROM (
            SELECT "executionId"::text AS execution_id, "toolName" AS name, count(*) AS calls FROM "toolExecutions"
            WHERE state = 'done' AND "toolName" = ANY(:writing) GROUP BY 1, 2
        ) t FULL JOIN (
            SELECT "newValues" ->> 'executionId' AS execution_id, action AS name, count(*) AS effects FROM "auditLogs"
            WHERE "newValues" ->> 'executionId' IS NOT NULL AND action = ANY(:writing) GROUP BY 1, 2
        ) l ON l.execution_id = t.execution_id AND l.name = t.name
        WHERE t.calls IS DISTINCT FROM l.effects
    """,
}
"""A broken promise → the rows that break it; true at every moment, beside the invariants of the runtime.

"Answered more than once" holds for agents that speak once per turn, as the receptionist is told to.
"""

FINAL_RULES: Mapping[str, str] = {
    "an inbound message is not at its end": """
        SELECT id, status, "executionId" FROM "inboundMessages" WHERE status NOT IN ('processed', 'error')
    """,
    "an execution is not at its end": """
        SELECT id, status, attempt, "runAfter" FROM "agentExecutions"
        WHERE status NOT IN ('completed', 'failed', 'cancelled') AND "agentName" NOT LIKE '%:%'
    """,
}
"""As above; true once nothing is under way any more.

Agents called `module:qualname` are functions of a script: when it dies, nobody else can end what they were doing.
"""


async def lasting(database: Database, user_id: int) -> list[str]:
    """Return every promise that is broken although it holds at every moment, also while work is under way."""
    async with database.begin(user_id, read_only=True) as db:
        return [*await check_invariants(db), *await broken(db, LASTING_RULES, {"writing": WRITING})]


async def final(database: Database, user_id: int) -> list[str]:
    """Return what is not at its end yet."""
    async with database.begin(user_id, read_only=True) as db:
        return await broken(db, FINAL_RULES, {})


async def missing(database: Database, user_id: int, acknowledged: Collection[int]) -> list[str]:
    """Return the inbound messages that were acknowledged and are not stored."""
    async with database.begin(user_id, read_only=True) as db:
        stored = set(await db.scalars(text('SELECT id FROM "inboundMessages"')))
    return [
        f"message {inbound_id} was acknowledged and is gone" for inbound_id in acknowledged if inbound_id not in stored
    ]


async def check(database: Database, user_id: int, acknowledged: Collection[int] = ()) -> list[str]:
    """Return everything that is wrong with a tenant whose work is done; empty: all promises are kept."""
    return [
        *await missing(database, user_id, acknowledged),
        *await lasting(database, user_id),
        *await final(database, user_id),
    ]


async def settled(database: Database, user_id: int, *, timeout_s: float = 60) -> None:
    """Wait until nothing is under way; meanwhile no lasting rule may break.

    Raises:
        AssertionError: a rule was broken, or work was still under way after `timeout_s`.
    """
    open_work: list[str] = []
    with anyio.move_on_after(timeout_s):
        while True:
            assert await lasting(database, user_id) == []
            open_work = await final(database, user_id)
            if not open_work:
                return
            await anyio.sleep(0.1)
    raise AssertionError(f"not at rest after {timeout_s:g} s: {open_work}")


async def let_leases_lapse(database: Database, user_id: int) -> None:
    """Let it be a minute later for all that is under way, so that no lease holds and every wake-up counts as lost."""
    lapsed: dict[Any, Any] = {AgentSession.lease_until: text("now() - interval '45 seconds'")}
    older: dict[Any, Any] = {AgentExecution.created_at: text("now() - interval '1 minute'")}
    async with database.begin(user_id) as db:
        await db.execute(update(AgentSession).where(AgentSession.lease_owner.is_not(None)).values(lapsed))
        await db.execute(update(AgentExecution).where(AgentExecution.completed_at.is_(None)).values(older))
