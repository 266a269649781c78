"""Operations on executions: start one, look at it, answer it, hold it, stop it, try it another way.

For people and clients; an agent is not given these.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, assert_never

from pydantic import BaseModel, ConfigDict, Field

from runtime.agents import ASSISTANT
from runtime.conversations import EXECUTE
from runtime.definitions import startable
from runtime.errors import ToolError
from runtime.events import (
    CallApproved,
    CallWaits,
    Compacted,
    DefinitionChanged,
    Event,
    ExecutionEnded,
    ModelReplied,
    PhaseAdvanced,
    Planned,
    ToolReturned,
    UserSpoke,
    event_adapter,
)
from runtime.operation import Context, operation
from runtime.operations.waiting import answer_question, no_step, not_over, waiting_view, withdraw_questions
from runtime.ports import Json
from storage.errors import EntityConflictError, EntityNotFoundError
from storage.jobs import JobRequest
from storage.models.agents import AgentExecution, AgentSession, AgentStep
from storage.queries import executions, messaging, waiting
from storage.queries.executions import Terms

ExecutionId = Annotated[int, Field(ge=1, description="Id of the execution.")]


class LimitsGiven(BaseModel):
    """What an execution may use, under the names that its row has."""

    model_config = ConfigDict(extra="forbid")

    iterations: Annotated[int | None, Field(ge=1, le=10_000, description="Model replies.")] = None
    tokens: Annotated[int | None, Field(ge=1, le=10**12, description="Read and written.")] = None
    costMicros: Annotated[int | None, Field(ge=1, le=10**15, description="Millionths of a US dollar.")] = None  # noqa: N815 -- the wire name
    seconds: Annotated[float | None, Field(gt=0, le=10**9, description="From start to end, waiting included.")] = None
    toolCalls: Annotated[int | None, Field(ge=0, le=10**6, description="Tool calls.")] = None  # noqa: N815 -- as above


@operation(effect="db")
async def start_execution(
    ctx: Context,
    task: Annotated[str, Field(min_length=1, max_length=20_000, description="What is to be done.")],
    agent: Annotated[str | None, Field(max_length=255, description="Name of the agent; default: assistant.")] = None,
    session_id: Annotated[int | None, Field(ge=1, description="Session to continue; default: a new one.")] = None,
    limits: Annotated[LimitsGiven | None, Field(description="What it may use; default: as its agent says.")] = None,
) -> Json:
    """Queue a task for an agent, with the job that wakes a worker.

    In a session that waits for the answer to a question, the task withdraws the question.
    """
    name = await startable(ctx.db, agent or ASSISTANT.name)
    if session_id is None:
        session_id = await executions.create_session(ctx.db, ctx.user_id, one_task=True)
    else:
        await _require_own_session(ctx, session_id)
        await withdraw_questions(ctx, session_id)
    execution_id = await executions.queue_execution(
        ctx.db,
        user_id=ctx.user_id,
        session_id=session_id,
        agent_name=name,
        task=task,
        terms=Terms(limits=limits.model_dump(exclude_none=True) if limits else {}),
    )
    await ctx.jobs.enqueue(ctx.db, JobRequest(kind=EXECUTE, user_id=ctx.user_id, id=execution_id))
    return {"id": execution_id, "sessionId": session_id, "agent": name, "status": "pending"}


async def _require_own_session(ctx: Context, session_id: int) -> None:
    """A conversation's session is not for this: what its agent says last is sent to the participant."""
    if await ctx.db.get(AgentSession, session_id) is None:
        raise EntityNotFoundError("agentSessions", session_id)
    conversation = await messaging.conversation_of_session(ctx.db, session_id)
    if conversation is not None:
        raise ToolError(
            f"session {session_id} belongs to conversation {conversation.id}, whose participant would get the answer; "
            "leave session_id out"
        )


@operation(effect="none")
async def execution_status(
    ctx: Context,
    id: ExecutionId,  # noqa: A002 -- the wire name of the key
    after_step: Annotated[int, Field(ge=0, description="Only steps after this one.")] = 0,
    limit: Annotated[int, Field(ge=1, le=1000, description="At most this many steps.")] = 100,
    at_step: Annotated[int | None, Field(ge=1, description="As it was after this step; default: now.")] = None,
) -> Json:
    """Tell where an execution stands, or stood after a step, and what it has done since another one."""
    row = await executions.execution(ctx.db, id)
    found = await executions.steps(ctx.db, id, after_seq=after_step, upto=at_step, limit=limit)
    steps = [step_view(step) for step in found]
    seen = await _now(ctx, row, steps, after_step)
    return seen if at_step is None else seen | await _as_of(ctx, row, at_step)


