"""The parent's side of `tests.faults.crash`: gives orders and reads reports."""

import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.faults.crash import Order, Report

Obey = Callable[[Order], Awaitable[Report]]

_LONGEST_REPORT = 10_000


@asynccontextmanager
async def nursery() -> AsyncGenerator[Obey]:
    """Yield what has an order carried out by a worker process of its own."""
    command = [sys.executable, "-m", "tests.faults.crash"]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        orders, reports = process.stdin, BufferedByteReceiveStream(process.stdout)

        async def obey(order: Order) -> Report:
            await orders.send(json.dumps(asdict(order)).encode() + b"\n")
            with anyio.fail_after(30):
                return Report(**json.loads(await reports.receive_until(b"\n", _LONGEST_REPORT)))

        try:
            yield obey
        finally:
            await orders.aclose()
