"""The work that every side does, and the watch that times it. Standard library only: rivals' interpreters import it.

One iteration: the model replies with words and one call of `remember`, the call writes one row, its result is recorded,
and the next request is ready. The model takes no time; what it is asked before that counts.
"""

import argparse
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

LENGTHS = (10, 100, 1000)
"""Messages that a session holds before the measured iterations."""

LONGEST = max(LENGTHS)
SESSIONS = 16
"""How many sessions run at once for iterations per second."""

WARM_UP = 2
"""Iterations of a run that are not measured: connections open, statements are prepared, a plan is made."""

ITERATIONS = 12
"""Of a run that is timed, so that a session of 10 messages stays near 10."""

LONG_ITERATIONS = 40
"""Of each of the sessions that run at once."""

TOOL = "remember"
TASK = "Keep what we learn about the client, one note after the other."

_VOCABULARY = (  # noqa: SIM905 -- a list of quoted words reads worse
    "client invoice landing page campaign budget owner Monday morning message budget dental plumber review photo logo "
    "colour headline booking calendar refund domain hosting audience keyword ranking report quarter contract renewal "
    "holiday opening hours address phone number website form lead follow-up discount season brand voice tone deadline "
    "draft approval meeting notes summary because before after never always sometimes prefers wants asked sent moved "
    "changed the a and of to for with on in from that this is was will should"
).split()

Wal = Callable[[], Awaitable[int]]
"""Returns the bytes of WAL that the server has written so far."""

WAL_SQL = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"


def prose(seed: str) -> str:
    """Return about 200 characters that no other seed gives: repeated text would compress away in a rival's blobs."""
    return " ".join(random.Random(seed).choices(_VOCABULARY, k=30))  # noqa: S311 -- not a secret


def arguments_of(run: str, turn: int) -> dict[str, str]:
    """Return the call's arguments; no two calls of a run are the same."""
    return {"key": f"{run}-{turn}", "value": prose(f"{run}-{turn}")}


def result_of(arguments: dict[str, str]) -> dict[str, Any]:
    """Return what `remember` answers."""
    return {
        "namespace": "user",
        "key": arguments["key"],
        "value": arguments["value"],
        "version": 1,
        "expiresAt": None,
    }


def call_id(run: str, turn: int) -> str:
    """Return the id of a call, as long as a provider's."""
    return f"toolu_{run}_{turn:04}".ljust(30, "x")


def roles(length: int) -> list[str]:
    """Return who says the messages of a history of this length: one question, calls and results in turn, an answer."""
    middle = [("call", "result")[at % 2] for at in range(length - 2 - length % 2)]
    return ["user", *middle, *["answer"] * (length - 1 - len(middle))]


@dataclass
class Watch:
    """Counts the model calls of one run and times what happens between them."""

    iterations: int
    wal: Wal | None = None
    turn: int = 0
    ms: list[float] = field(default_factory=list[float])
    wal_bytes: float = 0
    """Per iteration."""
    _left_at: float = 0
    _wal_at_first: int = 0

    async def next_turn(self) -> int | None:
        """Return the number of the call that the model makes now, or None when it ends the run."""
        arrived = time.perf_counter()
        if self.turn > WARM_UP:
            self.ms.append((arrived - self._left_at) * 1000)
        if self.wal and self.turn == WARM_UP:
            self._wal_at_first = await self.wal()
        if self.wal and self.turn == self.iterations:
            self.wal_bytes = (await self.wal() - self._wal_at_first) / (self.iterations - WARM_UP)
        self.turn += 1
        self._left_at = time.perf_counter()
        return None if self.turn > self.iterations else self.turn


@dataclass
class Findings:
    """What one side prints. Times in milliseconds, one entry per iteration or load; WAL in bytes, one per run."""

    version: str
    ms: dict[int, list[float]] = field(default_factory=lambda: {length: [] for length in LENGTHS})
    wal_bytes: dict[int, list[float]] = field(default_factory=lambda: {length: [] for length in LENGTHS})
    load_ms: list[float] = field(default_factory=list[float])
    """A session of `LONGEST` messages."""
    per_second: float = 0
    """Iterations, `SESSIONS` at once."""
    effects: int = 0
    """Rows that the tool has written."""

    def add(self, length: int, watch: Watch) -> None:
        """Take over what a run has shown."""
        self.ms[length] += watch.ms
        self.wal_bytes[length].append(watch.wal_bytes)

    def print_json(self) -> None:
        """Print one line for the benchmark to read."""
        print(json.dumps(asdict(self)))


async def timed_ms(call: Callable[[], Awaitable[object]]) -> float:
    """Return how long `call` takes, in milliseconds."""
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1000


def expected_effects(runs: int) -> int:
    """Return how many rows the tool writes in a round with `runs` timed runs per length."""
    return len(LENGTHS) * runs * ITERATIONS + SESSIONS * LONG_ITERATIONS


@dataclass(frozen=True)
class Options:
    """What a side is told."""

    dsn: str
    """Of an empty database, or for ours a migrated one."""
    runs: int
    """Timed runs per length, each in a session of its own."""
    variant: str


def options() -> Options:
    """Read the command line of a side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--variant", default="")
    return Options(**vars(parser.parse_args()))
