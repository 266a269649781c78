"""`Task[T]`: what `submit` returns, and what its result is awaited on."""

from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

import anyio

from storage.models.swarm import SwarmTaskStatus
from swarm.errors import TaskCancelled, TaskFailed

T_co = TypeVar("T_co", covariant=True)

Failure = TaskFailed | TaskCancelled


class Task(Generic[T_co]):
    """A task of a swarm; `await` it for its result."""

    def __init__(self, task_id: str, description: str, cancel: Callable[[], None]) -> None:
        self.id = task_id
        self.description = description
        self._cancel = cancel
        self._status: SwarmTaskStatus = "pending"
        self._value: Any = None
        self._failure: Failure | None = None
        self._is_seen = False
        self._ended = anyio.Event()

    @property
    def status(self) -> SwarmTaskStatus:
        """The status that was committed last."""
        return self._status

    @property
    def is_failure_unseen(self) -> bool:
        """It failed, and nobody has asked for its result."""
        return isinstance(self._failure, TaskFailed) and not self._is_seen

    def cancel(self) -> None:
        """Give the task up; nothing happens when it has ended."""
        self._cancel()

    async def ended(self) -> None:
        """Wait until it has ended, however."""
        await self._ended.wait()

    async def result(self) -> T_co:
        """Return the result as soon as there is one; the same as awaiting the task.

        Raises:
            TaskFailed: every attempt failed, or a task it waits for did.
            TaskCancelled: it was given up.
        """
        self._is_seen = True
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        return self._value

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.result().__await__()

    def show(self, status: SwarmTaskStatus) -> None:
        """For the scheduler: this status is committed."""
        self._status = status

    def settle(self, status: SwarmTaskStatus, *, value: Any = None, failure: Failure | None = None) -> None:
        """For the scheduler: the task has ended, and that is committed."""
        self._status = status
        self._value = value
        self._failure = failure
        self._ended.set()

    def __repr__(self) -> str:
        return f"<Task {self.id} {self._status} {self.description[:60]!r}>"
