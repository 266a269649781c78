"""The memory store: versions, expiry that every reader sees at once, search, and what it costs the database."""

import math
from datetime import timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from storage.engine import Address, connect
from storage.errors import InvalidFilterError, InvalidValueError, VersionConflictError
from storage.memory import LARGEST_VALUE_BYTES, MemoryItem, MemoryStore, sweep_expired
from storage.tenancy import Database


async def remember(database: Database, user_id: int, key: str, value: Any, **options: Any) -> MemoryItem:
    async with database.begin(user_id) as db:
        return await MemoryStore(db, user_id).set(options.pop("namespace", "user"), key, value, **options)


async def recall(database: Database, user_id: int, key: str) -> MemoryItem | None:
    async with database.begin(user_id, read_only=True) as db:
        return await MemoryStore(db, user_id).get("user", key)


async def let_expire(database: Database, user_id: int) -> None:
    """Set the clock of everything with a ttl back, instead of waiting for it."""
    async with database.begin(user_id) as db:
        await db.execute(text("UPDATE cf_memory_store SET expires_at = now() - interval '1 s' WHERE ttl IS NOT NULL"))


async def rows_of(database: Database, user_id: int) -> int:
    async with database.begin(user_id) as db:
        return (await db.execute(text("SELECT count(*) FROM cf_memory_store"))).scalar_one()


@pytest.mark.parametrize(
    "value", [None, True, 0, -1.5, "", "naïve ✓ 𝄞", [], {}, {"a": [1, {"b": None}]}, 10**15], ids=repr
)
async def test_a_value_comes_back_as_it_went_in(database: Database, alice: int, value: object) -> None:
    written = await remember(database, alice, "k", value, provenance={"source": "chat"})
    found = await recall(database, alice, "k")
    assert found == written
    assert (written.value, written.version, written.ttl, written.expires_at) == (value, 1, None, None)
    assert written.provenance == {"source": "chat"}


async def test_an_unknown_key_is_none(database: Database, alice: int) -> None:
    assert await recall(database, alice, "nothing") is None


async def test_a_tenant_cannot_see_the_memory_of_another(database: Database, alice: int, bob: int) -> None:
    await remember(database, alice, "k", "hers")
    await remember(database, bob, "k", "his")
    async with database.begin(bob) as db:
        store = MemoryStore(db, bob)
        assert [item.value for item in (await store.list("user")).items] == ["his"]
        assert [item.value for item in await store.search("hers his")] == []
        assert [item.value for item in await store.search("k")] == ["his"]
        assert await MemoryStore(db, alice).get("user", "k") is None
        assert await MemoryStore(db, alice).delete("user", "k") is False


async def test_every_write_raises_the_version(database: Database, alice: int) -> None:
    versions = [(await remember(database, alice, "k", n)).version for n in range(3)]
    assert versions == [1, 2, 3]


async def test_compare_and_set_writes_over_the_expected_version_only(database: Database, alice: int) -> None:
    await remember(database, alice, "k", "one")
    assert (await remember(database, alice, "k", "two", if_version=1)).version == 2
    with pytest.raises(VersionConflictError) as refused:
        await remember(database, alice, "k", "three", if_version=1)
    assert (refused.value.expected, refused.value.actual) == ("1", "2")
    found = await recall(database, alice, "k")
    assert found is not None
    assert found.value == "two"


async def test_compare_and_set_does_not_make_what_is_missing(database: Database, alice: int) -> None:
    with pytest.raises(VersionConflictError) as refused:
        await remember(database, alice, "k", "one", if_version=7)
    assert (refused.value.expected, refused.value.actual) == ("7", "0")
    assert await recall(database, alice, "k") is None


async def test_version_zero_means_only_where_there_is_nothing(database: Database, alice: int) -> None:
    assert (await remember(database, alice, "k", "one", if_version=0)).version == 1
    with pytest.raises(VersionConflictError) as refused:
        await remember(database, alice, "k", "two", if_version=0)
    assert (refused.value.expected, refused.value.actual) == ("0", "1")


async def test_of_many_who_create_a_key_at_once_one_wins(database: Database, alice: int) -> None:
    outcomes: list[str] = []

    async def create(name: str) -> None:
        try:
            await remember(database, alice, "leader", name, if_version=0)
            outcomes.append("won")
        except VersionConflictError:
            outcomes.append("lost")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(create, f"agent {number}")
    assert sorted(outcomes) == ["lost"] * 5 + ["won"]


