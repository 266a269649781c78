"""The work that a worker dies over, and the program around it. Rivals' interpreters import it: anyio and no more.

A run is three iterations: the model calls the tool, whose effect is a row, and ends after the third result. It looks at
the request and at nothing else, so that a worker that starts again is told the same; it never repeats a call whose
result it sees. What a side does twice is therefore what its record had lost.
"""

import os
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from tests.faults import forks

CALLS = 3
TOOL = "note_effect"
TASK = "Note three effects, one after the other."
DONE = "Done."
INSERT_COLUMNS = "INSERT INTO effects (run, call) VALUES"
"""The table has no key, so that repeating shows."""


def next_call(results_seen: int) -> int | None:
    """Return the number of the call that the model makes after so many results, or None when it ends the run."""
    return results_seen + 1 if results_seen < CALLS else None


def new_call_id() -> str:
    """Return an id as a provider would: no two replies have the same."""
    return f"toolu_{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one worker process is to do."""

    dsn: str
    run: str
    variant: str
    user_id: int
    """Whose run it is; for a rival 0."""


class Actor(Protocol):
    """A side's worker, connected. Both return the text that the run ended with."""

    async def begin(self) -> str:
        """Do the run from its beginning."""
        ...

    async def resume(self) -> str:
        """Go on with a run that another process has begun, the way the side's documentation says."""
        ...


Open = Callable[[Order], AbstractAsyncContextManager[Actor]]

Prepare = Callable[[str], Awaitable[None]]
"""Makes a side's tables in the database behind a DSN."""


def serve(open_actor: Open, prepare: Prepare) -> None:
    """Obey orders, each in a process of its own.

    `{"do": "begin" | "resume", "order": {...}}` is answered by `{"begins": pid}` once the worker is connected and about
    to work, and at the end by `{"ended": text, "at": monotonic}` or `{"failed": why, "at": monotonic}`;
    `{"do": "prepare", "dsn": ...}` only when it fails.
    """

    async def obey(line: forks.Line, tell: forks.Tell) -> None:
        try:
            if line["do"] == "prepare":
                await prepare(line["dsn"])
                return
            async with open_actor(Order(**line["order"])) as actor:
                work = actor.begin if line["do"] == "begin" else actor.resume
                tell({"begins": os.getpid()})
                ended = await work()
                tell({"ended": ended, "at": time.monotonic()})
        except Exception as error:  # noqa: BLE001 -- whatever a worker fails with is a finding
            first_line = str(error).partition("\n")[0]
            tell({"failed": f"{type(error).__name__}: {first_line}"[:200], "at": time.monotonic()})

    forks.serve(obey)
