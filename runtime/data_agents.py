"""Agents that are rows: what a definition may say, checked before it is kept.

Over MCP such a row can be written as any other; then what is wrong with it shows when it is used.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from runtime.agents import AGENTS
from runtime.errors import UnknownToolError
from runtime.local import Local
from runtime.names import is_of_a_program
from runtime.operations.executions import LimitsGiven
from runtime.output import check_schema
from runtime.ports import Json
from runtime.toolbox import OPERATIONS
from storage.errors import InvalidValueError
from storage.models.audit import AuditLog
from storage.models.runtime import AgentDefinition
from storage.queries import agent_definitions, workers
from storage.values import check_json

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")


class Definition(BaseModel):
    """What a file or the options of a command say about an agent, under the names of its row."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, populate_by_name=True)

    instructions: Annotated[str, Field(min_length=1, max_length=100_000)]
    model: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][\w.:/@-]*$", max_length=100)] = None
    tools: list[str] = []
    limits: LimitsGiven = LimitsGiven()
    output_schema: Annotated[Json | None, Field(alias="outputSchema")] = None


def parsed(name: str, given: Mapping[str, Any]) -> Definition:
    """Return a definition in which everything that can be checked without a database is right.

    Raises:
        InvalidValueError: it is not.
    """
    if name in AGENTS or not _NAME.fullmatch(name):
        reason = "is built in" if name in AGENTS else "is no name for it; use lower-case letters, digits, - _ and ."
        raise InvalidValueError(f"the agent {name!r}", reason)
    check_json(dict(given), "the definition")
    try:
        definition = Definition.model_validate(dict(given))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()]
        reason = f"{'; '.join(problems)} (legal: {', '.join(_legal())})"
        raise InvalidValueError(f"the definition of {name!r}", reason) from error
    if definition.output_schema is not None:
        check_schema(definition.output_schema)
    return definition


def _legal() -> list[str]:
    return [field.alias or name for name, field in Definition.model_fields.items()]


async def check_tools(local: Local, tools: Sequence[str]) -> None:
    """Look whether each of these is a tool: built in, of another MCP server, or of a program here or at work.

    Raises:
        InvalidValueError: one of them is not.
    """
    async with local.database.begin_dispatch() as db:
        at_work = {tool for process in await workers.living(db) for tool in process.tools}
    known = {*OPERATIONS, *local.registry.tools, *filter(is_of_a_program, at_work)}
    for name in tools:
        if "/" not in name and name not in known:
            hint = "; name its module with --app, or start its worker first" if is_of_a_program(name) else ""
            raise InvalidValueError(f"the tool {name!r}", f"is not known{hint}; known: {', '.join(sorted(known))}")
    if local.tool_source is None:
        return
    try:
        await local.tool_source.operations(local.user_id, [name for name in tools if "/" in name])
    except UnknownToolError as error:
        raise InvalidValueError(f"the tool {error.name!r}", "is none that 'agency tools list' shows") from error


async def save(db: AsyncSession, user_id: int, name: str, definition: Definition) -> AgentDefinition:
    """Keep a definition, which is used from the next iteration on, and return its row."""
    row = await agent_definitions.save(
        db,
        user_id=user_id,
        name=name,
        instructions=definition.instructions,
        model=definition.model,
        tools=definition.tools,
        output_schema=definition.output_schema,
        limits=definition.limits.model_dump(exclude_none=True),
    )
    _audit(db, user_id, "agents.define", row.id, {"name": name, "tools": definition.tools})
    return row


async def remove(db: AsyncSession, user_id: int, name: str) -> None:
    """Forget an agent.

    Raises:
        EntityNotFoundError: the tenant has none of this name.
    """
    row_id = await agent_definitions.remove(db, name)
    _audit(db, user_id, "agents.remove", row_id, {"name": name})


def _audit(db: AsyncSession, user_id: int, action: str, row_id: int, values: Json) -> None:
    """Leave the names, never the instructions: they may be personal."""
    db.add(AuditLog(user_id=user_id, action=action, entity_type="cli", entity_id=str(row_id), new_values=values))
