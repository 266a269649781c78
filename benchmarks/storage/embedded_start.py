"""How long the embedded server takes to appear: `make bench-storage-embedded_start [ARGS=RUNS]`.

Medians in milliseconds as seen by a caller whose imports are done: `cold` without a cluster,
`warm` with a stopped one, `attach` to a running one, `database` for the role and database of a new cluster,
`database_again` when they exist, and `stop` by the last client.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Target, record
from storage.embedded import EmbeddedServer


def main(runs: int) -> None:
    """Measure each phase `runs` times, every run with a new cluster."""
    times_ms: defaultdict[str, list[float]] = defaultdict(list)
    version = None
    for _ in range(runs):
        base = Path(tempfile.mkdtemp(prefix="agency-"))
        base.chmod(0o755)  # root's server runs as another user
        server, other = EmbeddedServer(base), EmbeddedServer(base)

        def timed(phase: str, call: Callable[[], object]) -> None:
            began = time.perf_counter()
            call()
            times_ms[phase].append((time.perf_counter() - began) * 1000)

        try:
            timed("cold", server.start)
            timed("database", server.ensure_database)
            timed("database_again", server.ensure_database)
            version = server.status().version
            server.stop()
            timed("warm", server.start)
            timed("attach", other.start)
            other.stop()
            timed("stop", server.stop)
        finally:
            EmbeddedServer(base).release()
            shutil.rmtree(base)
    medians = {f"{phase}_ms": round(statistics.median(values), 1) for phase, values in times_ms.items()}
    record(
        "storage-embedded_start",
        {"postgres": version, "runs": runs, **medians},
        headline=", ".join(f"{name} {value}" for name, value in medians.items()),
        targets=(
            Target(name="warm start, ms", value=medians["warm_ms"], at_most=50),
            Target(name="attach, ms", value=medians["attach_ms"], at_most=10),
        ),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
