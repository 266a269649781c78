"""A world of two tenants that many tests of the catalogue share, because each takes back what it does."""

from collections.abc import AsyncGenerator

import pytest

from storage.engine import connect
from storage.tenancy import Database
from storage.testing import add_user, fresh_address
from tests.schema.rows import World


@pytest.fixture(scope="module")
async def shared_world(server_dsn: str, template: str) -> AsyncGenerator[World]:
    """Two tenants without rows, in the one database of a module."""
    async with fresh_address(server_dsn, template) as address:
        database = Database(address, pool_size=1)
        alice, bob = await add_user(database, "alice"), await add_user(database, "bob")
        await database.close()
        connection = await connect(address)
        yield World(connection=connection, alice=alice, bob=bob)
        await connection.close()


@pytest.fixture
async def world(shared_world: World) -> AsyncGenerator[World]:
    """The two tenants, inside a transaction that is rolled back.

    For raw connections only: a door to the database brings its own transaction, and commits. The test takes roles by
    `tests.schema.rows.enter`, in a savepoint when it needs the owner's rights again.
    """
    transaction = shared_world.connection.transaction()
    await transaction.start()
    yield shared_world
    await transaction.rollback()
