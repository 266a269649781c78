"""A clock that a test moves."""

from datetime import UTC, datetime, timedelta


class FixedClock:
    """Tells the same time until it is moved."""

    def __init__(self, now: datetime = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)) -> None:
        self._now = now

    def now(self) -> datetime:
        """Return the instant it stands at."""
        return self._now

    def move(self, by: timedelta) -> None:
        """Move it forward, or back."""
        self._now += by
