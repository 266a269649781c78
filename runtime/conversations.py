"""Turns of a conversation: accept a message, let the bot take its turn, close the turn.

Accepting is one transaction with one job, keyed by the message and never by the conversation: a message that arrives
during a turn must neither be refused nor lose its wake-up. The session's lease is the per-conversation lock.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from runtime.agents import RECEPTIONIST
from runtime.events import ExecutionEnded
from runtime.journal_port import Claim
from runtime.operation import Conversation
from runtime.outbox import queue_reply
from storage.jobs import JobRequest, Jobs
from storage.models.messaging import InboundMessage, UserWebhook
from storage.queries import executions, messaging, waiting
from storage.queries.messaging import NewInbound

TURN, NEXT_TURN, EXECUTE = "turn", "next_turn", "execute"
"""Kinds of jobs: a message wants an answer; so does one that arrived during a turn; an execution wants a worker.

Their ids are the rows'. The second is a kind of its own because the engine skips a request with the key of a job that
is just ending, and the message's own `turn` job may be.
"""

SHORTEST_DELAY_S, LONGEST_DELAY_S = 2, 300
"""Bounds of the debounce window, seconds."""


async def accept(
    db: AsyncSession, jobs: Jobs, webhook: UserWebhook, new: NewInbound, *, thread_key: str = ""
) -> int | None:
    """Store a message and the job that answers it in the caller's transaction; None when it was here before.

    A message that could not be read keeps its raw body and its reason, and starts nothing.
    """
    inbound_id = await messaging.store_inbound(db, new)
    if inbound_id is None or new.error is not None or new.sender is None:
        return inbound_id
    conversation = await messaging.open_conversation(
        db, user_id=new.user_id, webhook_id=webhook.id, participant_id=new.sender, thread_key=thread_key
    )
    says_something = bool(new.media_urls) or bool((new.body or "").strip())
    await messaging.link_inbound(db, inbound_id, conversation.id, is_processed=not says_something)
    if says_something:
        delay_s = max(SHORTEST_DELAY_S, min(webhook.response_delay, LONGEST_DELAY_S))
        await messaging.set_turn_due(db, conversation.id, delay_s)
        await jobs.enqueue(db, JobRequest(kind=TURN, user_id=new.user_id, id=inbound_id, delay_s=delay_s))
    return inbound_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What asking for a turn came to; `due_at` when the participant may still be typing until then."""

    execution_id: int | None = None
    due_at: datetime | None = None


async def begin_turn(db: AsyncSession, jobs: Jobs, user_id: int, inbound_id: int) -> Begun:
    """Put everything that has arrived in the message's conversation into one execution, unless it is not the time."""
    turn = await messaging.lock_turn(db, inbound_id)
    if turn is None or turn.conversation.status != "active" or turn.conversation.agent_session_id is None:
        return Begun()
    if not turn.is_due:
        return Begun(due_at=turn.conversation.turn_due_at)
    session_id = turn.conversation.agent_session_id
    if await executions.session_is_busy(db, session_id):
        return Begun()  # the end of that execution asks again for what is left
    messages = await messaging.unanswered(db, turn.conversation.id)
    execution_id = await executions.queue_execution(
        db,
        user_id=user_id,
        session_id=session_id,
        agent_name=RECEPTIONIST.name,
        task="\n".join(_words(message) for message in messages),
    )
    for message in messages:
        message.execution_id = execution_id
    await db.flush()
    await jobs.enqueue(db, JobRequest(kind=EXECUTE, user_id=user_id, id=execution_id))
    return Begun(execution_id=execution_id)


async def wake(db: AsyncSession, jobs: Jobs, user_id: int, execution_id: int) -> bool:
    """Let an execution go on whose answer the caller's transaction has written; False: it is over.

    It comes after the answer: it locks the row that a driver locks before it lets go. An agent that a program has
    defined is left to that program, which asks for its executions itself.
    """
    woken = await waiting.let_go_on(db, execution_id)
    if woken is not None and ":" not in woken.agentName:
        await jobs.enqueue(db, JobRequest(kind=EXECUTE, user_id=user_id, id=execution_id))
    return woken is not None


def _words(message: InboundMessage) -> str:
    media = "".join(f"\n[attachment: {url}]" for url in message.media_urls)
    return f"{(message.body or '').strip()}{media}".strip()


class TurnCloser:
    """Ends a turn inside the transaction that ends its execution."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def __call__(self, db: AsyncSession, claim: Claim, ended: ExecutionEnded) -> None:
        """Settle the messages, say the last words if nothing was said, and wake up what has arrived meanwhile."""
        row = await messaging.conversation_of_session(db, claim.session_id)
        if row is not None:
            conversation = Conversation.of_row(row)
            await self._say_last_words(db, claim, conversation, ended)
            error = ended.text if ended.status == "failed" else None
            await messaging.settle_inbound(db, execution_id=claim.execution_id, error=error)
            await messaging.refresh_history(db, row.id)
            for message in (await messaging.unanswered(db, row.id))[:1]:
                await self._jobs.enqueue(db, JobRequest(kind=NEXT_TURN, user_id=claim.user_id, id=message.id))
        await self._tell_relatives(db, claim)
        following = await executions.next_execution(db, claim.session_id)
        if following is not None:
            await self._jobs.enqueue(db, JobRequest(kind=EXECUTE, user_id=claim.user_id, id=following))

    async def _tell_relatives(self, db: AsyncSession, claim: Claim) -> None:
        """Wake up the execution that has delegated this one, and stop what this one has delegated itself."""
        for child_id in await waiting.cancel_children(db, claim.execution_id):
            await self._jobs.enqueue(db, JobRequest(kind=EXECUTE, user_id=claim.user_id, id=child_id))
        if claim.parent_execution_id is not None:
            await waiting.charge_parent(db, claim.execution_id)
            await wake(db, self._jobs, claim.user_id, claim.parent_execution_id)

    async def _say_last_words(
        self, db: AsyncSession, claim: Claim, conversation: Conversation, ended: ExecutionEnded
    ) -> None:
        """A participant is not left without an answer because the model forgot to call `reply`."""
        if ended.status != "completed" or not ended.text or await messaging.has_reply(db, claim.execution_id):
            return
        # Nobody could be asked about these words as about a call of `reply`: a draft waits for a person as well.
        may_send = not await messaging.has_read_what_is_kept_back(db, claim.session_id)
        await queue_reply(
            db, self._jobs, claim.user_id, conversation, ended.text, claim.execution_id, may_send=may_send
        )
