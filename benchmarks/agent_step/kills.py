"""Effects repeated and lost when workers die: `make bench-agent_step-kills [ARGS="--dsn DSN --runs N --seed N"]`.

Ours and the rivals, one after the other on one server, each in a database of its own. A run is three iterations with
one effect each; the model takes no time, so that every death falls into the machinery. Its worker, a process of its
own, is killed at a moment that is uniform over the duration of an undisturbed run, and another process resumes the run;
then as many runs again whose worker is stopped (SIGSTOP), and goes on (SIGCONT) when the other process has finished.
`--dsn` names a login that may create databases and roles. Our leases are made to lapse by SQL at the death, instead of
up to 15 s later.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio

from benchmarks.agent_step import kill_ours
from benchmarks.agent_step.killing import MODES, Arena, Side, fight, nursery
from benchmarks.agent_step.setup_rivals import Rival, interpreters
from benchmarks.harness import Target, record, server_dsn
from storage.engine import connect
from storage.testing import ensure_template, fresh_address

EMPTY = "template1"
"""The template of a rival's database."""

OURS = (
    Side(name="agency", command=(sys.executable, "-m", kill_ours.__name__), variant="db", is_ours=True),
    Side(name="agency-external", command=(sys.executable, "-m", kill_ours.__name__), variant="external", is_ours=True),
)


def sides(found: Mapping[Rival, Path]) -> list[Side]:
    """Return who takes part."""
    rivals = [
        Side(name=rival.name, command=(str(python), "-m", rival.kill_module), variant=rival.variant, is_ours=False)
        for rival, python in found.items()
    ]
    return [*OURS, *rivals]


async def measure(server: str, side: Side, runs: int, seed: int) -> dict[str, Any]:
    """Return one side's figures."""
    template = await ensure_template(server) if side.is_ours else EMPTY
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(fresh_address(server, template))
        system = await kill_ours.system_at(address) if side.is_ours else None
        observer = await connect(address)
        stack.push_async_callback(observer.close)
        worker, heir = [await stack.enter_async_context(nursery(side.command)) for _ in range(2)]
        arena = Arena(side=side, dsn=address.dsn, system=system, observer=observer, worker=worker, heir=heir)
        return await fight(arena, runs, seed)


async def measure_all(server: str, taking_part: Sequence[Side], runs: int, seed: int) -> dict[str, Any]:
    """Return every side's figures, by name."""
    figures: dict[str, Any] = {}
    for side in taking_part:
        print(f"{side.name}: {runs} killed, {runs} stopped", file=sys.stderr)
        figures[side.name] = await measure(server, side, runs, seed)
    return figures


def targets(figures: Mapping[str, Any], runs: int) -> tuple[Target, ...]:
    """Return what we have to hold."""
    found: list[Target] = []
    for side in OURS:
        for mode in MODES:
            of_mode, where = figures[side.name][mode], f"{side.name}, {mode}"
            found += [
                Target(name=f"effects lost ({where})", value=of_mode["lost"], at_most=0),
                Target(name=f"effects repeated ({where})", value=of_mode["repeated"], at_most=0),
                Target(name=f"runs finished ({where})", value=of_mode["finished"], at_least=runs),
            ]
    return tuple(found)


def line(name: str, figures: Mapping[str, Any]) -> str:
    """Return a side's row of the table."""
    cells = [f"{name:16} {figures['ms_of_a_run']:6.1f} ms"]
    for mode in MODES:
        found = figures[mode]
        cells.append(
            f"{mode} {found['disturbed']:3}: finished {found['finished']:3}/{found['runs']}, lost {found['lost']},"
            f" repeated {found['repeated']} in {found['runs_that_repeat']} runs, unknown {found['unknown']}"
        )
    return " | ".join(cells)


def headline(figures: Mapping[str, Any], runs: int) -> str:
    """Return the figure in one sentence."""

    def repeated(name: str) -> int:
        return sum(figures[name][mode]["repeated"] for mode in MODES)

    ours = [figures[side.name][mode] for side in OURS for mode in MODES]
    unknown = sum(found["unknown"] for found in ours)
    others = [f"{name} {repeated(name)}" for name in figures if name not in {side.name for side in OURS}]
    return (
        f"{sum(found['repeated'] for found in ours)} effects repeated and {sum(found['lost'] for found in ours)} lost"
        f" over {runs} kills and {runs} stops of each kind ({unknown} effects outside told to be unknown);"
        f" repeated by the rivals: {', '.join(others) or 'none installed'}"
    )


def main() -> None:
    """Print a table, record the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", help="a login that may create databases and roles; default: an embedded server")
    parser.add_argument("--runs", type=int, default=60, help="killed, and as many stopped, of each side")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    installed, missing = interpreters()
    with server_dsn(options.dsn) as dsn:
        figures = anyio.run(measure_all, dsn, sides(installed), options.runs, options.seed)
    for name, found in figures.items():
        print(line(name, found))
        for mode in MODES:
            for reason, times in found[mode]["not_resumed"].items():
                print(f"{name:16} {mode}, not resumed: {times} × {reason}")
    for name, reason in missing.items():
        print(f"{name:16} {reason}")
    record(
        "agent_step-kills",
        {
            "runs_of_each_mode": options.runs,
            "seed": options.seed,
            "leases": "ours are made to lapse by SQL at the death; in reality a take-over comes up to 16.5 s later",
            "stopped": "transactions that a stopped worker has open are ended on every side, as ours are after 12 s",
            **figures,
            **missing,
        },
        headline=headline(figures, options.runs),
        targets=targets(figures, options.runs),
    )


if __name__ == "__main__":
    main()
