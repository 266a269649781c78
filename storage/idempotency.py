"""Calls that may be repeated: the same key and arguments give the same answer, also when two arrive at once.

`claim` first, then the work, then `settle`, in one transaction: the key and its effect commit together or not at all.
The runtime role may insert keys but never change them, hence the lock instead of a row that is filled in later.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, null, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from storage.errors import EntityConflictError, InvalidValueError
from storage.models.audit import IdempotencyKey
from storage.values import check_text

_MAX_KEY = 255
_LOCK_NOT_AVAILABLE = "55P03"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A call that its caller may repeat."""

    user_id: int
    operation: str
    """At most 100 characters; keys of different operations do not meet."""
    key: str
    """Chosen by the caller, 1 to 255 characters."""
    argument_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the first call of this key did."""

    entity: str | None = None
    row_id: str | None = None
    result: Any = None


def argument_hash(arguments: object) -> str:
    """Return the SHA-256 of the canonical JSON of `arguments`, hexadecimal; what JSON lacks counts as its text."""
    canonical = json.dumps(arguments, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


async def claim(db: AsyncSession, call: Claim) -> Outcome | None:
    """Hold the key until the transaction ends, and return what an earlier call did; None: this is the first.

    Raises:
        EntityConflictError: the key was used with other arguments, or a call with it is still running.
        InvalidValueError: the key is empty, too long or not storable.
    """
    if not 1 <= len(call.key) <= _MAX_KEY:
        raise InvalidValueError("idempotency_key", f"has {len(call.key)} characters; 1 to {_MAX_KEY} are allowed")
    check_text(call.key, "idempotency_key")
    await _lock(db, call)
    # A statement of its own: its snapshot begins after the lock was granted, so it sees what the winner committed.
    keys = IdempotencyKey
    found = await db.execute(
        select(keys.argument_hash, keys.entity, keys.row_id, keys.result).where(
            keys.user_id == call.user_id, keys.operation == call.operation, keys.key == call.key
        )
    )
    row = found.one_or_none()
    if row is None:
        return None
    if row[0] != call.argument_hash:
        raise EntityConflictError(
            call.operation, "this idempotency key was used with other arguments; use a new key for a new call"
        )
    return Outcome(entity=row[1], row_id=row[2], result=row[3])


async def settle(db: AsyncSession, call: Claim, outcome: Outcome) -> None:
    """Write down what the call did; `claim` has been called in this transaction."""
    await db.execute(
        insert(IdempotencyKey).values(
            user_id=call.user_id,
            operation=call.operation,
            key=call.key,
            argument_hash=call.argument_hash,
            entity=outcome.entity,
            row_id=outcome.row_id,
            result=null() if outcome.result is None else outcome.result,
        )
    )


async def _lock(db: AsyncSession, call: Claim) -> None:
    """Wait for whoever holds the key. Keys that share a lock by chance only wait for each other."""
    name = json.dumps([call.user_id, call.operation, call.key]).encode()
    number = int.from_bytes(hashlib.sha256(name).digest()[:8], "big", signed=True)
    try:
        await db.execute(select(func.pg_advisory_xact_lock(number)))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise EntityConflictError(
            call.operation, "a call with this idempotency key is still running; repeat it later"
        ) from error
