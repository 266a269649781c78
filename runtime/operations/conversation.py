"""Operations of a conversation: say something to the participant, bring in a person."""

from typing import Annotated

from pydantic import Field

from runtime.errors import ToolError
from runtime.events import WaitsFor
from runtime.labels import Tier
from runtime.operation import Context, Conversation, operation
from runtime.operations.approvals import DOORS
from runtime.operations.board import slug
from runtime.operations.visibility import marks
from runtime.outbox import queue_reply
from runtime.ports import Json
from storage.queries import board, messaging


def _conversation(ctx: Context, name: str) -> Conversation:
    if ctx.conversation is None:
        raise ToolError(f"{name} works in a conversation only; here, answer with text")
    return ctx.conversation


@operation(effect="db", tier=Tier.T3)
async def reply(
    ctx: Context, text: Annotated[str, Field(min_length=1, max_length=20_000, description="What to tell them.")]
) -> Json:
    """Send a message to the participant of this conversation. It is delivered after your turn has been recorded."""
    conversation = _conversation(ctx, "reply")
    outbound_id = await queue_reply(ctx.db, ctx.jobs, ctx.user_id, conversation, text, ctx.execution_id)
    return {"id": outbound_id, "queued": True}


async def _card_for_a_person(ctx: Context, *, title: str, intent: str, text: str, task_type: str) -> int:
    conversation = ctx.conversation
    card_id, _ = await board.put_card(
        ctx.db,
        board.NewCard(
            user_id=ctx.user_id,
            title=title[:500],
            intent=intent,
            description=text,
            task_type=task_type,
            extracted_data=marks(ctx),
            webhook_id=conversation.webhook_id if conversation else None,
            conversation_id=conversation.id if conversation else None,
            execution_id=ctx.execution_id,
        ),
    )
    return card_id


@operation(effect="db", tier=Tier.T2)
async def ask_person(
    ctx: Context, question: Annotated[str, Field(min_length=1, max_length=20_000, description="What to decide.")]
) -> Json | WaitsFor:
    """Ask a person what you cannot decide; the question becomes a card on the board.

    In a chat you go on without waiting: tell the participant that somebody will answer. Elsewhere the answer is what
    this call returns, however long it takes.
    """
    card_id = await ask_about(ctx, question)
    if ctx.conversation is None and ctx.execution_id is not None:
        return WaitsFor(kind="answer", id=card_id)
    return {"id": card_id, "question": card_id, "note": f"question {card_id} is open"}


async def ask_about(ctx: Context, question: str) -> int:
    """Put a question on the board and return its card's id."""
    first_line = question.strip().splitlines()[0]
    intent = f"question-{slug(first_line)}"[:100]
    return await _card_for_a_person(ctx, title=first_line, intent=intent, text=question, task_type="question")


@operation(effect="db", tier=Tier.T2)
async def hand_over(
    ctx: Context, summary: Annotated[str, Field(min_length=1, max_length=20_000, description="What happened so far.")]
) -> Json:
    """Hand the conversation to a person: a card with your summary, and the bot is silent until a person resumes it."""
    conversation = _conversation(ctx, "hand_over")
    title = f"Take over the conversation with {conversation.participant_id}"
    card_id = await _card_for_a_person(ctx, title=title, intent="hand-over", text=summary, task_type="hand_over")
    await messaging.pause_conversation(ctx.db, conversation.id)
    return {"id": card_id, "paused": True}


@operation(effect="db", tier=Tier.T2)
async def link_client(
    ctx: Context,
    conversation_id: Annotated[int, Field(ge=1, description="Id of the conversation.")],
    client: Annotated[str | None, Field(max_length=255, description="The client's name; none: of no client.")] = None,
) -> Json:
    """Say which client of the agency the participant of a conversation speaks for.

    From then on they may see that client's cards and what is remembered of it, so only a person says so.
    """
    if ctx.door not in DOORS:
        raise ToolError("only a person says for which client somebody speaks")
    found = None if client is None else await board.client_named(ctx.db, client)
    if client is not None and found is None:
        raise ToolError(f"the agency has no client {client!r}; add it first")
    client_id = None if found is None else found.id
    await messaging.link_client(ctx.db, conversation_id, client_id)
    return {"id": conversation_id, "clientId": client_id}