async def test_of_many_who_count_with_compare_and_set_no_step_is_lost(database: Database, alice: int) -> None:
    await remember(database, alice, "counter", 0)

    async def count() -> None:
        while True:
            found = await recall(database, alice, "counter")
            assert found is not None
            try:
                await remember(database, alice, "counter", found.value + 1, if_version=found.version)
            except VersionConflictError:
                continue
            return

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(count)
    found = await recall(database, alice, "counter")
    assert found is not None
    assert (found.value, found.version) == (6, 7)


async def test_what_has_expired_is_gone_for_every_reader_before_any_sweep(database: Database, alice: int) -> None:
    written = await remember(database, alice, "offer", "ten percent", ttl=60)
    assert written.expires_at is not None
    assert written.expires_at - written.updated_at == timedelta(seconds=60)
    await let_expire(database, alice)
    async with database.begin(alice) as db:
        store = MemoryStore(db, alice)
        assert await store.get("user", "offer") is None
        assert (await store.list("user")).items == []
        assert await store.search("percent") == []
        assert await store.touch("user", "offer") is None
        assert await store.delete("user", "offer") is False
        with pytest.raises(VersionConflictError):
            await store.set("user", "offer", "again", if_version=written.version)
    assert await rows_of(database, alice) == 1


@pytest.mark.parametrize("if_version", [None, 0])
async def test_an_expired_item_is_written_as_new_but_its_versions_go_on(
    database: Database, alice: int, if_version: int | None
) -> None:
    old = await remember(database, alice, "offer", "ten percent", ttl=60)
    await let_expire(database, alice)
    new = await remember(database, alice, "offer", "five percent", if_version=if_version, keep_ttl=if_version is None)
    assert (new.version, new.ttl, new.expires_at) == (old.version + 1, None, None)
    assert new.created_at > old.created_at
    with pytest.raises(VersionConflictError):  # whoever read before the expiry has not seen the new value
        await remember(database, alice, "offer", "ten percent", if_version=old.version)


async def test_a_write_starts_the_ttl_again_unless_it_is_kept(database: Database, alice: int) -> None:
    first = await remember(database, alice, "k", 1, ttl=60)
    kept = await remember(database, alice, "k", 2, keep_ttl=True)
    compared = await remember(database, alice, "k", 3, keep_ttl=True, if_version=2)
    assert (kept.ttl, kept.expires_at) == (compared.ttl, compared.expires_at) == (60, first.expires_at)
    again = await remember(database, alice, "k", 4, ttl=60)
    assert first.expires_at is not None
    assert again.expires_at is not None
    assert again.expires_at > first.expires_at
    for_ever = await remember(database, alice, "k", 5, if_version=4)
    assert (for_ever.ttl, for_ever.expires_at) == (None, None)


async def test_touch_lets_the_ttl_start_again_and_leaves_the_rest(database: Database, alice: int) -> None:
    written = await remember(database, alice, "k", 1, ttl=60)
    await remember(database, alice, "eternal", 1)
    async with database.begin(alice) as db:
        touched = await MemoryStore(db, alice).touch("user", "k")
        eternal = await MemoryStore(db, alice).touch("user", "eternal")
    assert touched is not None
    assert touched.expires_at is not None
    assert written.expires_at is not None
    assert touched.expires_at > written.expires_at
    assert (touched.version, touched.value, touched.updated_at) == (1, 1, written.updated_at)
    assert eternal is not None
    assert eternal.expires_at is None


@pytest.mark.parametrize("ttl", [0, -1, 2**31])
async def test_a_ttl_that_is_no_time_is_refused(database: Database, alice: int, ttl: int) -> None:
    with pytest.raises(InvalidValueError) as refused:
        await remember(database, alice, "k", 1, ttl=ttl)
    assert refused.value.where == "ttl"


async def test_a_new_ttl_and_the_kept_one_contradict_each_other(database: Database, alice: int) -> None:
    with pytest.raises(InvalidValueError) as refused:
        await remember(database, alice, "k", 1, ttl=60, keep_ttl=True)
    assert refused.value.where == "ttl"


