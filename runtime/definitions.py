"""What an agent was when it worked: the hash that an execution carries, and agents that are rows."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from runtime.agents import Agent
from runtime.decide import Limits
from runtime.ports import ToolSpec
from storage.queries import executions
from storage.tenancy import Database


def definition_hash(agent: Agent, prompt: str, tools: Iterable[ToolSpec]) -> str:
    """Return the SHA-256 over instructions, model, tool names and schemas, hexadecimal."""
    said = [
        agent.instructions,
        prompt,
        agent.model,
        [[tool.name, tool.description, tool.input_schema] for tool in tools],
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class AgentRows:
    """The agents that are rows of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, user_id: int, name: str) -> Agent | None:
        """Return the tenant's agent of this name, or None."""
        async with self._database.begin(user_id, read_only=True) as db:
            return await defined_agent(db, name)


async def defined_agent(db: AsyncSession, name: str) -> Agent | None:
    """Return the agent of this name that is a row of the tenant, or None."""
    row = await executions.agent_definition(db, name)
    if row is None:
        return None
    limits = merged_limits(Limits(), row.limits)
    return Agent(name=row.name, instructions=row.instructions, model=row.model, tools=tuple(row.tools), limits=limits)


_WIRE = {
    "iterations": "iterations",
    "tokens": "tokens",
    "costMicros": "cost_micros",
    "seconds": "seconds",
    "toolCalls": "tool_calls",
}
"""Keys of the jsonb columns `limits` → fields of `Limits`."""


def merged_limits(limits: Limits, wire: Mapping[str, Any]) -> Limits:
    """Return the limits with what a row says over them; keys that nobody knows are left alone."""
    known = {_WIRE[key]: value for key, value in wire.items() if key in _WIRE and value is not None}
    return replace(limits, **known)


def wire_limits(limits: Limits) -> dict[str, Any]:
    """Return limits as a row keeps them, without those that are not set."""
    fields = {key: getattr(limits, name) for key, name in _WIRE.items()}
    return {key: value for key, value in fields.items() if value is not None}
