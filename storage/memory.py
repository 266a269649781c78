"""The memory store: values that agents and people leave for later, by namespace and key, some of them for a while.

It owns `cf_memory_store`. What has expired is gone for every reader at once, by the database's clock, whether or not
`sweep_expired` has run. Above it: the operations `remember` and `recall`, swarms' blackboards, the memory tool's files.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Executable,
    Integer,
    Interval,
    String,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from storage.base import JsonObject
from storage.errors import InvalidFilterError, InvalidValueError, VersionConflictError
from storage.ids import new_id
from storage.models.swarm import MemoryEntry
from storage.tenancy import Database
from storage.values import check_json, check_text

LONGEST_NAME = 255
"""Characters of a namespace or a key."""
LARGEST_VALUE_BYTES = 256 * 1024
LONGEST_TTL_S = 2**31 - 1
"""What the `ttl` column holds: 68 years."""
LARGEST_PAGE = 200

_ABSENT = 0
"""The version of a key that does not exist."""

_STORE = MemoryEntry.metadata.tables[MemoryEntry.__tablename__]
_C = _STORE.c
_RETURNED = tuple(column for column in _C if column.name not in {"id", "user_id", "search_vector"})

_LIVE = or_(_C.expires_at.is_(None), _C.expires_at > func.now())
"""Part of every statement that reads: what has expired does not exist."""

_IS_QUARANTINED = _C.provenance["quarantined"].astext == "true"
"""People outside took part in writing it, and nobody has released it."""

_ONE = and_(
    _C.user_id == bindparam("b_user_id"), _C.namespace == bindparam("b_namespace"), _C.key_name == bindparam("b_key")
)
"""One row. The tenant is in the condition too, so that the unique index serves it at any size."""

_EXPIRY = func.now() + bindparam("b_ttl", type_=Integer) * literal_column("interval '1 second'", Interval)
"""NULL, which is never, without a ttl."""

# Building these costs as much as running them, so that it is done once.
_GET = select(*_RETURNED).where(_ONE, _LIVE)

_DELETE = delete(_STORE).where(_ONE, _LIVE).returning(_C.id)

_DELETE_VERSION = _DELETE.where(_C.version == bindparam("b_version"))

_TOUCH = (
    update(_STORE)
    .where(_ONE, _LIVE)
    .values(expires_at=func.now() + _C.ttl * literal_column("interval '1 second'", Interval))
    .returning(*_RETURNED)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryItem:
    """One remembered value."""

    namespace: str
    key: str
    value: Any
    """JSON."""
    version: int
    """Raised by every write."""
    ttl: int | None
    """Seconds from each write to its expiry; None: for ever."""
    expires_at: datetime | None
    provenance: JsonObject
    """Where the value comes from, as its writer stated it."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPage:
    """Some of the items of a list."""

    items: list[MemoryItem]
    cursor: str | None
    """Where the next page begins; None: this is the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What a caller wants to be written, checked."""

    namespace: str
    key: str
    value: Any
    ttl: int | None
    provenance: JsonObject


