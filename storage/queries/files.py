"""The memory tool's files as a tree: rows of cf_memory_store whose keys are paths such as `/notes/today.md`.

A directory is there as long as a file is below it. Single files are read and written through `storage.memory`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, String, cast, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models.swarm import MemoryEntry

_STORE = MemoryEntry.metadata.tables[MemoryEntry.__tablename__]
_C = _STORE.c
_WHOLE: list[str] = []
"""The path of `#>>` that leads to the value itself, as text."""
_LIVE = or_(_C.expires_at.is_(None), _C.expires_at > func.now())


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file without its text."""

    key: str
    size_bytes: int
    """Of the text in UTF-8."""


async def entries(db: AsyncSession, user_id: int, namespace: str, key: str = "") -> Sequence[FileEntry]:
    """Return the file `key` and all files below the directory `key` ("": the root), by key."""
    size = func.octet_length(_C.value.op("#>>")(cast(_WHOLE, ARRAY(String))))
    statement = select(_C.key_name, size).where(_is_or_is_below(user_id, namespace, key), _LIVE)
    rows = await db.execute(statement.order_by(_C.key_name.collate("C")))
    return [FileEntry(key=row[0], size_bytes=row[1] or 0) for row in rows]


async def remove(db: AsyncSession, user_id: int, namespace: str, key: str) -> int:
    """Delete the file `key` and all files below the directory `key`, and return how many that were."""
    statement = delete(_STORE).where(_is_or_is_below(user_id, namespace, key), _LIVE).returning(_C.id)
    return len((await db.execute(statement)).all())


async def move(db: AsyncSession, user_id: int, namespace: str, old: str, new: str) -> int:
    """Rename the file `old`, or the directory `old` with all below it, to `new`; return how many files that were.

    The caller has looked that nothing is at `new`.
    """
    # What has expired is not there for a reader, but would still be in the way.
    await db.execute(delete(_STORE).where(_is_or_is_below(user_id, namespace, new), ~_LIVE))
    statement = (
        update(_STORE)
        .where(_is_or_is_below(user_id, namespace, old), _LIVE)
        .values(
            key_name=func.concat(cast(new, String), func.substr(_C.key_name, len(old) + 1)),
            version=_C.version + 1,
            updated_at=func.now(),
        )
        .returning(_C.id)
    )
    return len((await db.execute(statement)).all())


def _is_or_is_below(user_id: int, namespace: str, key: str) -> ColumnElement[bool]:
    here = or_(_C.key_name == key, _C.key_name.startswith(f"{key}/", autoescape=True))
    return (_C.user_id == user_id) & (_C.namespace == namespace) & here