@pytest.mark.parametrize(
    ("namespace", "key", "value", "where"),
    [
        ("", "k", 1, "namespace"),
        ("n" * 256, "k", 1, "namespace"),
        ("us\x00er", "k", 1, "namespace"),
        ("user", "", 1, "key"),
        ("user", "k" * 256, 1, "key"),
        ("user", "k\ud800", 1, "key"),
        ("user", "k", {"a": ["fine", "not\x00fine"]}, "value.a[1]"),
        ("user", "k", {"a": math.nan}, "value.a"),
        ("user", "k", "x" * LARGEST_VALUE_BYTES, "value"),
        ("user", "k", ["é" * 100_000, "é" * 100_000], "value"),
    ],
)
async def test_what_cannot_be_stored_is_refused_by_its_place(
    database: Database, alice: int, namespace: str, key: str, value: object, where: str
) -> None:
    with pytest.raises(InvalidValueError) as refused:
        await remember(database, alice, key, value, namespace=namespace)
    assert refused.value.where == where
    assert await rows_of(database, alice) == 0


async def test_the_largest_names_and_values_are_stored(database: Database, alice: int) -> None:
    value = "x" * (LARGEST_VALUE_BYTES - 2)
    written = await remember(database, alice, "ü" * 255, value, namespace="n" * 255)
    assert written.value == value


async def test_delete_tells_whether_there_was_something(database: Database, alice: int) -> None:
    await remember(database, alice, "k", 1)
    async with database.begin(alice) as db:
        store = MemoryStore(db, alice)
        assert await store.delete("user", "k") is True
        assert await store.delete("user", "k") is False
        assert await store.delete("user", "k", if_version=1) is False


async def test_delete_spares_another_version(database: Database, alice: int) -> None:
    await remember(database, alice, "k", 1)
    await remember(database, alice, "k", 2)
    async with database.begin(alice) as db:
        store = MemoryStore(db, alice)
        with pytest.raises(VersionConflictError) as refused:
            await store.delete("user", "k", if_version=1)
        assert (refused.value.expected, refused.value.actual) == ("1", "2")
        assert await store.delete("user", "k", if_version=2) is True


async def test_list_pages_through_a_namespace_in_the_order_of_its_keys(database: Database, alice: int) -> None:
    keys = [f"k{number}" for number in range(7)]
    for key in reversed(keys):
        await remember(database, alice, key, key)
    await remember(database, alice, "k3", "elsewhere", namespace="client/1")
    seen: list[list[str]] = []
    cursor: str | None = None
    async with database.begin(alice) as db:
        while True:
            page = await MemoryStore(db, alice).list("user", limit=3, cursor=cursor)
            seen.append([item.key for item in page.items])
            cursor = page.cursor
            if cursor is None:
                break
    assert seen == [keys[:3], keys[3:6], keys[6:]]


async def test_list_takes_all_namespaces_below_a_slash_and_keys_by_prefix(database: Database, alice: int) -> None:
    for namespace in ("swarm/swm_1", "swarm/swm_1/plan", "swarm/swm_1/notes", "swarm/swm_10/plan", "swarm/swm%1/x"):
        await remember(database, alice, "a_1", namespace, namespace=namespace)
        await remember(database, alice, "ab1", namespace, namespace=namespace)
    async with database.begin(alice) as db:
        store = MemoryStore(db, alice)
        below = await store.list("swarm/swm_1/", key_prefix="a_")
        itself = await store.list("swarm/swm_1")
    assert [(item.namespace, item.key) for item in below.items] == [
        ("swarm/swm_1/notes", "a_1"),
        ("swarm/swm_1/plan", "a_1"),
    ]
    assert [item.key for item in itself.items] == ["a_1", "ab1"]


@pytest.mark.parametrize("cursor", ["", "nonsense", "W10=", "WzEsMl0=", "é", "WyJcdTAwMDAiLCAieCJd", "W" * 9000])
async def test_a_cursor_that_is_none_is_refused(database: Database, alice: int, cursor: str) -> None:
    async with database.begin(alice) as db:
        with pytest.raises(InvalidFilterError):
            await MemoryStore(db, alice).list("user", cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 201])