class MemoryStore:
    """The memory of one tenant inside one transaction. The caller owns the transaction: nothing here commits."""

    def __init__(self, db: AsyncSession, user_id: int) -> None:
        self._db = db
        self._user_id = user_id

    async def get(self, namespace: str, key: str) -> MemoryItem | None:
        """Return the item, or None when there is none or it has expired."""
        return _item((await self._db.execute(_GET, self._one(namespace, key))).one_or_none())

    async def set(
        self,
        namespace: str,
        key: str,
        value: Any,
        *,
        ttl: int | None = None,
        if_version: int | None = None,
        keep_ttl: bool = False,
        provenance: JsonObject | None = None,
    ) -> MemoryItem:
        """Write a value (JSON) and return the item.

        `ttl` is in seconds and starts again with every write (None: for ever), except that `keep_ttl` leaves the ttl
        and the expiry of a live item as they are. `if_version` writes only over that version; 0: only where there is
        nothing. An expired item counts as nothing, but its versions are continued: who still holds a version from
        before the expiry must not overwrite what was written since. After a sweep or delete they start at 1.

        Raises:
            InvalidValueError: the namespace, key, value, ttl or provenance cannot be stored.
            VersionConflictError: the item has another version than `if_version`.
        """
        entry = _Entry(
            namespace=_name(namespace, "namespace"),
            key=_name(key, "key"),
            value=_value(value),
            ttl=_ttl(ttl, keep_ttl=keep_ttl),
            provenance=provenance or {},
        )
        check_json(entry.provenance, "provenance")
        if if_version is None or if_version == _ABSENT:
            written = await self._write(_upsert(keep_ttl, if_version == _ABSENT), entry)
        else:
            written = await self._write(_overwrite(keep_ttl), entry, if_version)
        if written is None:
            raise await self._conflict(namespace, key, if_version)
        return written

    async def delete(self, namespace: str, key: str, *, if_version: int | None = None) -> bool:
        """Remove an item and tell whether there was one.

        Raises:
            VersionConflictError: there is one, but with another version than `if_version`.
        """
        place = self._one(namespace, key)
        if if_version is None:
            gone = await self._db.execute(_DELETE, place)
        else:
            gone = await self._db.execute(_DELETE_VERSION, {**place, "b_version": if_version})
        if gone.one_or_none() is not None:
            return True
        if if_version is not None and await self.get(namespace, key) is not None:
            raise await self._conflict(namespace, key, if_version)
        return False

    async def touch(self, namespace: str, key: str) -> MemoryItem | None:
        """Let the ttl of an item start again without writing its value; None when there is no such item."""
        return _item((await self._db.execute(_TOUCH, self._one(namespace, key))).one_or_none())

    async def search(
        self,
        text: str,
        *,
        namespaces: Sequence[str] | None = None,
        limit: int = 20,
        reader: int | None = None,
    ) -> list[MemoryItem]:
        """Return the items whose words, key or value match, best first: whole words before parts of words.

        `text` is what one types into a search engine ("exact phrase", or, -not); None: in all namespaces. `reader` is
        the conversation that they are for: it gets nothing that is quarantined, but for what it wrote itself.

        Raises:
            InvalidValueError: the text is empty, or is none.
            InvalidFilterError: the limit is wrong.
        """
        check_text(text, "text")
        if not text.strip():
            raise InvalidValueError("text", "is empty; say what to look for, or list a namespace")
        query = func.websearch_to_tsquery("simple", text)
        has_words = _C.search_vector.bool_op("@@")(query)
        in_key = _C.key_name.icontains(text.strip(), autoescape=True)
        in_value = cast(_C.value, String).icontains(text.strip(), autoescape=True)
        statement = select(*_RETURNED).where(_C.user_id == self._user_id, _LIVE)
        statement = statement.where(or_(has_words, in_key, in_value))
        if namespaces is not None:
            statement = statement.where(_C.namespace.in_(namespaces))
        if reader is not None:
            is_its_own = _C.provenance["conversationId"].astext == str(reader)
            statement = statement.where(or_(_IS_QUARANTINED.is_not(True), is_its_own))
        best_first = (
            has_words.desc(),
            func.ts_rank(_C.search_vector, query).desc(),
            in_key.desc(),
            _C.updated_at.desc(),
            _C.id,
        )
        rows = await self._db.execute(statement.order_by(*best_first).limit(_page_size(limit)))
        return [_to_item(row) for row in rows]

    async def quarantined(self, *, limit: int = 50) -> Sequence[MemoryItem]:
        """Return what waits for a person to release it, the newest first.

        Raises:
            InvalidFilterError: the limit is wrong.
        """
        statement = select(*_RETURNED).where(_C.user_id == self._user_id, _LIVE, _IS_QUARANTINED)
        newest_first = statement.order_by(_C.updated_at.desc(), _C.id).limit(_page_size(limit))
        return [_to_item(row) for row in await self._db.execute(newest_first)]

    async def list(
        self, namespace: str, *, key_prefix: str = "", limit: int = 50, cursor: str | None = None
    ) -> MemoryPage:
        """Return the items of a namespace by key; a `namespace` that ends in `/` stands for all below it.

        Raises:
            InvalidFilterError: the limit or the cursor is wrong.
        """
        check_text(namespace, "namespace")
        check_text(key_prefix, "key_prefix")
        place = (_C.namespace, _C.key_name)
        below = namespace.endswith("/")
        inside = place[0].startswith(namespace, autoescape=True) if below else place[0] == namespace
        statement = select(*_RETURNED).where(_C.user_id == self._user_id, inside, _LIVE)
        if key_prefix:
            statement = statement.where(place[1].startswith(key_prefix, autoescape=True))
        if cursor is not None:
            statement = statement.where(tuple_(*place) > tuple_(*_decode(cursor)))
        size = _page_size(limit)
        rows = (await self._db.execute(statement.order_by(*place).limit(size + 1))).all()
        items = [_to_item(row) for row in rows[:size]]
        return MemoryPage(items=items, cursor=_encode(items[-1]) if len(rows) > size else None)

    def _one(self, namespace: str, key: str) -> dict[str, Any]:
        """Return the parameters of `_ONE`."""
        check_text(namespace, "namespace")
        check_text(key, "key")
        return {"b_user_id": self._user_id, "b_namespace": namespace, "b_key": key}

    async def _write(self, statement: Executable, entry: _Entry, version: int | None = None) -> MemoryItem | None:
        parameters = {
            **self._one(entry.namespace, entry.key),
            "b_id": new_id("mem"),
            "b_value": entry.value,
            "b_ttl": entry.ttl,
            "b_provenance": entry.provenance,
            "b_version": version,
        }
        return _item((await self._db.execute(statement, parameters)).one_or_none())

    async def _conflict(self, namespace: str, key: str, expected: int | None) -> VersionConflictError:
        found = await self.get(namespace, key)
        actual = _ABSENT if found is None else found.version
        return VersionConflictError("memory", f"{namespace}/{key}", expected=str(expected), actual=str(actual))


