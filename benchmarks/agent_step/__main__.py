"""What one iteration of a durable loop costs: `make bench-agent_step [ARGS="--dsn DSN --rounds N --runs N"]`.

Ours and the rivals, each in a process and a database of its own on one server, taking turns by round: milliseconds
and WAL bytes per iteration with 10, 100 and 1,000 messages in the session, milliseconds to load 1,000, and iterations
per second with 16 sessions in one process. `--dsn` names a login that may create databases and roles; without it an
embedded server is started. A rival that cannot be installed is reported, and the others go on.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

from benchmarks.agent_step.setup_rivals import Rival, interpreters
from benchmarks.agent_step.workload import LENGTHS, LONGEST, SESSIONS, expected_effects
from benchmarks.harness import Target, record, server_dsn
from storage.testing import ensure_template, fresh_address

CHECKOUT = Path(__file__).resolve().parents[2]
OURS = "agency"
EMPTY = "template1"
"""The template of a rival's database."""

Round = Mapping[str, Any]
"""What a side prints: `workload.Findings` as JSON."""


async def one_round(dsn: str, template: str, command: Sequence[str], runs: int) -> Round:
    """Run one side once, on a database of its own, and return what it prints.

    Raises:
        RuntimeError: it failed, or its tool has not run exactly once per call.
    """
    async with fresh_address(dsn, template) as address:
        arguments = [*command, "--dsn", address.dsn, "--runs", str(runs)]
        done = await anyio.run_process(arguments, cwd=CHECKOUT, check=False, stderr=subprocess.PIPE)
    if done.returncode:
        last_line = done.stderr.decode().strip().rpartition("\n")[2]
        message = f"{' '.join(command)} failed: {last_line}"
        raise RuntimeError(message)
    found: Round = json.loads(done.stdout)
    if found["effects"] != expected_effects(runs):
        message = f"{' '.join(command)} wrote {found['effects']} rows, not {expected_effects(runs)}"
        raise RuntimeError(message)
    return found


def commands(found: Mapping[Rival, Path]) -> dict[str, list[str]]:
    """Return how each side is started."""
    rivals = {
        rival.name: [str(python), "-m", rival.module, "--variant", rival.variant] for rival, python in found.items()
    }
    return {OURS: [sys.executable, "-m", "benchmarks.agent_step.ours"]} | rivals


async def take_turns(dsn: str, sides: Mapping[str, Sequence[str]], rounds: int, runs: int) -> dict[str, list[Round]]:
    """Return the rounds of each side; who comes first rotates."""
    template = await ensure_template(dsn)
    names = list(sides)
    found: dict[str, list[Round]] = {name: [] for name in names}
    for number in range(rounds):
        for at in range(number, number + len(names)):
            name = names[at % len(names)]
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            found[name].append(await one_round(dsn, template if name == OURS else EMPTY, sides[name], runs))
    return found


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Return a side's medians over its rounds; `p10` shows how far a busy machine has lifted them."""

    def values_of(key: str, length: int) -> list[float]:
        return [value for one in rounds for value in one[key][str(length)]]

    return {
        "version": rounds[0]["version"],
        "ms_per_iteration": {str(length): round(statistics.median(values_of("ms", length)), 2) for length in LENGTHS},
        "p10_ms_per_iteration": {
            str(length): round(statistics.quantiles(values_of("ms", length), n=10)[0], 2) for length in LENGTHS
        },
        "wal_bytes_per_iteration": {
            str(length): round(statistics.median(values_of("wal_bytes", length))) for length in LENGTHS
        },
        f"load_{LONGEST}_ms": round(statistics.median(value for one in rounds for value in one["load_ms"]), 1),
        f"iterations_per_s_{SESSIONS}_sessions": round(statistics.median(one["per_second"] for one in rounds)),
    }


def targets(ours: Mapping[str, Any]) -> tuple[Target, ...]:
    """Return what we have to hold."""
    per_length = [
        target
        for length in LENGTHS
        for target in (
            Target(
                name=f"ms per iteration at {length} messages",
                value=ours["ms_per_iteration"][str(length)],
                at_most=2.5,
            ),
            Target(
                name=f"WAL bytes per iteration at {length} messages",
                value=ours["wal_bytes_per_iteration"][str(length)],
                at_most=6 * 1024,
            ),
        )
    ]
    return (
        *per_length,
        Target(name=f"loading {LONGEST} messages, ms", value=ours[f"load_{LONGEST}_ms"], at_most=15),
        Target(
            name=f"iterations/s with {SESSIONS} sessions",
            value=ours[f"iterations_per_s_{SESSIONS}_sessions"],
            at_least=900,
        ),
    )


def line(name: str, figures: Mapping[str, Any]) -> str:
    """Return a side's row of the table."""
    times = "  ".join(f"{value:7.2f}" for value in figures["ms_per_iteration"].values())
    wal = "  ".join(f"{value:7}" for value in figures["wal_bytes_per_iteration"].values())
    load, rate = figures[f"load_{LONGEST}_ms"], figures[f"iterations_per_s_{SESSIONS}_sessions"]
    return f"{name:16} ms {times}   WAL bytes {wal}   load ms {load:6.1f}   per second {rate:5}"


def main() -> None:
    """Print a table, record the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", help="a login that may create databases and roles; default: an embedded server")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=4, help="timed runs per length and round")
    options = parser.parse_args()
    installed, missing = interpreters()
    with server_dsn(options.dsn) as dsn:
        found = anyio.run(take_turns, dsn, commands(installed), options.rounds, options.runs)
    figures: dict[str, Any] = {name: summary(rounds) for name, rounds in found.items()}
    for name, side in figures.items():
        print(line(name, side))
    for name, reason in missing.items():
        print(f"{name:16} {reason}")
    ours = figures[OURS]
    record(
        "agent_step",
        {"rounds": options.rounds, "runs": options.runs, **figures, **missing},
        headline=f"{ours['ms_per_iteration'][str(LONGEST)]} ms per iteration at {LONGEST} messages",
        targets=targets(ours),
    )


if __name__ == "__main__":
    main()
