"""An execution that nobody but the test drives, so that a reader can be shown it step by step, piece by piece."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text, update

from runtime.events import Event, ExecutionEnded, UserSpoke
from runtime.streaming import DeltaWriter, Feed, StreamItem, follow
from storage.models.agents import AgentSession, AgentStep
from storage.models.runtime import AgentDelta
from storage.queries import executions
from storage.tenancy import Database

WISH = UserSpoke(text="Tell me a story.")


@dataclass(frozen=True)
class Stage:
    """An execution that nobody but the test drives."""

    database: Database
    user_id: int
    session_id: int
    execution_id: int

    async def record(self, fact: Event) -> int:
        """Append a step, as the commit of a worker does, and return its number."""
        async with self.database.begin(self.user_id) as db:
            taken = (
                update(AgentSession)
                .where(AgentSession.id == self.session_id)
                .values({AgentSession.next_seq: AgentSession.next_seq + 1})
            )
            seq = (await db.execute(taken.returning(AgentSession.next_seq - 1))).scalar_one()
            await db.execute(text('DELETE FROM "agentDeltas" WHERE "sessionId" = :id'), {"id": self.session_id})
            db.add(
                AgentStep(
                    user_id=self.user_id,
                    session_id=self.session_id,
                    execution_id=self.execution_id,
                    seq=seq,
                    kind=fact.kind,
                    body=fact.model_dump(mode="json"),
                )
            )
        return seq

    async def claim(self) -> int:
        """Take the session's lease, as a worker does, and return its epoch."""
        async with self.database.begin(self.user_id) as db:
            bumped = update(AgentSession).values({AgentSession.lease_epoch: AgentSession.lease_epoch + 1})
            of_this = bumped.where(AgentSession.id == self.session_id)
            return (await db.execute(of_this.returning(AgentSession.lease_epoch))).scalar_one()

    async def set_execution(self, **values: Any) -> None:
        async with self.database.begin(self.user_id) as db:
            row = await executions.execution(db, self.execution_id)
            for name, value in values.items():
                setattr(row, name, value)

    async def end(self, answer: str) -> None:
        """Record the end, as the last commit of a worker does."""
        await self.record(ExecutionEnded(status="completed", text=answer))
        await self.set_execution(status="completed", result={"text": answer})

    @asynccontextmanager
    async def saying(self, *, epoch: int, seq: int) -> AsyncGenerator[Feed]:
        """Say something as a worker under this lease does."""
        writer = DeltaWriter(self.database)
        async with writer.writing(user_id=self.user_id, session_id=self.session_id, epoch=epoch, seq=seq) as feed:
            yield feed

    def follow(self, **place: Any) -> AsyncGenerator[StreamItem]:
        return follow(self.database, self.user_id, self.execution_id, **place)

    async def live_rows(self) -> int:
        async with self.database.begin(self.user_id) as db:
            return await db.scalar(select(func.count()).select_from(AgentDelta)) or 0


async def queued_stage(database: Database, user_id: int, session_id: int | None = None) -> Stage:
    async with database.begin(user_id) as db:
        session = session_id or await executions.create_session(db, user_id)
        execution_id = await executions.queue_execution(
            db, user_id=user_id, session_id=session, agent_name="assistant", task=WISH.text
        )
    return Stage(database, user_id, session, execution_id)
