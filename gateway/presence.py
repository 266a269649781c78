"""What other processes know of a worker: that it is there, and which agents and tools of which program it has."""

import anyio

from runtime.agents import AGENTS
from runtime.local import Local
from runtime.toolbox import OPERATIONS
from storage.queries import workers

REPORT_EVERY_S = 5
"""A third of the time after which a process is taken for dead."""


class Presence:
    """Keeps the `workers` row of one process."""

    def __init__(self, local: Local, concurrency: int) -> None:
        self._local = local
        self._concurrency = concurrency

    async def __call__(self) -> None:
        """Say that the process is alive."""
        own = self._local.registry
        async with self._local.database.begin_dispatch() as db:
            await workers.report(
                db,
                name=self._local.process,
                agents=sorted({*AGENTS, *own.agents}),
                tools=sorted({*OPERATIONS, *own.tools}),
                concurrency=self._concurrency,
            )
            await workers.sweep(db)

    async def leave(self) -> None:
        """Take the row away, whatever ends the process in an orderly way."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            async with self._local.database.begin_dispatch() as db:
                await workers.remove(db, self._local.process)
