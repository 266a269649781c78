"""The live text of replies: who watches a session, what is being said, and what of it is recorded already."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Integer,
    Text,
    and_,
    bindparam,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from storage.errors import EntityNotFoundError
from storage.models.agents import AgentExecution, AgentSession, AgentStep, ExecutionStatus
from storage.models.runtime import AgentDelta, AgentReader
from storage.queries.executions import ACTIVE

READER_S = 10
"""How long somebody counts as watching after their last sign."""

ATTEMPTS = 1000
"""Room for the attempts at one reply under one lease; see `append_delta`."""

_FRESH = text(f"interval '{READER_S} seconds'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which step a text is going to be, and under which lease it is said."""

    user_id: int
    session_id: int
    seq: int
    lease_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some text of the reply under way."""

    epoch: int
    """Of which telling of the reply it is; grows with every new one (see `append_delta`)."""
    offset: int
    """Characters before it."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Where an execution stands, and the text of its reply under way, all of one moment."""

    session_id: int
    status: ExecutionStatus
    waiting_for: Any | None
    result: Any | None
    error: str | None
    next_seq: int
    """The number that the next step of the session gets; the text is of that step."""
    first_epoch: int
    """The lowest that text under the present lease can have; what was said under another one no longer counts."""
    pieces: tuple[Piece, ...]

    @property
    def is_over(self) -> bool:
        """Whether the execution has ended."""
        return self.status not in ACTIVE


async def append_delta(db: AsyncSession, place: Place, piece: Piece) -> int | None:
    """Add a piece if somebody watches, and return the epoch that it got; None: nobody does, and nothing was written.

    A lease may see several attempts at one reply, because a cut one is asked for again. So the epoch of a text is that
    of its lease times `ATTEMPTS`, plus the number of the attempt: the first piece of an attempt comes with epoch 0 and
    gets the next free one, the others come with the epoch that the first got.
    """
    lowest = place.lease_epoch * ATTEMPTS
    earlier = (
        select(func.max(AgentDelta.epoch) + 1)
        .where(
            AgentDelta.user_id == place.user_id,
            AgentDelta.session_id == place.session_id,
            AgentDelta.seq == place.seq,
            AgentDelta.epoch.between(lowest, lowest + ATTEMPTS - 1),
        )
        .scalar_subquery()
    )
    watches = (
        select(AgentReader.session_id)
        .where(
            AgentReader.user_id == place.user_id,
            AgentReader.session_id == place.session_id,
            AgentReader.seen_at > func.now() - _FRESH,
        )
        .exists()
    )
    row = select(
        literal(place.user_id, BigInteger),
        literal(place.session_id, BigInteger),
        literal(place.seq, BigInteger),
        literal(piece.epoch, BigInteger) if piece.epoch else func.coalesce(earlier, literal(lowest, BigInteger)),
        literal(piece.offset, Integer),
        literal(piece.text, Text),
    ).where(watches)
    statement = insert(AgentDelta).from_select(["userId", "sessionId", "seq", "epoch", "offset", "text"], row)
    epoch: int | None = (await db.execute(statement.returning(AgentDelta.epoch))).scalar_one_or_none()
    return epoch


async def watch(db: AsyncSession, *, user_id: int, session_id: int) -> None:
    """Say that somebody watches this session now."""
    statement = upsert(AgentReader).values({AgentReader.user_id: user_id, AgentReader.session_id: session_id})
    now = {AgentReader.seen_at: func.now()}
    await db.execute(
        statement.on_conflict_do_update(index_elements=[AgentReader.user_id, AgentReader.session_id], set_=now)
    )


_EXECUTION: BindParameter[int] = bindparam("execution", type_=BigInteger)
_EPOCH: BindParameter[int] = bindparam("epoch", type_=BigInteger)
_OFFSET: BindParameter[int] = bindparam("offset", type_=Integer)

_IS_THEIRS = (
    select(AgentStep.seq)
    .where(
        AgentStep.session_id == AgentSession.id,
        AgentStep.seq == AgentSession.next_seq - 1,
        AgentStep.execution_id == AgentExecution.id,
    )
    .exists()
)
"""Whether the session's newest step is the execution's: a reply follows a step of its own execution, so only then is
the text under way that of this one, and not of another in the same session."""

_WATCHED = (
    select(
        AgentSession.id,
        AgentExecution.status,
        AgentExecution.waiting_for,
        AgentExecution.result,
        AgentExecution.error,
        AgentSession.next_seq,
        AgentSession.lease_epoch * ATTEMPTS,
        AgentDelta.epoch,
        AgentDelta.offset,
        AgentDelta.text,
    )
    .select_from(AgentExecution)
    .join(AgentSession, AgentSession.id == AgentExecution.session_id)
    .outerjoin(
        AgentDelta,
        and_(
            AgentDelta.user_id == AgentSession.user_id,
            AgentDelta.session_id == AgentSession.id,
            AgentDelta.seq == AgentSession.next_seq,
            AgentDelta.epoch >= AgentSession.lease_epoch * ATTEMPTS,
            AgentExecution.status.in_(ACTIVE),
            _IS_THEIRS,
            tuple_(AgentDelta.epoch, AgentDelta.offset) >= tuple_(_EPOCH, _OFFSET),
        ),
    )
    .where(AgentExecution.id == _EXECUTION)
    .order_by(AgentDelta.epoch, AgentDelta.offset)
)


async def watched(db: AsyncSession, execution_id: int, *, epoch: int, offset: int) -> Watched:
    """Return where an execution stands, with the pieces of its text from (epoch, offset) on.

    Raises:
        EntityNotFoundError: no such execution for this tenant.
    """
    rows = (await db.execute(_WATCHED, {"execution": execution_id, "epoch": epoch, "offset": offset})).all()
    if not rows:
        raise EntityNotFoundError("agentExecutions", execution_id)
    head = rows[0]
    return Watched(
        session_id=head[0],
        status=head[1],
        waiting_for=head[2],
        result=head[3],
        error=head[4],
        next_seq=head[5],
        first_epoch=head[6],
        pieces=tuple(Piece(epoch=row[7], offset=row[8], text=row[9]) for row in rows if _has_piece(row[7])),
    )


def _has_piece(epoch: int | None) -> bool:
    # The types of an outer join say nothing of NULL.
    return epoch is not None


async def steps_since(
    db: AsyncSession, *, session_id: int, execution_id: int, after_seq: int, limit: int
) -> Sequence[tuple[int, Any]]:
    """Return (seq, body) of an execution's steps after `after_seq`, oldest first.

    By the journal's own key, so that it costs what is new, and not what the execution has done before.
    """
    statement = (
        select(AgentStep.seq, AgentStep.body)
        .where(AgentStep.session_id == session_id, AgentStep.seq > after_seq, AgentStep.execution_id == execution_id)
        .order_by(AgentStep.seq)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in await db.execute(statement)]
