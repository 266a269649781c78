"""What a dead worker leaves lapses at once here, by SQL, and not after the product's 15 and 30 seconds.

So a thousand deaths do not take hours. Said in the result: each take-over takes up to a lease longer in reality.
"""

import time
from dataclasses import dataclass, field

from sqlalchemy import select, text, update

from runtime.conversations import NEXT_TURN, TURN
from runtime.outbox import DELIVER
from storage.engine import connect
from storage.models.agents import AgentSession
from storage.tenancy import Database

SHORT_JOBS = [TURN, NEXT_TURN, DELIVER]
"""Kinds that take milliseconds; the jobs of executions have the take-over instead of the engine's heartbeat."""

_LOST_JOBS = text(
    """
    UPDATE pgqueuer SET heartbeat = now() - interval '1 minute'
    WHERE status = 'picked' AND entrypoint = ANY(:kinds) AND updated < now() - interval '3 seconds'
      AND heartbeat > now() - interval '30 seconds'
    """
)
"""By hand: the engine's tables have no model."""


_OLDER = text(
    """
    UPDATE "agentExecutions" SET "createdAt" = now() - interval '1 minute'
    WHERE "sessionId" = :session_id AND "completedAt" IS NULL
    """
)
"""The take-over leaves alone what is younger than five seconds, as nothing is whose lease has lapsed in reality."""

_END_TRANSACTIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY($1) AND state LIKE 'idle in%'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapsed:
    """A lease that a worker held when it died."""

    epoch: int
    at: float
    """On the monotonic clock, seconds."""


@dataclass(slots=True)
class Lapses:
    """Lets leases lapse and waits for somebody else to take what they held."""

    database: Database
    user_id: int
    gone: set[str] = field(default_factory=set[str])
    """Owners that are dead or stopped."""
    latencies_s: list[float] = field(default_factory=list[float])
    """From a lease's lapse to another worker's claim."""
    _open: dict[int, Lapsed] = field(default_factory=dict[int, Lapsed])

    async def release_locks(self, backends: list[int]) -> None:
        """End the open transactions of a stopped worker, as the server does after 12 s, before any lease lapses."""
        connection = await connect(self.database.address)
        try:
            await connection.execute(_END_TRANSACTIONS, backends)
        finally:
            await connection.close()

    async def tick(self) -> None:
        """Let lapse what the gone have held, also what the server committed for them after their deaths."""
        now = time.monotonic()
        past = {AgentSession.lease_until: text("now() - interval '1 second'")}
        held = AgentSession.lease_owner.in_(self.gone) & (AgentSession.lease_until > text("now()"))
        async with self.database.begin(self.user_id) as db:
            lapse = update(AgentSession).where(held).values(past).returning(AgentSession.id, AgentSession.lease_epoch)
            lapsed = (await db.execute(lapse)).all()
        for session_id, epoch in lapsed:
            self._open[session_id] = Lapsed(epoch=epoch, at=now)
            # Alone: workers lock an execution before its session, too, and would wait for us in a circle.
            async with self.database.begin(self.user_id) as db:
                await db.execute(_OLDER, {"session_id": session_id})
        async with self.database.begin(self.user_id, read_only=True) as db:
            rows = (
                await db.execute(
                    select(AgentSession.id, AgentSession.lease_epoch, AgentSession.lease_owner).where(
                        AgentSession.id.in_(self._open)
                    )
                )
            ).all()
        for session_id, epoch, owner in rows:
            self._note(session_id, epoch, owner, now)
        async with self.database.begin_dispatch() as db:
            await db.execute(_LOST_JOBS, {"kinds": SHORT_JOBS})

    def _note(self, session_id: int, epoch: int, owner: str | None, now: float) -> None:
        lapsed = self._open[session_id]
        if epoch > lapsed.epoch:
            self.latencies_s.append(now - lapsed.at)
        if epoch > lapsed.epoch or owner is None:
            del self._open[session_id]
