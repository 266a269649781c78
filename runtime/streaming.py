"""What a person sees live: committed steps, and the text of the reply that is still being said.

Steps are the truth and are read from the journal. The text in between travels through an unlogged table: the worker
that asks the model writes it (`DeltaWriter`), and only while somebody watches; `follow` reads both, in any process.
Losing the text loses nothing, because the step that it becomes brings all of it.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import anyio
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

from runtime.events import Event, ExecutionEnded, event_adapter
from runtime.journal import storable
from storage.errors import DatabaseUnavailableError
from storage.queries import streaming
from storage.queries.streaming import Piece, Place, Watched
from storage.tenancy import Database

logger = logging.getLogger(__name__)

FLUSH_S = 0.1
"""The shortest time between two writes of one reply's text; a reply that is faster is never written."""
_UNWATCHED_S = 1.0
"""The longest time until a writer notices that somebody has begun to watch."""
_FLUSH_LIMIT_S = 1.0
"""How long a finished reply waits at most for a write that is under way."""

POLL_S = 0.1
_RENEW_S = 5.0
"""Half of what a reader's sign is good for."""
_LIVELY_S = 60.0
"""Without any news for so long, a reader asks less often."""
_IDLE_POLL_S = 1.0
_LONGEST_RETRY_S = 2.0
_PATIENCE_S = 60.0
"""How long a reader tries to reach a database that does not answer."""
_PAGE = 500
"""Steps per read."""


