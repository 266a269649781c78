"""Agents at work: start an execution, look at it, stop it."""

from typing import Annotated

import anyio
from mcp_types import CallToolResult
from pydantic import Field

from mcp_server.app import App, CurrentApp
from mcp_server.once import once
from mcp_server.parameters import IdempotencyKey, Number
from mcp_server.results import Item, Receipt, RunState, receipt_result, run_result
from mcp_server.verbs import perform_verb, perform_verb_in
from runtime.ports import Json
from runtime.presence import nobody_for

LOOK_EVERY_S = 0.5
"""How often a waiting status call looks; no transaction is open in between."""


async def agent_run(
    app: CurrentApp,
    task: Annotated[str, Field(min_length=1, max_length=20_000, description="What is to be done, in plain words.")],
    agent: Annotated[str | None, Field(max_length=255, description="Default: assistant.")] = None,
    session_id: Annotated[Number | None, Field(description="Continue that session.")] = None,
    idempotency_key: IdempotencyKey = None,
) -> Annotated[CallToolResult, Receipt]:
    """Give a task to an agent of this account and return at once with the execution's id; a worker runs it.

    Use it for work of several steps, then follow it with agent_run_status. Fails on an unknown agent, or a session that
    is not there or belongs to a chat.
    """
    arguments: Item = {"task": task, "agent": agent, "session_id": session_id}
    async with app.writing() as db:

        async def start() -> Item:
            return await perform_verb_in(app, db, "agent_run", **arguments)

        made, is_repeated = await once(db, (app.user_id, "agent_run"), idempotency_key, arguments, start)
    hint = f"Follow it with agent_run_status(id={made['id']}, wait=20)."
    lonely = await nobody_for(app.database, made["agent"])
    if lonely is not None:
        hint += f" {lonely[:1].upper()}{lonely[1:]}."
    if app.model_name == "offline":
        hint += " The offline model answers here: there is no ANTHROPIC_API_KEY."
    done = "Queued before, under the same key:" if is_repeated else "Queued"
    return receipt_result(f"{done} execution {made['id']} for {made['agent']}", made, hint=hint)


async def agent_run_status(
    app: CurrentApp,
    id: Annotated[Number, Field(description="The execution's id.")],  # noqa: A002 -- the wire's name of the key
    after_step: Annotated[int, Field(ge=0, le=2**62, description="lastStep of the call before: only newer steps.")] = 0,
    wait: Annotated[float, Field(ge=0, le=20, description="Seconds to wait for something new.")] = 0,
) -> Annotated[CallToolResult, RunState]:
    """Show where an execution stands: status, phase, question it waits for, steps since after_step, result.

    With wait it returns as soon as there is a new step or the end. Fails when there is no such execution.
    """
    deadline = anyio.current_time() + wait
    seen = await _look(app, id, after_step)
    first = (seen["status"], seen["phase"], seen["waitingFor"])
    while not seen["isOver"] and not seen["steps"] and anyio.current_time() < deadline:
        await anyio.sleep(min(LOOK_EVERY_S, max(deadline - anyio.current_time(), 0)))
        seen = await _look(app, id, after_step)
        if (seen["status"], seen["phase"], seen["waitingFor"]) != first:
            break
    return run_result(_state(seen))


async def agent_run_cancel(
    app: CurrentApp,
    id: Annotated[Number, Field(description="The execution's id.")],  # noqa: A002 -- as above
) -> Annotated[CallToolResult, Receipt]:
    """Ask an execution to stop; what it has done stays done.

    It stops at its next step, so look at agent_run_status. Fails when there is no such execution; one that is over
    stays as it is.
    """
    asked = await perform_verb(app, "agent_run_cancel", id=id)
    if asked["isOver"]:
        return receipt_result(f"Execution {id} was over already: {asked['status']}", asked)
    return receipt_result(f"Asked execution {id} to stop", asked, hint="It stops at its next step.")


async def agent_run_reply(
    app: CurrentApp,
    id: Annotated[Number, Field(description="The execution's id.")],  # noqa: A002 -- as above
    text: Annotated[str, Field(min_length=1, max_length=20_000, description="The user's answer, in their words.")],
    question: Annotated[Number | None, Field(description="Which, when several are open: its id in waitingFor.")] = None,
) -> Annotated[CallToolResult, Receipt]:
    """Answer the question that an execution waits for (waitingFor in agent_run_status); it goes on with these words.

    Ask the user first. Fails when no question is open, or it waits for an approval, which only a person gives.
    """
    answered = await perform_verb(app, "agent_run_reply", id=id, text=text, question=question)
    hint = f"Follow it with agent_run_status(id={id}, wait=20)."
    return receipt_result(f"Answered question {answered['question']} of execution {id}", answered, hint=hint)


async def _look(app: App, execution_id: int, after_step: int) -> Json:
    return await perform_verb(app, "agent_run_status", id=execution_id, after_step=after_step)


def _how_to_answer(seen: Json) -> str:
    match seen["waitingFor"]["kind"]:
        case "answer":
            return f"It waits for an answer: ask the user, then call agent_run_reply(id={seen['id']}, text=...)."
        case "approval":
            return "It waits for an approval, which only a person gives; tell the user the command in waitingFor."
        case _:
            return f"It waits for another execution: call again with after_step={seen['lastStep']}, wait=20."


def _state(seen: Json) -> RunState:
    hint = None
    if not seen["isOver"]:
        hint = f"Not over yet: call again with after_step={seen['lastStep']}, wait=20."
    if seen["waitingFor"] is not None:
        hint = _how_to_answer(seen)
    if seen["status"] == "pending":
        hint = "Queued: a worker takes it up (this server's own, or 'agency worker'). Call again with wait=20."
    return RunState(
        id=seen["id"],
        session_id=seen["sessionId"],
        agent=seen["agent"],
        status=seen["status"],
        phase=seen["phase"],
        waiting_for=seen["waitingFor"],
        steps=seen["steps"],
        last_step=seen["lastStep"],
        result=seen["result"],
        error=seen["error"],
        hint=hint,
        untrusted=True,
    )
