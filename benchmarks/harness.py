"""What every benchmark shares: a server to measure on, the command that repeats it, and results that are kept.

A figure is recorded in `benchmarks/results/<name>.json` together with the command and the versions. A ratio that misses
its target makes the benchmark exit non-zero, with one line that says by how much.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from storage.embedded import EmbeddedServer

RESULTS = Path(__file__).resolve().parent / "results"


@contextmanager
def server_dsn(given: str | None) -> Generator[str]:
    """Yield the DSN of a login that may create databases: the given one, or that of an embedded server of its own."""
    if given is not None:
        yield given
        return
    home = Path(tempfile.mkdtemp(prefix="agency-bench-"))
    home.chmod(0o755)  # an unprivileged account runs root's server, and has to reach its data
    server = EmbeddedServer(home)
    server.start()
    try:
        yield server.ensure_database()
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A ratio or count that a benchmark has to hold."""

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_held(self) -> bool:
        """Whether the figure is within its bounds."""
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    @property
    def bound(self) -> str:
        """The bound in words."""
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"


def record(name: str, figures: Mapping[str, Any], *, headline: str, targets: tuple[Target, ...] = ()) -> None:
    """Write the result, print the headline, and exit non-zero when a target is missed."""
    arguments = " ".join(sys.argv[1:])
    door = f"make bench-{name}" + (f' ARGS="{arguments}"' if arguments else "")
    result = {
        "command": door,
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("agency-runtime", "sqlalchemy", "asyncpg", "pgqueuer")},
        "figures": dict(figures),
        "targets": [
            {"name": target.name, "value": target.value, "bound": target.bound, "held": target.is_held}
            for target in targets
        ],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{name}: {headline}")
    missed = [f"{target.name} is {target.value:g}, not {target.bound}" for target in targets if not target.is_held]
    if missed:
        sys.exit(f"{name}: {'; '.join(missed)}")
