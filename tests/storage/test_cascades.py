# ruff: noqa: S608 -- every name in these statements comes from the metadata
"""What goes with what: a user with everything, an aggregate with its parts, an optional link with its target only."""

from collections import Counter

import asyncpg
import pytest
from sqlalchemy import text

from storage.engine import RawConnection
from storage.tenancy import RUNTIME, Database, raw_connection
from tests.schema.rows import OWNERS, TABLES, Link, Rows, Values, World, enter, key_of, links_of, matches

OUTLIVES_ITS_USER = "auditLogs"

LINKS = {link.name: link for table in TABLES for link in links_of(table)}


async def fill(database: Database, tenant: int) -> dict[str, list[Values]]:
    """Give a tenant a row in every table, every link pointing somewhere, and return all its rows as stored."""
    async with database.begin(tenant) as db:
        connection = await raw_connection(db)
        await Rows(connection, tenant).fill()
        return await stored(connection)


async def stored(connection: RawConnection) -> dict[str, list[Values]]:
    """Return every row that the tenant of this transaction has, by table, each with its `xmin`."""
    found: dict[str, list[Values]] = {}
    for table in TABLES:
        key = ", ".join(f'"{name}"' for name in key_of(table))
        found[table] = [dict(row) for row in await connection.fetch(f'SELECT *, xmin FROM "{table}" ORDER BY {key}')]
    return found


async def seen(database: Database, tenant: int) -> dict[str, list[Values]]:
    """Return every row of a tenant."""
    async with database.begin(tenant, read_only=True) as db:
        return await stored(await raw_connection(db))


async def test_removing_a_user_removes_every_row_but_the_audit_trail(database: Database, alice: int, bob: int) -> None:
    before = await fill(database, alice)
    others = await fill(database, bob)
    assert [table for table, rows in before.items() if not rows] == []
    async with database.begin_admin() as db:
        await db.execute(text("DELETE FROM users WHERE id = :id"), {"id": alice})
    left = await seen(database, alice)
    assert {table for table, rows in left.items() if rows} == {OUTLIVES_ITS_USER}
    assert left[OUTLIVES_ITS_USER] == before[OUTLIVES_ITS_USER]
    assert await seen(database, bob) == others


@pytest.mark.parametrize("name", [name for name, link in LINKS.items() if link.optional and link.composite])
async def test_an_optional_link_is_emptied_and_the_owner_kept(world: World, name: str) -> None:
    link = LINKS[name]
    await enter(world.connection, RUNTIME, world.alice)
    row, target = await pointing(Rows(world.connection, world.alice), link)
    await world.connection.execute(f'DELETE FROM "{link.target}" WHERE id = $1', target["id"])
    kept = await world.connection.fetchrow(f'SELECT * FROM "{link.table}" WHERE {matches(row)}', *row.values())
    assert kept is not None
    assert (kept[link.column], kept[OWNERS[link.table]]) == (None, world.alice)


async def pointing(rows: Rows, link: Link) -> tuple[Values, Values]:
    """Return a row that points to a target which nothing else needs."""
    target = await rows.add(link.target)
    return await rows.add(link.table, **{link.column: target["id"]}), target


@pytest.mark.parametrize("name", [name for name, link in LINKS.items() if not link.optional])
async def test_a_part_goes_with_its_whole(world: World, name: str) -> None:
    link = LINKS[name]
    await enter(world.connection, RUNTIME, world.alice)
    row, target = await pointing(Rows(world.connection, world.alice), link)
    await world.connection.execute(f'DELETE FROM "{link.target}" WHERE id = $1', target["id"])
    assert await world.connection.fetch(f'SELECT FROM "{link.table}" WHERE {matches(row)}', *row.values()) == []


@pytest.mark.parametrize("name", [name for name, link in LINKS.items() if link.composite])
async def test_a_row_is_not_attached_to_the_parent_of_another_tenant(world: World, name: str) -> None:
    link = LINKS[name]
    await enter(world.connection, RUNTIME, world.bob)
    foreign = await Rows(world.connection, world.bob).one(link.target)
    await enter(world.connection, RUNTIME, world.alice)
    rows = Rows(world.connection, world.alice)
    values = await rows.values(link.table)
    with pytest.raises(asyncpg.ForeignKeyViolationError) as raised:
        await rows.add(link.table, **values | {link.column: foreign["id"]})
    assert raised.value.constraint_name == name


async def test_a_card_is_not_assigned_to_another_user(world: World) -> None:
    await enter(world.connection, RUNTIME, world.alice)
    rows = Rows(world.connection, world.alice)
    assert await rows.add("agencyTasks", assignedTo=world.alice)
    with pytest.raises(asyncpg.CheckViolationError):
        await rows.add("agencyTasks", assignedTo=world.bob)


def test_the_links_are_all_there() -> None:
    kinds = Counter((link.optional, link.composite) for link in LINKS.values())
    assert kinds[(True, False)] == 1, "only a card's assignee is named without its owner"
    assert kinds[(True, True)] >= 14
    assert kinds[(False, True)] >= 17
