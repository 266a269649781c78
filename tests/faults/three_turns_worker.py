"""The worker process of `tests.faults.three_turns`: drives executions and dies at the moment that its order names."""

import os
import signal
from dataclasses import asdict, dataclass
from typing import Any

import anyio
import httpx2
from anyio.abc import TaskStatus

from runtime.events import ModelReplied
from runtime.journal import PostgresJournal
from runtime.ports import ModelRequest
from storage.engine import Address
from storage.tenancy import Database
from tests.faults import forks, three_turns
from tests.faults.crash import Killer, Moment

PROGRAM = "tests.faults.three_turns_worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Drive executions, and die at a moment; None: survive and tell how often each kind of moment was passed."""

    dsn: str
    user_id: int
    url: str
    execution_ids: list[int]
    moment: Moment | None = None
    journal: str = "sound"
    asks: bool = False
    """True: tell the process id first, and let the model ask the receiver, which may take its time."""

    def as_line(self) -> dict[str, Any]:
        """Return what `order_of` reads."""
        return asdict(self)


def order_of(line: dict[str, Any]) -> Order:
    """Read an order."""
    moment: dict[str, Any] | None = line.pop("moment")
    return Order(**line, moment=None if moment is None else Moment(**moment))


class AskingModel:
    """Answers as `TaskModel` does, after the receiver has answered."""

    name = "asking-model"

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url

    async def reply(self, request: ModelRequest, **_options: object) -> ModelReplied:
        """Wait for the receiver."""
        response = await self._client.post(f"{self._url}/think", json={}, timeout=None)
        response.raise_for_status()
        return three_turns.answer(request)


async def obey(line: forks.Line, tell: forks.Tell) -> None:
    """Carry out one order."""
    order = order_of(line)
    database = Database(Address(dsn=order.dsn, direct_dsn=order.dsn, pooled=False), pool_size=1)
    if order.asks:
        await _work_slowly(order, database, tell)
    else:
        await _work(order, database, tell)
    await database.close()


async def _work(order: Order, database: Database, tell: forks.Tell) -> None:
    async with three_turns.working_on(database, order.user_id, order.url, journal=order.journal) as worker:
        killer = Killer(order.moment)
        killer.install(database)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.work, order.execution_ids)
        tell({"passed": dict(killer.passed)})


async def _work_slowly(order: Order, database: Database, tell: forks.Tell) -> None:
    async with (
        three_turns.client() as client,
        three_turns.working_on(
            database, order.user_id, order.url, journal=order.journal, model=AskingModel(client, order.url)
        ) as worker,
        anyio.create_task_group() as tasks,
    ):
        await tasks.start(_renew_when_continued, worker.local.journal)
        tell({"pid": os.getpid()})
        outcomes = [await worker.local.driver.run(order.user_id, execution_id) for execution_id in order.execution_ids]
        tell({"outcomes": [type(outcome).__name__ for outcome in outcomes]})
        tasks.cancel_scope.cancel()


async def _renew_when_continued(journal: PostgresJournal, *, task_status: TaskStatus[None]) -> None:
    """Do what comes first in a worker that was stopped for longer than it renews its leases."""
    with anyio.open_signal_receiver(signal.SIGCONT) as signals:
        task_status.started()
        async for _ in signals:
            await journal.renew_all()


if __name__ == "__main__":
    forks.serve(obey)
