"""A worker process that dies: the product's own worker, which is killed or stopped at a moment that its order names."""

import os
import signal
from typing import Any

import anyio
from sqlalchemy import event

from gateway import worker
from storage.engine import Address
from storage.tenancy import Database
from tests.faults import forks, three_turns
from tests.faults.crash import Killer, Kind, Moment

PROGRAM = "benchmarks.chaos.worker"

CONCURRENCY = 4
"""Jobs at once. A death hits all of them, and five deaths park an execution, whose worker seems to die of it."""


class Reaper(Killer):
    """Stops its process at one moment, where there is one, and kills it at another."""

    def __init__(self, *, stops_at: int | None, dies_at: Moment, tell: forks.Tell) -> None:
        super().__init__(dies_at)
        self._stops_at = stops_at
        self._tell = tell
        self._backends: list[int] = []

    def watch(self, database: Database) -> None:
        """Watch the process, and note its connections."""
        self.install(database)
        event.listen(database.engine.sync_engine, "connect", self._on_connect)

    def _on_connect(self, connection: Any, _record: object) -> None:
        self._backends.append(connection.driver_connection.get_server_pid())

    def _pass(self, kind: Kind) -> None:
        if kind == "suspend" and self.passed[kind] + 1 == self._stops_at:
            self._tell({"stops": self._backends})
            os.kill(os.getpid(), signal.SIGSTOP)
        super()._pass(kind)


async def obey(line: forks.Line, tell: forks.Tell) -> None:
    """Work until death; an order without a moment survives until it is killed from outside."""
    database = Database(Address(dsn=line["dsn"], direct_dsn=line["dsn"], pooled=False), pool_size=3)
    async with three_turns.working_on(database, line["user_id"], line["url"]) as share:
        tell({"pid": os.getpid(), "owner": share.owner})
        if line["dies_at"] is not None:
            dies_at = Moment(kind=line["kind"], number=line["dies_at"])
            Reaper(stops_at=line["stops_at"], dies_at=dies_at, tell=tell).watch(database)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_work, share)


async def _work(share: three_turns.Worker) -> None:
    await worker.work(share.local, concurrency=CONCURRENCY, stop=anyio.Event())


if __name__ == "__main__":
    forks.serve(obey)
