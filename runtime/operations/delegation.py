"""Operations by which an agent has another one work: now and wait for it, or once at a later time.

Whoever is asked never may do more than whoever asks: its tools are cut down to those of both, it needs a person's word
wherever one of them does, and it gets no more than what is left of the other's limits.
"""

from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from runtime.agents import ASSISTANT, UnknownAgentError
from runtime.conversations import EXECUTE
from runtime.decide import Limits
from runtime.definitions import known_agent, passed_on
from runtime.errors import ToolError
from runtime.events import WaitsFor
from runtime.labels import Tier
from runtime.operation import Allowance, Context, operation
from runtime.ports import Json
from storage.jobs import JobRequest
from storage.queries import executions, waiting
from storage.queries.executions import Terms

DEEPEST = 3
"""Delegations from an execution that a person has started to the last one."""

FURTHEST = timedelta(days=366)
"""How far ahead something may be scheduled."""

Task = Annotated[str, Field(min_length=1, max_length=20_000, description="What is to be done; all that is needed.")]


@operation(effect="db", tier=Tier.T2)  # what its context had read goes with it: see the journal's scene
async def delegate(
    ctx: Context,
    agent: Annotated[str, Field(min_length=1, max_length=255, description="Name of the agent.")],
    task: Task,
) -> Json | WaitsFor:
    """Have another agent do a part of your work, and wait for its answer.

    It knows nothing but the task, and may do nothing that you may not do.
    """
    execution_id, allowance = _at_work(ctx, "delegate")
    if await waiting.depth(ctx.db, execution_id) >= DEEPEST:
        raise ToolError(f"this work has been handed on {DEEPEST} times; do it yourself")
    child_id = await _queue(ctx, agent, task, allowance, Terms(parent_id=execution_id))
    await ctx.jobs.enqueue(ctx.db, JobRequest(kind=EXECUTE, user_id=ctx.user_id, id=child_id))
    return WaitsFor(kind="execution", id=child_id)


# Outward as far as trust goes: what its context had read does not go with it, so a person looks at the task.
@operation(effect="db", tier=Tier.T4)
async def schedule(
    ctx: Context,
    task: Task,
    at: Annotated[str, Field(description="ISO date and time, e.g. 2030-05-01T09:00, in the user's time zone.")],
    agent: Annotated[str | None, Field(max_length=255, description="Name of the agent; default: assistant.")] = None,
) -> Json:
    """Have a task done once, at a later time, by yourself or another agent. Nobody waits for it."""
    _, allowance = _at_work(ctx, "schedule")
    due = _instant(ctx, at)
    scheduled_id = await _queue(ctx, agent or ASSISTANT.name, task, allowance, Terms(run_after=due))
    return {"id": scheduled_id, "at": due.astimezone(ctx.zone).isoformat(timespec="minutes")}


def _at_work(ctx: Context, name: str) -> tuple[int, Allowance]:
    if ctx.execution_id is None or ctx.allowance is None:
        raise ToolError(f"{name} is for an agent at work; start an execution instead")
    return ctx.execution_id, ctx.allowance()


async def _queue(ctx: Context, agent: str, task: str, allowance: Allowance, terms: Terms) -> int:
    """Queue a task in a session of its own, under no better terms than the caller's; return the execution's id."""
    try:
        found = await known_agent(ctx.db, agent)
    except UnknownAgentError as error:
        raise ToolError(str(error)) from error
    limits = passed_on(allowance, found.limits or Limits())
    used_up = sorted(name for name, value in limits.items() if value == 0)
    if used_up:
        raise ToolError(f"nothing is left of your limits ({', '.join(used_up)}) that you could hand on")
    session_id = await executions.create_session(ctx.db, ctx.user_id, one_task=True)
    return await executions.queue_execution(
        ctx.db,
        user_id=ctx.user_id,
        session_id=session_id,
        agent_name=found.name,
        task=task,
        terms=Terms(limits=limits, parent_id=terms.parent_id, run_after=terms.run_after),
    )


def _instant(ctx: Context, at: str) -> datetime:
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        raise ToolError(f"{at!r} is no ISO date and time; write it like 2030-05-01T09:00") from None
    if "T" not in at and " " not in at:
        raise ToolError(f"{at!r} has no time; write it like 2030-05-01T09:00")
    due = found if found.tzinfo else found.replace(tzinfo=ctx.zone)
    now = ctx.now.astimezone(ctx.zone)
    if due <= now:
        raise ToolError(f"{at!r} is over; it is {now.isoformat(timespec='minutes')} now")
    if due > now + FURTHEST:
        raise ToolError(f"{at!r} is more than a year ahead")
    return due
