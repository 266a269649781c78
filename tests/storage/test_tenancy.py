"""The three doors: what each lets through, and that nothing leaks from one transaction to the next."""

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from storage.engine import Address
from storage.models.crm import ClientProfile
from storage.tenancy import Database
from storage.testing import watch_for_leaks


async def test_a_tenant_cannot_read_the_row_of_another(database: Database, alice: int, bob: int) -> None:
    async with database.begin(alice) as db:
        db.add(ClientProfile(user_id=alice, name="Acme Dental"))
    async with database.begin(bob) as db:
        assert (await db.scalars(select(ClientProfile))).all() == []
    async with database.begin(alice) as db:
        assert [row.name for row in await db.scalars(select(ClientProfile))] == ["Acme Dental"]


async def test_a_tenant_cannot_write_a_row_for_another(database: Database, alice: int, bob: int) -> None:
    with pytest.raises(DBAPIError, match="row-level security"):
        async with database.begin(alice) as db:
            db.add(ClientProfile(user_id=bob, name="Acme Dental"))


async def test_the_tenant_and_the_role_end_with_the_transaction(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        inside = (await db.execute(text("SELECT current_user, current_setting('app.user_id', true)"))).one()
    async with database.engine.connect() as connection:
        after = (await connection.execute(text("SELECT current_user, current_setting('app.user_id', true)"))).one()
    assert tuple(inside) == ("agency_runtime", str(alice))
    assert after[0] != "agency_runtime"
    assert not after[1]


@pytest.mark.parametrize(
    "leak",
    ["SELECT set_config('app.user_id', '7', false)", "SET SESSION AUTHORIZATION DEFAULT; SET ROLE agency_runtime"],
)
async def test_the_watch_over_the_pool_sees_a_setting_that_outlives_its_transaction(
    address: Address, leak: str
) -> None:
    careless = Database(address, pool_size=1)
    leaks = watch_for_leaks(careless)
    async with careless.engine.connect() as connection:
        for statement in leak.split("; "):
            await connection.execute(text(statement))
        await connection.commit()
    await careless.close()
    assert len(leaks) == 1


async def test_a_savepoint_stays_inside_its_tenant(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        async with db.begin_nested():
            db.add(ClientProfile(user_id=alice, name="Acme Dental"))
        assert (await db.execute(text("SELECT current_user"))).scalar_one() == "agency_runtime"


async def test_a_read_only_door_refuses_to_write(database: Database, alice: int) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with database.begin(alice, read_only=True) as db:
            db.add(ClientProfile(user_id=alice, name="Acme Dental"))


async def test_an_error_in_the_block_leaves_nothing_behind(database: Database, alice: int) -> None:
    async def fail_halfway() -> None:
        async with database.begin(alice) as db:
            db.add(ClientProfile(user_id=alice, name="Acme Dental"))
            await db.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_halfway()
    async with database.begin(alice) as db:
        assert (await db.scalars(select(ClientProfile))).all() == []