async def _now(ctx: Context, row: AgentExecution, steps: Sequence[Json], after_step: int) -> Json:
    session = await ctx.db.get_one(AgentSession, row.session_id)
    return {
        "id": row.id,
        "sessionId": row.session_id,
        "agent": row.agent_name,
        "status": row.status,
        "isOver": row.status not in executions.ACTIVE,
        "phase": _phase(row),
        "plan": row.plan,
        "waitingFor": await waiting_view(ctx, row),
        "pausedAt": _time(row.paused_at),
        "runAfter": _time(row.run_after),
        "cancelRequested": row.cancel_requested_at is not None,
        "usage": {
            "iterations": row.iterations,
            "tokensIn": row.tokens_in,
            "tokensOut": row.tokens_out,
            "costMicros": row.cost_micros,
            "toolCalls": row.tool_calls,
            "perhapsTokens": row.reserved_tokens + row.unsettled_tokens,
            "perhapsCostMicros": row.reserved_cost_micros + row.unsettled_cost_micros,
        },
        "limits": session.limits | row.limits,
        "parent": row.parent_execution_id,
        "children": [_relative(child) for child in await waiting.children(ctx.db, row.id)],
        "scheduled": await _scheduled(ctx, row),
        "forkedFrom": _origin(session),
        "steps": steps,
        "lastStep": steps[-1]["step"] if steps else after_step,
        "result": _text(row.result),
        "error": row.error,
    }


def _time(instant: datetime | None) -> str | None:
    return instant.isoformat(timespec="seconds") if instant else None


def _origin(session: AgentSession) -> Json | None:
    if session.parent_session_id is None:
        return None
    return {"sessionId": session.parent_session_id, "step": session.parent_seq}


def _relative(row: AgentExecution) -> Json:
    return {"id": row.id, "agent": row.agent_name, "status": row.status, "runAfter": _time(row.run_after)}


async def _scheduled(ctx: Context, row: AgentExecution) -> list[Json]:
    """Return what an execution has put off until later."""
    if row.tool_calls == 0:
        return []
    found: list[Json] = []
    for call in await executions.tool_executions(ctx.db, row.id):
        result: Any = call.result
        if call.tool_name == "schedule" and call.state == "done":
            found.append(_relative(await executions.execution(ctx.db, result["id"])))
    return found


async def _as_of(ctx: Context, row: AgentExecution, at_step: int) -> Json:
    """Return what an execution looked like after one of its steps, as far as its journal tells.

    Raises:
        EntityNotFoundError: it has no such step.
    """
    steps = await executions.steps(ctx.db, row.id, upto=at_step, limit=None)
    if not steps or steps[-1].seq != at_step:
        raise no_step(row.id, at_step)
    events = [event_adapter.validate_python(step.body) for step in steps]
    ended = next((event for event in events if isinstance(event, ExecutionEnded)), None)
    plan, phase = _plan_in(events)
    return {
        "status": ended.status if ended else "planning" if plan is None else "executing",
        "isOver": ended is not None,
        "plan": plan,
        "phase": phase,
        "waitingFor": _waits_in(events),
        "pausedAt": None,
        "runAfter": None,
        "lastStep": at_step,
        "result": ended.text if ended and ended.status == "completed" else None,
        "error": ended.text if ended and ended.status != "completed" else None,
    }


def _plan_in(events: Sequence[Event]) -> tuple[Json | None, str | None]:
    plan: Json | None = None
    phase: str | None = None
    for event in events:
        match event:
            case Planned(goal=goal, phases=phases):
                plan, phase = {"goal": goal, "phases": list(phases)}, phases[0]
            case PhaseAdvanced(name=name):
                phase = name
            case _:
                pass
    return plan, phase


def _waits_in(events: Sequence[Event]) -> Json | None:
    settled = {event.call_id for event in events if isinstance(event, ToolReturned | CallApproved)}
    waits = [event.waits_for for event in events if isinstance(event, CallWaits) and event.call_id not in settled]
    if not waits:
        return None
    return waits[0].model_dump() | {"calls": len(waits), "asked": [found.model_dump() for found in waits]}


@operation(effect="db")
async def reply_execution(
    ctx: Context,
    id: ExecutionId,  # noqa: A002 -- the wire name of the key
    text: Annotated[str, Field(min_length=1, max_length=20_000, description="The answer; the agent reads it.")],
    question: Annotated[int | None, Field(ge=1, description="Which, when several are open: the card's id.")] = None,
) -> Json:
    """Answer the question that an execution waits for; it goes on with your words. Approvals are not given this way."""
    not_over(await executions.execution(ctx.db, id), executions.ACTIVE)
    answered = await answer_question(ctx, id, text, question)
    return {"id": id, "question": answered, "answered": True}