class _Item(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Committed(_Item):
    """A step is recorded; live text of the same `seq` is replaced by it."""

    kind: Literal["committed"] = "committed"
    seq: int
    event: Event


class Delta(_Item):
    """More text of the reply that will be step `seq`."""

    kind: Literal["delta"] = "delta"
    seq: int
    offset: int
    """Characters of the reply before this piece."""
    epoch: int
    """Of which telling of the reply it is; with `seq` and `offset` it is the place to resume from."""
    text: str


class Reset(_Item):
    """The reply that was going to be step `seq` is being said anew: drop what was shown of it."""

    kind: Literal["reset"] = "reset"
    seq: int


class Waiting(_Item):
    """The execution waits for a person or for another execution, or was paused, and nobody drives it until then."""

    kind: Literal["waiting"] = "waiting"
    waiting_for: JsonValue
    """Kind and ids, as the execution's row has them."""


class Ended(_Item):
    """The execution is over, and so is the stream."""

    kind: Literal["ended"] = "ended"
    status: Literal["completed", "failed", "cancelled"]
    text: str
    """The answer, or the reason why there is none."""


StreamItem = Annotated[Committed | Delta | Reset | Waiting | Ended, Field(discriminator="kind")]


# --- writing ---


class Feed:
    """Takes the text of one attempt at a reply; call it with each piece."""

    def __init__(self, place: Place) -> None:
        self.written = False
        """Whether text may be in the table, for the commit of the reply to delete."""
        self._place = place
        self._pending: list[str] = []
        self._epoch = 0
        self._offset = 0

    def __call__(self, text: str) -> None:
        """Take a piece; it costs nothing here."""
        if text:
            self._pending.append(text)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._pending

    async def flush(self, database: Database) -> bool:
        """Write what has come since the last time if somebody watches; tell whether somebody does."""
        count = len(self._pending)
        piece = Piece(epoch=self._epoch, offset=self._offset, text=storable("".join(self._pending[:count])))
        before = self.written
        self.written = True  # a commit whose answer is lost has written
        async with database.begin(self._place.user_id) as db:
            epoch = await streaming.append_delta(db, self._place, piece)
        if epoch is None:
            self.written = before
            return False
        self._epoch = epoch
        self._offset += len(piece.text)
        del self._pending[:count]
        return True


class DeltaWriter:
    """Writes the text of replies under way for whoever watches; one instance serves a whole process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._has_complained = False

    @asynccontextmanager
    async def writing(self, *, user_id: int, session_id: int, epoch: int, seq: int) -> AsyncGenerator[Feed]:
        """Yield where the text of one attempt at step `seq` goes, under the lease `epoch`; enter it anew per attempt.

        Writes happen beside the block, never in a transaction of the caller's. When the block is left no more will
        come: what is not written by then arrives with the step. Nothing of the database is used in the first 100 ms,
        and no failure of it reaches the block.
        """
        feed = Feed(Place(user_id=user_id, session_id=session_id, seq=seq, lease_epoch=epoch))
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_flushing, feed)
            try:
                yield feed
            except Exception as error:  # noqa: BLE001 -- raised below; the group would wrap it into one of its own
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _keep_flushing(self, feed: Feed) -> None:
        pause_s = FLUSH_S
        while True:
            await anyio.sleep(pause_s)
            if not feed.is_empty:
                # Half as often each time, so that a reply that nobody watches costs the database next to nothing.
                pause_s = FLUSH_S if await self._flush(feed) else min(pause_s * 2, _UNWATCHED_S)

    async def _flush(self, feed: Feed) -> bool:
        try:
            # Cut off in the middle it would cost the pool its connection, so the end of the block waits a moment.
            with anyio.CancelScope(shield=True), anyio.fail_after(_FLUSH_LIMIT_S):
                is_watched = await feed.flush(self._database)
                self._has_complained = False
                return is_watched
        except Exception:
            if not self._has_complained:
                logger.warning("live text cannot be written; replies go on without it", exc_info=True)
            self._has_complained = True
        return False


# --- reading ---


async def follow(
    database: Database,
    user_id: int,
    execution_id: int,
    *,
    after_seq: int = 0,
    offset: int = 0,
    epoch: int | None = None,
) -> AsyncGenerator[StreamItem]:
    """Yield what happens in an execution, from its beginning to its end, whoever drives it.

    To resume, give the last `Committed.seq`, and of a `Delta` after it how many characters have been shown
    (`offset`) and its `epoch`; without the epoch the text is taken for the same.

    Raises:
        EntityNotFoundError: no such execution for this tenant.
        DatabaseUnavailableError: the database has not answered for a minute.
    """
    watch = _Watch(database, user_id, execution_id, after_seq=after_seq, offset=offset, epoch=epoch)
    idle_s = 0.0
    while True:
        items = await _patiently(watch)
        for item in items:
            yield item
        if items and isinstance(items[-1], Ended):
            return
        idle_s = 0.0 if items else idle_s
        pause_s = POLL_S if idle_s < _LIVELY_S else _IDLE_POLL_S
        await anyio.sleep(pause_s)
        idle_s += pause_s


async def _patiently(watch: "_Watch") -> list[StreamItem]:
    """Poll once, as often as it takes while the database restarts."""
    pause_s, since = POLL_S, anyio.current_time()
    while True:
        try:
            return await watch.poll()
        except (DatabaseUnavailableError, DBAPIError, PoolTimeoutError, OSError) as error:
            if isinstance(error, DBAPIError) and not error.connection_invalidated:
                raise
            if anyio.current_time() - since > _PATIENCE_S:
                raise DatabaseUnavailableError(watch.where, f"not for {_PATIENCE_S:.0f} s") from error
            logger.info("the database does not answer a reader", extra={"reason": str(error)})
        watch.forget_sign()
        await anyio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_RETRY_S)


class _Watch:
    """How far one reader has come."""

    def __init__(
        self, database: Database, user_id: int, execution_id: int, *, after_seq: int, offset: int, epoch: int | None
    ) -> None:
        self.where = database.address.label
        self._database = database
        self._user_id = user_id
        self._execution_id = execution_id
        self._after_seq = after_seq
        """Every step of the execution up to here is told."""
        self._epoch = epoch
        """Of the text that is shown; None: of no known one."""
        self._offset = offset
        """Characters of the reply under way that are shown."""
        self._boundary = 0
        """At most `_offset`, and where a piece begins: a reader that resumes may stand within one."""
        self._waiting_for: Any | None = None
        self._signed_at: float | None = None

    def forget_sign(self) -> None:
        """Sign again at the next poll: a crash of the server empties the table."""
        self._signed_at = None

    async def poll(self) -> list[StreamItem]:
        """Return what is new, in order."""
        async with self._database.begin(self._user_id, read_only=True) as db:
            seen = await streaming.watched(db, self._execution_id, epoch=self._epoch or 0, offset=self._boundary)
            # Read after it, the steps hold all that came before that moment, and perhaps more.
            steps = await self._steps(db, seen)
        if not seen.is_over:
            await self._sign(seen.session_id)
        committed = [Committed(seq=seq, event=event_adapter.validate_python(body)) for seq, body in steps]
        return [*committed, *self._beyond(seen, committed)]

    async def _steps(self, db: AsyncSession, seen: Watched) -> Sequence[tuple[int, Any]]:
        if seen.next_seq - 1 <= self._after_seq:
            return []
        return await streaming.steps_since(
            db,
            session_id=seen.session_id,
            execution_id=self._execution_id,
            after_seq=self._after_seq,
            limit=_PAGE,
        )

    def _beyond(self, seen: Watched, committed: list[Committed]) -> list[StreamItem]:
        """Return what follows the steps, and move on."""
        if committed:
            self._epoch, self._offset, self._boundary = None, 0, 0
            self._after_seq = committed[-1].seq
            if isinstance(committed[-1].event, ExecutionEnded):
                return [_ended(committed[-1].event)]
        if len(committed) == _PAGE:
            return []
        if seen.is_over:
            return [_outcome(seen)]
        self._after_seq = max(self._after_seq, seen.next_seq - 1)
        items = [] if self._after_seq >= seen.next_seq else self._live(seen)
        waiting_for, self._waiting_for = self._waiting_for, seen.waiting_for
        if seen.waiting_for is not None and seen.waiting_for != waiting_for:
            items.append(Waiting(waiting_for=seen.waiting_for))
        return items

    def _live(self, seen: Watched) -> list[StreamItem]:
        items: list[StreamItem] = []
        newest = seen.pieces[-1].epoch if seen.pieces else seen.first_epoch
        if self._epoch is not None and newest > self._epoch:
            if self._offset:
                items.append(Reset(seq=seen.next_seq))
            self._epoch, self._offset, self._boundary = newest, 0, 0
        for piece in seen.pieces:
            # A gap means that the table was lost in between; the step will bring the rest.
            if piece.epoch == newest and piece.offset <= self._offset < piece.offset + len(piece.text):
                rest = piece.text[self._offset - piece.offset :]
                items.append(Delta(seq=seen.next_seq, offset=self._offset, epoch=newest, text=rest))
                self._epoch = newest
                self._offset += len(rest)
                self._boundary = self._offset
        return items

    async def _sign(self, session_id: int) -> None:
        """Say that somebody watches, now and then."""
        now = anyio.current_time()
        if self._signed_at is None or now - self._signed_at >= _RENEW_S:
            async with self._database.begin(self._user_id) as db:
                await streaming.watch(db, user_id=self._user_id, session_id=session_id)
            self._signed_at = now


def _ended(event: ExecutionEnded) -> Ended:
    return Ended(status=event.status, text=event.text)


def _outcome(seen: Watched) -> Ended:
    """Return the end as the row has it, for a reader that has had the last step already."""
    text = seen.result["text"] if seen.status == "completed" and seen.result else seen.error or ""
    return Ended.model_validate({"status": seen.status, "text": text})
