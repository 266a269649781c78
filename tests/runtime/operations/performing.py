"""Performs an operation as an agent would, in a transaction of its own."""

from dataclasses import replace
from typing import Any

from sqlalchemy import func, select

from runtime.operation import Context, Conversation, Operation, perform
from runtime.ports import Json
from runtime.testing import system_on
from storage.models.audit import AuditLog
from storage.tenancy import Database

AGENT = "shop:helper"


def chat(conversation_id: int) -> Conversation:
    return Conversation(id=conversation_id, webhook_id=1, participant_id="+49151")


async def performed(database: Database, user_id: int, operation: Operation, arguments: Json, **context: Any) -> Json:
    """Perform it and commit; `context` are fields of the Context."""
    local = system_on(database, user_id)
    async with database.begin(user_id) as db:
        ctx: Context = replace(await local.context(db, door="agent"), **{"agent_name": AGENT, **context})
        return await perform(operation, ctx, arguments)


async def audit_rows(database: Database, user_id: int) -> int:
    async with database.begin(user_id) as db:
        return await db.scalar(select(func.count()).select_from(AuditLog)) or 0
