"""The jobs port: work that waits for a worker on any machine, committed together with its cause.

A job is a wake-up and nothing more. It says who and what; the truth and the fence are on the row that it names. So a
job may be delivered twice (its worker was taken for dead) and must then do nothing twice. `storage.job_engine` is the
implementation; the port is small, so that a service can take its place.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import anyio
from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A job to be done for one tenant."""

    kind: str
    """Which handler does it."""
    user_id: int
    id: int | str
    """Key of the row that it is about."""
    delay_s: float = 0
    priority: int = 0
    """Higher first; among equals, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job in the hands of a worker."""

    kind: str
    user_id: int
    id: int | str
    attempt: int
    """From 1. Raised by Retry, an exception and a dead worker; not by Snooze and not by a worker's orderly end."""


@dataclass(frozen=True, slots=True)
class Done:
    """There is nothing left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Once more; also the answer to work that arrived for the same row in the meantime (`after_s=0`)."""

    after_s: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snooze:
    """Not yet; does not count as an attempt."""

    until: datetime
    """By the database's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Never: whatever it was for is gone."""

    reason: str


Outcome = Done | Retry | Snooze | Cancel

Handler = Callable[[Job], Awaitable[Outcome]]
"""Does one job, in transactions of the job's tenant that it opens itself.

An exception is for the unexpected: the job is tried again later and, after some failures, parked. Before it answers
Done, a handler looks at its row again: a request with the same key is skipped while the job runs.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker takes and gives up jobs."""

    concurrency: int = 100
    """Jobs at once in this process. Few processes with many jobs: every enqueue wakes every process."""
    poll_s: float = 5
    """A due job waits at most this long, even when no notification arrives."""
    heartbeat_s: float = 30
    """A job whose worker has been silent for so long is taken over."""
    drain_s: float = 10
    """How long running jobs may go on after the worker was told to stop; then they are given back."""
    max_failures: int = 5
    """Exceptions and dead workers after which a job is parked."""
    first_backoff_s: float = 1
    """Wait after the first failure; it doubles with each."""
    longest_backoff_s: float = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedJob:
    """A job that nobody tries any more, until it is released."""

    number: int
    """The engine's."""
    kind: str
    user_id: int
    id: int | str
    reason: str
    parked_at: datetime


class Jobs(Protocol):
    """What the application needs from a job engine."""

    async def enqueue(self, db: AsyncSession, request: JobRequest) -> bool:
        """Add a job in the caller's transaction; False: one with the same kind, tenant and id is waiting or running."""
        ...

    async def work(
        self, handlers: Mapping[str, Handler], *, stop: anyio.Event, options: WorkerOptions | None = None
    ) -> None:
        """Do jobs of the kinds in `handlers` until `stop` is set, then end in an orderly way.

        Cancelling it gives running jobs back at once. A lost connection is made again.
        """
        ...

    async def parked(self, *, limit: int = 50) -> list[ParkedJob]:
        """Return the jobs that were given up, newest first, with the reasons."""
        ...

    async def release(self, number: int) -> bool:
        """Let a parked job be tried again, its failures forgotten; False: no such job is parked."""
        ...
