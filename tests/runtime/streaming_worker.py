"""A worker process: drives one execution with the real adapter in front of a Messages API, and may be killed at it."""

import json
import sys

import anyio

from runtime.models.anthropic import AnthropicModel, anthropic_client
from runtime.testing import system_on
from storage.engine import Address
from storage.tenancy import Database


async def work(dsn: str, user_id: int, execution_id: int, url: str) -> None:
    database = Database(Address(dsn=dsn, direct_dsn=dsn, pooled=False), pool_size=2)
    async with anthropic_client(api_key="test-key", base_url=url) as client:
        model = AnthropicModel(client, model="claude-sonnet-5-5")
        await system_on(database, user_id, model).driver.run(user_id, execution_id)
    await database.close()


if __name__ == "__main__":
    anyio.run(lambda: work(**json.loads(sys.argv[1])))
