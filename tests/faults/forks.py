"""Worker processes for a hundredth of their price: a program imports the product once and forks for each order.

The program's side is `serve`, the caller's is `nursery`. Orders and what the forks say are JSON, one a line. One fork
at a time: who wants several workers at once opens several nurseries.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import ByteSendStream
from anyio.streams.buffered import BufferedByteReceiveStream

Line = dict[str, Any]

Tell = Callable[[Line], None]
"""Says something to the caller; it has left the process when this returns."""

Obey = Callable[[Line, Tell], Awaitable[None]]

PATIENCE_S = 60
"""Longest that a fork may be silent."""

_LONGEST_LINE = 100_000


def serve(obey: Obey) -> None:
    """Carry out orders in forks until stdin ends; each ends with a line `{"status": ...}` as from `os.waitpid`."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                anyio.run(obey, json.loads(line), _tell)
                status = 0
            except BaseException:  # noqa: BLE001 -- a fork must not go on with the loop of its parent
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        _tell({"status": os.waitstatus_to_exitcode(status)})


def _tell(line: Line) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a fork ended."""

    killed: bool
    said: list[Line]


class Nursery:
    """A process that forks."""

    def __init__(self, orders: ByteSendStream, lines: BufferedByteReceiveStream) -> None:
        self._orders = orders
        self._lines = lines

    async def order(self, order: Line) -> None:
        """Have an order carried out; the fork before must have ended."""
        await self._orders.send(json.dumps(order).encode() + b"\n")

    async def hear(self, timeout_s: float = PATIENCE_S) -> Line:
        """Return the next line of the fork, or of its parent about it."""
        with anyio.fail_after(timeout_s):
            return json.loads(await self._lines.receive_until(b"\n", _LONGEST_LINE))

    async def ended(self) -> Ended:
        """Wait for the fork's end.

        Raises:
            AssertionError: it ended in another way than by an orderly end or by SIGKILL.
        """
        said: list[Line] = []
        while "status" not in (line := await self.hear()):
            said.append(line)
        status: int = line["status"]
        assert status in (0, -signal.SIGKILL), f"the worker ended with {status}; its traceback is above"
        return Ended(killed=status != 0, said=said)

    async def obeyed(self, order: Line) -> Ended:
        """Have an order carried out and wait for its end."""
        await self.order(order)
        return await self.ended()


@asynccontextmanager
async def nursery(module: str) -> AsyncGenerator[Nursery]:
    """Yield a nursery of the program `module`, which calls `serve`; a fork that is left behind is killed."""
    command = [sys.executable, "-m", module]
    async with await anyio.open_process(command, stderr=None, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Nursery(process.stdin, BufferedByteReceiveStream(process.stdout))
        finally:
            # The whole group: a fork may be stopped, and its parent then waits for it for ever.
            os.killpg(process.pid, signal.SIGKILL)
