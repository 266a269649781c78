"""A server that does not let us in is one error of ours, whatever its reason."""

from dataclasses import replace

import pytest

from storage.engine import Address, connect
from storage.errors import DatabaseUnavailableError


async def test_a_server_without_a_free_place_is_unavailable(address: Address) -> None:
    connection = await connect(address)
    try:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
        with pytest.raises(DatabaseUnavailableError) as refused:
            await connect(address)
    finally:
        await connection.close()
    assert "too many connections" in refused.value.reason


async def test_a_database_that_is_not_there_is_unavailable(address: Address) -> None:
    elsewhere = address.dsn.replace("agency_test_", "agency_nothing_")
    with pytest.raises(DatabaseUnavailableError) as refused:
        await connect(replace(address, dsn=elsewhere))
    assert "does not exist" in refused.value.reason


async def test_the_server_itself_is_told_from_a_pooler(address: Address) -> None:
    connection = await connect(replace(address, pooled=True), direct=True)
    await connection.close()


async def test_an_error_names_the_address_that_was_tried(address: Address) -> None:
    elsewhere = "postgresql://me:secret@127.0.0.1:1/direct"
    with pytest.raises(DatabaseUnavailableError) as refused:
        await connect(replace(address, direct_dsn=elsewhere), direct=True)
    assert refused.value.where == "127.0.0.1:1/direct"
