"""What an execution waits for, in words, and the answers that people give to its questions."""

from dataclasses import dataclass

from runtime.conversations import wake
from runtime.errors import NotAuthorisedError
from runtime.events import CallWaits, event_adapter
from runtime.operation import Context
from runtime.ports import Json
from storage.errors import EntityConflictError, EntityNotFoundError
from storage.models.agents import AgentExecution
from storage.queries import waiting

WITHDRAWN = "withdrawn: somebody said something new instead of answering"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that an execution waits for."""

    call_id: str
    card_id: int


async def open_waits(ctx: Context, execution_id: int) -> list[CallWaits]:
    """Return the calls of an execution that wait, oldest first."""
    noted = [
        event_adapter.validate_python(step.body)
        for step in await waiting.steps_of_kinds(ctx.db, execution_id, ["system"])
    ]
    waits = [event for event in noted if isinstance(event, CallWaits)]
    still = await waiting.without_result(ctx.db, execution_id, [event.call_id for event in waits])
    return [event for event in waits if event.call_id in still]


async def waiting_view(ctx: Context, row: AgentExecution) -> Json | None:
    """Return what an execution waits for as people and clients see it, every call with what is asked; None: nothing."""
    if row.waiting_for is None:
        return None
    waits = [event.waits_for for event in await open_waits(ctx, row.id)]
    texts = await waiting.question_texts(ctx.db, [found.id for found in waits if found.kind == "answer"])
    asked: list[Json] = []
    for found in waits:
        match found.kind:
            case "answer":
                question = texts.get(found.id)
                asked.append({"kind": "answer", "id": found.id, "question": question, "how": _reply(row.id)})
            case "approval":
                asked.append(await _approval(ctx, found.id))
            case "execution":
                asked.append({"kind": "execution", "id": found.id})
    return row.waiting_for | {"asked": asked}


def _reply(execution_id: int) -> str:
    return f"agency run reply {execution_id} TEXT"


async def _approval(ctx: Context, approval_id: int) -> Json:
    found = await waiting.approval(ctx.db, approval_id)
    return {
        "kind": "approval",
        "id": found.id,
        "tool": found.tool_name,
        "payload": found.payload,
        "reason": found.reason,
        "how": f"agency approval grant {found.id}",
    }


async def answer_question(ctx: Context, execution_id: int, text: str, question_id: int | None) -> int:
    """Answer the one open question of an execution, or that with the id of its card; return that id.

    Raises:
        EntityConflictError: nobody asks, or somebody was faster.
        NotAuthorisedError: it waits for an approval, which is not given in words.
    """
    waits = await open_waits(ctx, execution_id)
    questions = [
        Question(call_id=event.call_id, card_id=event.waits_for.id)
        for event in waits
        if event.waits_for.kind == "answer" and question_id in (None, event.waits_for.id)
    ]
    if not questions:
        approvals = [event.waits_for.id for event in waits if event.waits_for.kind == "approval"]
        if approvals and question_id in (None, *approvals):
            raise NotAuthorisedError(_not_in_words(execution_id, approvals[0]))
        raise EntityConflictError("agentExecutions", f"execution {execution_id} has no {_which(question_id)} open")
    if len(questions) > 1:
        open_ids = ", ".join(str(found.card_id) for found in questions)
        raise EntityConflictError("agentExecutions", f"several questions are open, say which one: {open_ids}")
    question = questions[0]
    await _answer(ctx, execution_id, question, text)
    await wake(ctx.db, ctx.jobs, ctx.user_id, execution_id)
    return question.card_id


def _which(question_id: int | None) -> str:
    return "question" if question_id is None else f"question {question_id}"


def _not_in_words(execution_id: int, approval_id: int) -> str:
    return (
        f"execution {execution_id} waits for approval {approval_id}, which only a person gives; look at it with "
        f"'agency approval show {approval_id}', then run 'agency approval grant {approval_id}' or 'deny'"
    )


async def _answer(ctx: Context, execution_id: int, question: Question, text: str) -> None:
    by = await waiting.username(ctx.db, ctx.user_id)
    if not await waiting.answer_call(ctx.db, execution_id, question.call_id, answer=text, by=by):
        raise EntityConflictError("agentExecutions", f"question {question.card_id} was answered already")
    await waiting.close_question(ctx.db, question.card_id)


async def withdraw_questions(ctx: Context, session_id: int) -> None:
    """Answer the open questions of a session's executions with a word that there will be no answer."""
    for execution_id in await waiting.waiting_in(ctx.db, session_id):
        waits = [event for event in await open_waits(ctx, execution_id) if event.waits_for.kind == "answer"]
        for event in waits:
            question = Question(call_id=event.call_id, card_id=event.waits_for.id)
            await _answer(ctx, execution_id, question, WITHDRAWN)
        if waits:
            await wake(ctx.db, ctx.jobs, ctx.user_id, execution_id)


def not_over(row: AgentExecution, active: tuple[str, ...]) -> None:
    """Refuse what makes no sense for an execution that has ended.

    Raises:
        EntityConflictError: it has.
    """
    if row.status not in active:
        raise EntityConflictError("agentExecutions", f"execution {row.id} is over: {row.status}")


def no_step(execution_id: int, step: int) -> EntityNotFoundError:
    """Return the error for a step that the session of an execution does not have."""
    return EntityNotFoundError("agentSteps", f"{step} of execution {execution_id}")