async def test_a_page_without_bounds_is_refused(database: Database, alice: int, limit: int) -> None:
    async with database.begin(alice) as db:
        store = MemoryStore(db, alice)
        with pytest.raises(InvalidFilterError):
            await store.list("user", limit=limit)
        with pytest.raises(InvalidFilterError):
            await store.search("x", limit=limit)


async def test_search_finds_whole_words_before_parts_of_words(database: Database, alice: int) -> None:
    await remember(database, alice, "a", {"note": "the landing page loads slowly"})
    await remember(database, alice, "b", {"note": "land registry"}, namespace="client/1")
    await remember(database, alice, "land-price", 100)
    await remember(database, alice, "d", "something else")
    async with database.begin(alice) as db:
        store = MemoryStore(db, alice)
        assert [item.key for item in await store.search("land")] == ["land-price", "b", "a"]
        assert [item.key for item in await store.search("land", limit=1)] == ["land-price"]
        assert [item.key for item in await store.search("land", namespaces=["client/1"])] == ["b"]
        assert [item.key for item in await store.search("land", namespaces=[])] == []
        assert [item.key for item in await store.search('"landing page" -registry')] == ["a"]


async def test_search_puts_all_of_the_words_before_a_part_of_the_text(database: Database, alice: int) -> None:
    await remember(database, alice, "part", "the landing pa xylophone")
    await remember(database, alice, "words", f"pa {'and ' * 50} landing {'and ' * 50} x")
    async with database.begin(alice) as db:
        assert [item.key for item in await MemoryStore(db, alice).search("landing pa x")] == ["words", "part"]


@pytest.mark.parametrize("words", ["100%", "_", "\\", "'; drop", "a & | ! (", "<->", '"unclosed'])
async def test_search_takes_any_text_for_text(database: Database, alice: int, words: str) -> None:
    await remember(database, alice, "literal", f"says {words} here".replace('"', "'"))
    await remember(database, alice, "other", "zzz")
    async with database.begin(alice) as db:
        found = await MemoryStore(db, alice).search(words)
    assert "other" not in [item.key for item in found]


@pytest.mark.parametrize("words", ["", "  ", "a\x00b"])
async def test_search_for_nothing_is_refused(database: Database, alice: int, words: str) -> None:
    async with database.begin(alice) as db:
        with pytest.raises(InvalidValueError):
            await MemoryStore(db, alice).search(words)


async def test_the_sweep_removes_what_has_expired_of_all_tenants_and_nothing_else(
    database: Database, alice: int, bob: int
) -> None:
    for user_id in (alice, bob):
        for number in range(5):
            await remember(database, user_id, f"old{number}", number, ttl=60)
        await let_expire(database, user_id)
        await remember(database, user_id, "later", 1, ttl=60)
        await remember(database, user_id, "eternal", 1)
    assert await sweep_expired(database, batch=3) == 10
    assert await sweep_expired(database) == 0
    assert await rows_of(database, alice) == await rows_of(database, bob) == 2


async def test_the_sweep_does_not_wait_for_who_is_writing_an_expired_item(database: Database, alice: int) -> None:
    for key in ("busy", "idle"):
        await remember(database, alice, key, 1, ttl=60)
    await let_expire(database, alice)
    with anyio.fail_after(5):
        async with database.begin(alice) as db:
            await MemoryStore(db, alice).set("user", "busy", 2)
            assert await sweep_expired(database) == 1
    assert await recall(database, alice, "busy") is not None


async def test_writing_again_without_a_new_expiry_touches_no_index(
    database: Database, address: Address, alice: int
) -> None:
    await remember(database, alice, "eternal", 0)
    await remember(database, alice, "kept", 0, ttl=3600)
    for number in range(8):  # few enough for one page
        await remember(database, alice, "eternal", {"n": number})
        async with database.begin(alice) as db:
            await MemoryStore(db, alice).set("user", "kept", {"n": number}, keep_ttl=True)
            await db.execute(text("SELECT pg_stat_force_next_flush()"))
    await database.close()  # a backend reports what it has counted when it ends, at the latest
    connection = await connect(address)
    counted = await connection.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'cf_memory_store'"
    )
    await connection.close()
    assert counted is not None
    assert (counted["n_tup_upd"], counted["n_tup_hot_upd"]) == (16, 16)
