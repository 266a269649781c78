"""Processes that take up work: who is there, and what each can run. For the dispatch role only."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models.runtime import WorkerProcess

_ALIVE = text("interval '15 seconds'")
"""A process that has not been heard of for longer is taken for dead; as long as a lease."""

_KEPT = text("interval '1 day'")
"""How long the row of a process stays that ended without taking it away."""


async def report(
    dispatch: AsyncSession, *, name: str, agents: Sequence[str], tools: Sequence[str], concurrency: int
) -> None:
    """Say that a process is alive and what it can run; the first time adds its row."""
    said: dict[Any, Any] = {
        WorkerProcess.agents: list(agents),
        WorkerProcess.tools: list(tools),
        WorkerProcess.concurrency: concurrency,
        WorkerProcess.seen_at: func.now(),
    }
    statement = insert(WorkerProcess).values({WorkerProcess.name: name} | said)
    await dispatch.execute(statement.on_conflict_do_update(index_elements=[WorkerProcess.name], set_=said))


async def remove(dispatch: AsyncSession, name: str) -> None:
    """Take away the row of a process that ends."""
    await dispatch.execute(delete(WorkerProcess).where(WorkerProcess.name == name))


async def sweep(dispatch: AsyncSession) -> int:
    """Take away the rows of processes that have been dead for long, and return how many."""
    gone = delete(WorkerProcess).where(WorkerProcess.seen_at < func.now() - _KEPT)
    return len((await dispatch.scalars(gone.returning(WorkerProcess.name))).all())


async def living(dispatch: AsyncSession) -> Sequence[WorkerProcess]:
    """Return the processes that are at work, by name."""
    alive = select(WorkerProcess).where(WorkerProcess.seen_at > func.now() - _ALIVE)
    return (await dispatch.scalars(alive.order_by(WorkerProcess.name))).all()


async def someone_has(dispatch: AsyncSession, agent_name: str) -> bool:
    """Tell whether a living process has this agent; one that is data, or built in, is had by each."""
    has_it = select(WorkerProcess.name).where(WorkerProcess.seen_at > func.now() - _ALIVE)
    if ":" in agent_name:  # it is code
        has_it = has_it.where(WorkerProcess.agents.contains([agent_name]))
    return await dispatch.scalar(has_it.limit(1)) is not None
