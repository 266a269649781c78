"""The only map from MCP tools to operations. An operation has one name, the agent's; a client knows it by this one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from mcp_server.app import App
from runtime.operation import Operation, perform
from runtime.operations import board, executions, memory
from runtime.ports import Json

VERBS: Mapping[str, Operation] = MappingProxyType(
    {
        "agent_run": executions.start_execution,
        "agent_run_status": executions.execution_status,
        "agent_run_cancel": executions.cancel_execution,
        "agent_run_reply": executions.reply_execution,
        "memory_search": memory.recall,
        "memory_write": memory.remember,
        "task_board": board.find_tasks,
        "task_move": board.update_task,
    }
)
"""Tool → operation."""


async def perform_verb(app: App, tool: str, **arguments: Any) -> Json:
    """Perform the operation behind `tool` in a transaction of its own; an argument that is None was not given."""
    begin = app.reading if VERBS[tool].effect == "none" else app.writing
    async with begin() as db:
        return await perform_verb_in(app, db, tool, **arguments)


async def perform_verb_in(app: App, db: AsyncSession, tool: str, **arguments: Any) -> Json:
    """Perform the operation behind `tool` in the caller's transaction; an argument that is None was not given."""
    given = {name: value for name, value in arguments.items() if value is not None}
    return await perform(VERBS[tool], await app.context(db), given)