@operation(effect="db")
async def pause_execution(
    ctx: Context,
    id: ExecutionId,  # noqa: A002 -- the wire name of the key
) -> Json:
    """Hold an execution from its next commit on, until it is resumed. A model call under way is still recorded."""
    not_over(await executions.execution(ctx.db, id), executions.ACTIVE)
    if not await waiting.pause(ctx.db, id):
        raise EntityConflictError("agentExecutions", f"execution {id} has just ended")
    return {"id": id, "paused": True}


@operation(effect="db")
async def resume_execution(
    ctx: Context,
    id: ExecutionId,  # noqa: A002 -- the wire name of the key
) -> Json:
    """Let a paused execution go on; one that waits for an answer goes on waiting."""
    row = await executions.execution(ctx.db, id)
    not_over(row, executions.ACTIVE)
    if not await waiting.unpause(ctx.db, id):
        raise EntityConflictError("agentExecutions", f"execution {id} is not paused")
    await ctx.jobs.enqueue(ctx.db, JobRequest(kind=EXECUTE, user_id=ctx.user_id, id=id))
    return {"id": id, "paused": False}


@operation(effect="db")
async def fork_execution(
    ctx: Context,
    id: ExecutionId,  # noqa: A002 -- the wire name of the key
    at_step: Annotated[int, Field(ge=1, description="The last step of its session that the fork remembers.")],
    task: Annotated[str, Field(min_length=1, max_length=20_000, description="What to do instead.")],
) -> Json:
    """Try again from a step: a new session that remembers everything up to it, and an execution of the same agent."""
    row = await executions.execution(ctx.db, id)
    session = await ctx.db.get_one(AgentSession, row.session_id)
    if at_step >= session.next_seq:
        raise no_step(id, at_step)
    session_id = await executions.fork_session(ctx.db, ctx.user_id, session, upto=at_step)
    terms = Terms(limits=row.limits)
    execution_id = await executions.queue_execution(
        ctx.db, user_id=ctx.user_id, session_id=session_id, agent_name=row.agent_name, task=task, terms=terms
    )
    await ctx.jobs.enqueue(ctx.db, JobRequest(kind=EXECUTE, user_id=ctx.user_id, id=execution_id))
    return {"id": execution_id, "sessionId": session_id, "agent": row.agent_name, "status": "pending"}


@operation(effect="db")
async def cancel_execution(
    ctx: Context,
    id: ExecutionId,  # noqa: A002 -- the wire name of the key
) -> Json:
    """Ask an execution to stop at its next commit; one that is over stays as it is."""
    row = await executions.execution(ctx.db, id)
    is_over = row.status not in executions.ACTIVE
    if not is_over:
        await executions.request_cancel(ctx.db, id)
        # Nobody drives one that waits or is paused; any worker can end it, whoever defined its agent.
        await ctx.jobs.enqueue(ctx.db, JobRequest(kind=EXECUTE, user_id=ctx.user_id, id=id))
    return {"id": id, "status": row.status, "isOver": is_over}


def step_view(step: AgentStep) -> Json:
    """Return a step of the journal as people and clients see it: `{step, kind, text}`, text from outside included."""
    return {"step": step.seq, "kind": step.kind, "text": _said(step)}


def _said(step: AgentStep) -> str:
    match event_adapter.validate_python(step.body):
        case UserSpoke(text=text):
            return text
        case ModelReplied() as reply:
            calls = [f"{call.name}({_arguments(call.arguments)})" for call in reply.calls]
            return "\n".join(part for part in (reply.text, *calls) if part)
        case ToolReturned(name=name, content=content, is_error=is_error):
            return f"{name}{' failed' if is_error else ''}: {content}"
        case Planned(goal=goal, phases=phases):
            return f"{goal}: {', '.join(phases)}"
        case PhaseAdvanced(name=name):
            return name
        case Compacted(steps=steps, summary=summary):
            return f"the first {steps} steps in short: {summary}"
        case ExecutionEnded(status=status, text=text):
            return f"{status}: {text}"
        case CallWaits() | CallApproved() | DefinitionChanged() as noted:
            return _noted(noted)
        case _ as unreachable:
            assert_never(unreachable)


def _noted(event: CallWaits | CallApproved | DefinitionChanged) -> str:
    match event:
        case CallWaits(waits_for=waits_for):
            return f"waits for {waits_for.kind} {waits_for.id}"
        case CallApproved(by=by, approval_id=approval_id):
            return f"approval {approval_id} was granted by {by}"
        case DefinitionChanged():
            return "the agent has another definition from here on"


def _arguments(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _phase(row: AgentExecution) -> str | None:
    return row.phases[row.current_phase_index]["name"] if row.current_phase_index < len(row.phases) else None


def _text(result: Any) -> str | None:
    """Return the words of a result: `{"text": ...}`, or nothing yet."""
    return result["text"] if result else None
