"""Operations on executions: start one, look at it, stop it. For people and clients; an agent is not given these."""

from typing import Annotated, Any, assert_never

from pydantic import Field

from runtime.agents import ASSISTANT, agent_named
from runtime.conversations import EXECUTE
from runtime.errors import ToolError
from runtime.events import (
    CallApproved,
    CallWaits,
    Compacted,
    DefinitionChanged,
    ExecutionEnded,
    ModelReplied,
    PhaseAdvanced,
    Planned,
    ToolReturned,
    UserSpoke,
    event_adapter,
)
from runtime.operation import Context, operation
from runtime.ports import Json
from storage.errors import EntityNotFoundError
from storage.jobs import JobRequest
from storage.models.agents import AgentExecution, AgentSession, AgentStep
from storage.queries import executions, messaging

ExecutionId = Annotated[int, Field(ge=1, description="Id of the execution.")]


@operation(effect="db")
async def start_execution(
    ctx: Context,
    task: Annotated[str, Field(min_length=1, max_length=20_000, description="What is to be done.")],
    agent: Annotated[str | None, Field(max_length=255, description="Name of the agent; default: assistant.")] = None,
    session_id: Annotated[int | None, Field(ge=1, description="Session to continue; default: a new one.")] = None,
) -> Json:
    """Queue a task for an agent, with the job that wakes a worker."""
    name = agent_named(agent or ASSISTANT.name).name
    if session_id is None:
        session_id = await executions.create_session(ctx.db, ctx.user_id, one_task=True)
    else:
        await _require_own_session(ctx, session_id)
    execution_id = await executions.queue_execution(
        ctx.db, user_id=ctx.user_id, session_id=session_id, agent_name=name, task=task
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
) -> Json:
    """Tell where an execution stands, and what it has done since a step."""
    row = await executions.execution(ctx.db, id)
    steps = [step_view(step) for step in await executions.steps(ctx.db, id, after_seq=after_step, limit=limit)]
    return {
        "id": row.id,
        "sessionId": row.session_id,
        "agent": row.agent_name,
        "status": row.status,
        "isOver": row.status not in executions.ACTIVE,
        "phase": _phase(row),
        "waitingFor": row.waiting_for,
        "steps": steps,
        "lastStep": steps[-1]["step"] if steps else after_step,
        "result": _text(row.result),
        "error": row.error,
    }


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