async def sweep_expired(database: Database, *, batch: int = 1000) -> int:
    """Remove what has expired, `batch` rows per transaction, and return how many rows that were.

    Any number of sweepers may run at once: each skips what another one, or a writer, holds.
    """
    removed = 0
    while True:
        doomed = (
            select(_C.id)
            .where(_C.expires_at <= func.now())
            .order_by(_C.expires_at)
            .limit(batch)
            .with_for_update(skip_locked=True)
            .cte("doomed")
        )
        statement = delete(_STORE).where(_C.id.in_(select(doomed.c.id))).returning(_C.id)
        async with database.begin_dispatch() as db:
            found = len((await db.execute(statement)).all())
        removed += found
        if found < batch:
            return removed


@cache
def _upsert(keep_ttl: bool, only_if_absent: bool) -> Executable:  # noqa: FBT001 -- the key of a cache
    """Return the statement that writes whatever is there; with the ttl kept or none, as a HOT update.

    HOT means that it touches no index, because `expires_at`, the only indexed column it may change, keeps its value.
    """
    statement = insert(_STORE).values(
        id=bindparam("b_id"),
        user_id=bindparam("b_user_id"),
        namespace=bindparam("b_namespace"),
        key_name=bindparam("b_key"),
        value=bindparam("b_value"),
        ttl=bindparam("b_ttl"),
        expires_at=_EXPIRY,
        provenance=bindparam("b_provenance"),
    )
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=[_C.user_id, _C.namespace, _C.key_name],
        set_={
            "value": new.value,
            "provenance": new.provenance,
            "version": _C.version + 1,
            "created_at": case((_LIVE, _C.created_at), else_=func.now()),
            "updated_at": func.now(),
            "ttl": case((_LIVE, _C.ttl), else_=new.ttl) if keep_ttl else new.ttl,
            "expires_at": case((_LIVE, _C.expires_at), else_=new.expires_at) if keep_ttl else new.expires_at,
        },
        where=~_LIVE if only_if_absent else None,
    )
    return statement.returning(*_RETURNED)


@cache
def _overwrite(keep_ttl: bool) -> Executable:  # noqa: FBT001 -- the key of a cache
    """Return compare and set: an INSERT would make the item where it is missing, which is not what was compared."""
    statement = update(_STORE).where(_ONE, _LIVE, _C.version == bindparam("b_version"))
    statement = statement.values(
        value=bindparam("b_value"),
        provenance=bindparam("b_provenance"),
        version=_C.version + 1,
        updated_at=func.now(),
    )
    if not keep_ttl:
        statement = statement.values(ttl=bindparam("b_ttl"), expires_at=_EXPIRY)
    return statement.returning(*_RETURNED)


def _name(name: str, where: str) -> str:
    if not name:
        raise InvalidValueError(where, "is empty; give it a name")
    if len(name) > LONGEST_NAME:
        raise InvalidValueError(where, f"is {len(name):,} characters long; at most {LONGEST_NAME} fit, shorten it")
    return check_text(name, where)


def _value(value: Any) -> Any:
    check_json(value, "value")
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size > LARGEST_VALUE_BYTES:
        raise InvalidValueError(
            "value", f"takes {size:,} bytes as JSON, at most {LARGEST_VALUE_BYTES:,} are stored; split it over keys"
        )
    return value


def _ttl(ttl: int | None, *, keep_ttl: bool) -> int | None:
    if ttl is None:
        return None
    if keep_ttl:
        raise InvalidValueError("ttl", f"is {ttl} although keep_ttl keeps the one that is there; give one of the two")
    if not 0 < ttl <= LONGEST_TTL_S:
        raise InvalidValueError("ttl", f"is {ttl}; give 1 to {LONGEST_TTL_S:,} seconds, or leave it out for ever")
    return ttl


def _page_size(limit: int) -> int:
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidFilterError(f"limit is {limit}", [f"1 to {LARGEST_PAGE}"])
    return limit


def _encode(last: MemoryItem) -> str:
    return base64.urlsafe_b64encode(json.dumps([last.namespace, last.key]).encode()).decode()


def _decode(cursor: str) -> tuple[str, str]:
    try:
        match json.loads(base64.urlsafe_b64decode(cursor)):
            case [str(namespace), str(key)]:
                check_text(namespace + key, "cursor")
                return namespace, key
            case _:
                pass
    except (ValueError, RecursionError, InvalidValueError):
        pass  # any text may come in as a cursor; what it is not, is one of ours
    raise InvalidFilterError(f"{cursor!r} is no cursor of this list", ["the cursor of the page before"])


def _item(row: Any) -> MemoryItem | None:
    return None if row is None else _to_item(row)


def _to_item(row: Any) -> MemoryItem:
    return MemoryItem(
        namespace=row.namespace,
        key=row.key_name,
        value=row.value,
        version=row.version,
        ttl=row.ttl,
        expires_at=row.expires_at,
        provenance=row.provenance,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
