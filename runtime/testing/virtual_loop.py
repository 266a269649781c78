"""An event loop whose clock jumps and whose order is drawn by a seed: hours of leases and back-offs in milliseconds.

```python
anyio.run(main, backend_options={"loop_factory": lambda: VirtualLoop(seed=7)})
```

The same seed gives the same run. What is ready at the same moment runs in an order that the seed draws, and when
nothing is ready the clock jumps to the next timer. There is no real input or output and no thread on such a loop.
"""

import asyncio  # noqa: TID251 -- this is the loop that anyio runs on, and anyio has no loop to subclass
import random
import selectors
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio

EPOCH = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
"""When the clock of a virtual loop begins."""


class DeadlockError(RuntimeError):
    """Every task waits and no timer is set, so nothing could ever happen again."""

    def __init__(self) -> None:
        super().__init__("every task waits for another one; nothing is left that could wake any of them")


class _Jumps(selectors.SelectSelector):
    """Reports no input or output; instead of waiting it moves the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise DeadlockError
        self.now += max(timeout, 0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what is ready in an order drawn by `seed`, on a clock that never waits."""

    def __init__(self, seed: int) -> None:
        self._clockwork = _Jumps()
        super().__init__(self._clockwork)
        self._order = random.Random(seed)  # noqa: S311 -- a schedule to repeat, not a secret

    def time(self) -> float:
        """Return the seconds since the loop began, virtual ones."""
        return self._clockwork.now

    def _run_once(self) -> None:
        # CPython's loop has no hook between two rounds; `_ready` has had this shape since 3.4.
        ready: deque[Any] = vars(self)["_ready"]
        if len(ready) > 1:
            drawn = list(ready)
            self._order.shuffle(drawn)
            ready.clear()
            ready.extend(drawn)
        super()._run_once()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] -- as above


class VirtualClock:
    """A `Clock` that tells the time of the loop it is asked on, as if that had begun at `EPOCH`."""

    def now(self) -> datetime:
        """Return the current instant, in UTC."""
        return EPOCH + timedelta(seconds=anyio.current_time())
