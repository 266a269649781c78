"""The audit trail can be added to and read, and never changed: not by a tenant, and not by the owner of the table."""

import asyncpg
import pytest

from storage.tenancy import ADMIN, DISPATCH, RUNTIME
from tests.schema.rows import World, enter

ADD = """INSERT INTO "auditLogs" ("userId", action, "entityType") VALUES ({tenant}, 'created', 'documents')"""

CHANGES = {
    "UPDATE": """UPDATE "auditLogs" SET action = 'forged'""",
    "UPDATE of nothing": """UPDATE "auditLogs" SET action = 'forged' WHERE false""",
    "DELETE": 'DELETE FROM "auditLogs"',
    "TRUNCATE": 'TRUNCATE "auditLogs"',
    "an INSERT that updates": """
        INSERT INTO "auditLogs" (id, action, "entityType") OVERRIDING SYSTEM VALUE VALUES (1, 'a', 'b')
        ON CONFLICT (id) DO UPDATE SET action = 'forged'
    """,
    "MERGE": """
        MERGE INTO "auditLogs" USING (SELECT 1) AS one ON true WHEN MATCHED THEN UPDATE SET action = 'forged'
    """,
}


async def trail(world: World, tenant: int) -> list[str]:
    """Return the actions in the trail of a tenant."""
    async with world.connection.transaction():
        await enter(world.connection, RUNTIME, tenant)
        return [row["action"] for row in await world.connection.fetch('SELECT action FROM "auditLogs" ORDER BY id')]


async def attempt(world: World, role: str, tenant: int, statement: str) -> None:
    """Run a statement as a role; an error takes it back."""
    async with world.connection.transaction():
        await enter(world.connection, role, tenant)
        await world.connection.execute(statement)


@pytest.fixture
async def owner(world: World) -> World:
    """The connection of the owner of the tables, after alice has left an audit row."""
    await attempt(world, RUNTIME, world.alice, ADD.format(tenant=world.alice))
    # The role lasts to the end of the transaction, beyond the savepoint.
    await enter(world.connection, "none")
    return world


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("role", [RUNTIME, DISPATCH, ADMIN])
async def test_no_role_has_the_right_to_change_the_trail(owner: World, role: str, change: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await attempt(owner, role, owner.alice, change)
    assert await trail(owner, owner.alice) == ["created"]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_the_trigger_stops_even_the_owner(owner: World, change: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await attempt(owner, "none", owner.alice, change)
    assert await trail(owner, owner.alice) == ["created"]


async def test_without_the_trigger_the_owner_could_empty_the_trail(owner: World) -> None:
    """The control: nothing else stops the owner."""
    await owner.connection.execute('ALTER TABLE "auditLogs" DISABLE TRIGGER append_only')
    await owner.connection.execute('TRUNCATE "auditLogs"')
    assert await trail(owner, owner.alice) == []


@pytest.mark.parametrize("tenant", ["{bob}", "NULL"], ids=["another tenant", "the system"])
async def test_a_tenant_adds_to_its_own_trail_only(owner: World, tenant: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await attempt(owner, RUNTIME, owner.alice, ADD.format(tenant=tenant.format(bob=owner.bob)))
    assert await trail(owner, owner.bob) == []
