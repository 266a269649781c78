"""What the members of a swarm share: named boards of values, kept in the memory store under `swarm/<id>/<name>`."""

from dataclasses import dataclass
from typing import Any

from storage.memory import MemoryItem, MemoryStore
from storage.namespaces import swarm_namespace
from storage.tenancy import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One namespace of a swarm. Values are JSON; each call is a transaction of its own."""

    database: Database
    user_id: int
    namespace: str

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or `default` when there is none or it has expired."""
        item = await self.item(key)
        return default if item is None else item.value

    async def item(self, key: str) -> MemoryItem | None:
        """Return the value with its version, which `cas` wants."""
        async with self.database.begin(self.user_id) as db:
            return await MemoryStore(db, self.user_id).get(self.namespace, key)

    async def set(self, key: str, value: Any, *, ttl: int | None = None) -> MemoryItem:
        """Write a value; it expires after `ttl` seconds.

        Raises:
            InvalidValueError: the key, value or ttl cannot be stored.
        """
        async with self.database.begin(self.user_id) as db:
            return await MemoryStore(db, self.user_id).set(self.namespace, key, value, ttl=ttl)

    async def cas(self, key: str, value: Any, *, if_version: int, ttl: int | None = None) -> MemoryItem:
        """Write a value over that version only; 0: only where there is none.

        Raises:
            VersionConflictError: somebody else has written; read again and repeat.
            InvalidValueError: the key, value or ttl cannot be stored.
        """
        async with self.database.begin(self.user_id) as db:
            store = MemoryStore(db, self.user_id)
            return await store.set(self.namespace, key, value, ttl=ttl, if_version=if_version)

    async def delete(self, key: str) -> bool:
        """Remove a value and tell whether there was one."""
        async with self.database.begin(self.user_id) as db:
            return await MemoryStore(db, self.user_id).delete(self.namespace, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The boards of a swarm, by name; gone with the swarm."""

    database: Database
    user_id: int
    swarm_id: str

    def __getitem__(self, name: str) -> Board:
        namespace = swarm_namespace(self.swarm_id, name)
        return Board(database=self.database, user_id=self.user_id, namespace=namespace)
