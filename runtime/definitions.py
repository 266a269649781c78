"""What an agent was when it worked: the hash that an execution carries, and agents that are rows."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from runtime.agents import AGENTS, Agent, UnknownAgentError
from runtime.decide import Limits
from runtime.names import is_of_a_module
from runtime.operation import Allowance
from runtime.output import in_words
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
    return Agent(
        name=row.name,
        instructions=f"{row.instructions}{in_words(row.output_schema)}",
        model=row.model,
        tools=tuple(row.tools),
        limits=merged_limits(Limits(), row.limits),
        output_schema=row.output_schema,
    )


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


def narrower(limits: Limits, other: Limits) -> Limits:
    """Return what both allow; a limit that is None does not restrict."""

    def least(name: str) -> Any:
        given = [value for value in (getattr(limits, name), getattr(other, name)) if value is not None]
        return min(given, default=None)

    return replace(limits, **{name: least(name) for name in _WIRE.values()})


def passed_on(allowance: Allowance, limits: Limits) -> dict[str, Any]:
    """Return, as a row keeps it, what an agent at work may pass on to one with these limits: never more than it has."""
    return wire_limits(narrower(limits, allowance.limits)) | {
        "tools": sorted(allowance.tools),
        "approvals": sorted(allowance.approvals),
    }


def confined(agent: Agent, wire: Mapping[str, Any]) -> Agent:
    """Return the agent with no more than a row allows: the tools of whoever delegated to it, and its need to ask."""
    if "tools" not in wire:
        return agent
    tools = tuple(name for name in agent.tools if name in wire["tools"])
    return replace(agent, tools=tools, approvals=(*agent.approvals, *wire["approvals"]))


async def startable(db: AsyncSession, name: str) -> str:
    """Return the name under which an execution may be queued: of an agent that a module may have, or a known one.

    Raises:
        UnknownAgentError: it is neither.
    """
    return name if is_of_a_module(name) else (await known_agent(db, name)).name


async def known_agent(db: AsyncSession, name: str) -> Agent:
    """Return a built-in agent, or one that is a row of the tenant.

    Raises:
        UnknownAgentError: there is none of this name.
    """
    if name in AGENTS:
        return AGENTS[name]
    found = await defined_agent(db, name)
    if found is None:
        raise UnknownAgentError(name)
    return found


def wire_limits(limits: Limits) -> dict[str, Any]:
    """Return limits as a row keeps them, without those that are not set."""
    fields = {key: getattr(limits, name) for key, name in _WIRE.items()}
    return {key: value for key, value in fields.items() if value is not None}
