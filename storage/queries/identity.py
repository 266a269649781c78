"""Who somebody is: looked up before the tenant is known, so on a dispatch transaction where the name says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncSession

from storage.credentials import same_hash
from storage.models.identity import ApiKey, User, UserProfile


async def user_named(dispatch: AsyncSession, username: str) -> int | None:
    """Return the id of the user with this name, in any case."""
    return await dispatch.scalar(select(User.id).where(User.username == username.lower()))


async def create_user(admin: AsyncSession, *, username: str, email: str, password_hash: str, role: str = "user") -> int:
    """Insert a user and return its id; name and address are stored in lower case."""
    values = {
        User.username: username.lower(),
        User.email: email.lower(),
        User.password: password_hash,
        User.role: role,
    }
    return (await admin.execute(insert(User).values(values).returning(User.id))).scalar_one()


async def timezone_of(db: AsyncSession) -> str | None:
    """Return the IANA name of the tenant's time zone, None when they have not said."""
    return await db.scalar(select(UserProfile.preferences["timezone"].astext))


async def public_list(db: AsyncSession) -> Any:
    """Return what the tenant lets everybody know, as they wrote it; None when they have not said."""
    return await db.scalar(select(UserProfile.preferences["public"]))


async def ensure_user(admin: AsyncSession, *, username: str, email: str, password_hash: str, role: str) -> int:
    """Return the id of the user with this name, inserting it when it is missing; safe when two do it at once."""
    values = {User.username: username, User.email: email, User.password: password_hash, User.role: role}
    statement = pg_insert(User).values(values).on_conflict_do_nothing().returning(User.id)
    inserted = (await admin.execute(statement)).scalar_one_or_none()
    if inserted is not None:
        return inserted
    return (await admin.execute(select(User.id).where(User.username == username))).scalar_one()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOwner:
    """Whose key it is."""

    key_id: int
    user_id: int


async def owner_of_key(dispatch: AsyncSession, *, prefix: str, key_hash: str) -> KeyOwner | None:
    """Return the owner of an API key that may be used now."""
    statement = select(ApiKey.id, ApiKey.user_id, ApiKey.key_hash).where(
        ApiKey.key_prefix == prefix,
        ApiKey.is_active,
        ApiKey.revoked_at.is_(None),
        or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
    )
    row = (await dispatch.execute(statement)).one_or_none()
    if row is None or not same_hash(key_hash, row[2]):
        return None
    return KeyOwner(key_id=row[0], user_id=row[1])


async def touch_key(db: AsyncSession, key_id: int) -> None:
    """Record that a key was used; to the minute, so that busy keys do not write on every call."""
    is_stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - text("interval '1 minute'"))
    await db.execute(update(ApiKey).where(ApiKey.id == key_id, is_stale).values({ApiKey.last_used_at: func.now()}))


async def add_key(
    db: AsyncSession,
    *,
    user_id: int,
    name: str,
    prefix: str,
    key_hash: str,
    scopes: Sequence[str],
    expires_at: datetime | None,
) -> int:
    """Insert an API key and return its id."""
    row = ApiKey(
        user_id=user_id,
        name=name,
        key_prefix=prefix,
        key_hash=key_hash,
        permissions=list(scopes),
        expires_at=expires_at,
    )
    db.add(row)
    await db.flush()
    return row.id


async def keys(db: AsyncSession) -> Sequence[ApiKey]:
    """Return the tenant's keys, newest first."""
    return (await db.scalars(select(ApiKey).order_by(ApiKey.id.desc()))).all()


async def revoke_key(db: AsyncSession, prefix: str) -> bool:
    """Make a key useless; False when the tenant has none with this prefix."""
    statement = (
        update(ApiKey)
        .where(ApiKey.key_prefix == prefix)
        .values({ApiKey.is_active: False, ApiKey.revoked_at: func.coalesce(ApiKey.revoked_at, func.now())})
        .returning(ApiKey.id)
    )
    return (await db.execute(statement)).one_or_none() is not None
