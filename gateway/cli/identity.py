"""`agency user ...` and `agency key ...`: who may come in."""

import re
from datetime import timedelta

from gateway.cli.output import print_record, print_rows, progress
from gateway.errors import ArgumentError
from runtime.clock import SystemClock
from runtime.local import open_address, open_local
from runtime.settings import RuntimeSettings
from storage.credentials import UNUSABLE_PASSWORD, hash_password, new_api_key
from storage.errors import EntityNotFoundError
from storage.models.identity import User
from storage.queries import identity
from storage.registry import spec_of
from storage.settings import StorageSettings
from storage.tenancy import Database
from storage.violations import translated


async def add_user(username: str, email: str, password: str | None, as_json: bool) -> None:
    """Insert a user and print its id."""
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
        raise ArgumentError("--email", email, "an address such as anna@example.com")
    password_hash = UNUSABLE_PASSWORD if password is None else await hash_password(password)
    async with open_address(StorageSettings()) as address:
        database = Database(address, pool_size=1)
        try:
            async with database.begin_admin() as db:
                with translated(spec_of(User)):
                    user_id = await identity.create_user(
                        db, username=username, email=email, password_hash=password_hash
                    )
        finally:
            await database.close()
    print_record({"id": user_id, "username": username.lower(), "email": email.lower()}, as_json=as_json)


async def create_key(name: str, scopes: list[str], days: int | None, as_json: bool) -> None:
    """Make a key and print it; only its hash is kept."""
    key = new_api_key()
    expires_at = None if days is None else SystemClock().now() + timedelta(days=days)
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id) as db,
    ):
        key_id = await identity.add_key(
            db,
            user_id=local.user_id,
            name=name,
            prefix=key.prefix,
            key_hash=key.key_hash,
            scopes=scopes,
            expires_at=expires_at,
        )
    shown = {"id": key_id, "name": name, "key": key.plaintext.get_secret_value(), "scopes": scopes}
    print_record(shown, as_json=as_json)


async def list_keys(as_json: bool) -> None:
    """Print the keys of this user."""
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id, read_only=True) as db,
    ):
        rows = [
            {
                "id": row.id,
                "name": row.name,
                "keyPrefix": row.key_prefix,
                "permissions": row.permissions,
                "isActive": row.is_active,
                "lastUsedAt": None if row.last_used_at is None else row.last_used_at.isoformat(timespec="seconds"),
                "expiresAt": None if row.expires_at is None else row.expires_at.isoformat(timespec="seconds"),
                "revokedAt": None if row.revoked_at is None else row.revoked_at.isoformat(timespec="seconds"),
            }
            for row in await identity.keys(db)
        ]
    columns = ("id", "name", "keyPrefix", "permissions", "lastUsedAt", "expiresAt", "revokedAt")
    print_rows(rows, columns, as_json=as_json)


async def revoke_key(prefix: str) -> None:
    """Revoke a key."""
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id) as db,
    ):
        if not await identity.revoke_key(db, prefix):
            raise EntityNotFoundError("apiKeys", prefix)
    progress.print(f"{prefix} is revoked", markup=False)
