"""Journals in memory with one promise broken, to see that the simulation notices."""

from collections.abc import Callable
from functools import partial
from typing import cast

from runtime.testing import MemoryJournal, MemoryStore
from runtime.testing.memory_journal import Fenced
from runtime.testing.memory_store import SessionRow


class _Unfenced(MemoryJournal):
    """Lets one kind of write through whoever drives the session."""

    def __init__(self, store: MemoryStore, owner: str, *, unfenced: Fenced) -> None:
        super().__init__(store, owner)
        self._unfenced = unfenced

    def _is_current(self, session: SessionRow, epoch: int, statement: Fenced) -> bool:
        return statement == self._unfenced or super()._is_current(session, epoch, statement)


def without_fence(statement: Fenced) -> Callable[[MemoryStore, str], MemoryJournal]:
    """Return how to make journals that do not compare the epoch in one kind of write."""
    made = partial(_Unfenced, unfenced=statement)
    return cast("Callable[[MemoryStore, str], MemoryJournal]", made)
