"""What the product does all day, once through, on a server of somebody else's: commands, chat, swarm, MCP, entities."""

import base64
import json
import secrets
from collections.abc import Mapping

import anyio.to_thread
import pytest
from sqlalchemy import text

from gateway.demo.job import Report, run_demo
from gateway.demo.script import CONVERSATION
from runtime.agents import ASSISTANT
from runtime.driver import Ended
from runtime.local import Local, find_user, open_local
from runtime.settings import RuntimeSettings
from storage.credentials import parse_api_key
from storage.entities import EntityStore
from storage.errors import EntityNotFoundError
from storage.filters import Query
from storage.memory import MemoryStore
from storage.models.crm import ClientProfile
from storage.queries import demo, executions
from storage.registry import spec_of
from storage.settings import StorageSettings
from tests.faults import ledger
from tests.user import Agency


def settings_for(dsn: str, direct_dsn: str | None = None) -> dict[str, str]:
    """Return the environment of somebody with a database of their own."""
    settings = {
        "DATABASE_URL": dsn,
        "AGENCY_SECRET_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
        "AGENCY_MODEL": "offline",
    }
    return settings | ({"DATABASE_URL_DIRECT": direct_dsn} if direct_dsn else {})


async def run_agency(agency: Agency, *arguments: str, settings: Mapping[str, str]) -> str:
    """Run a command that must succeed and return what it prints."""
    ran = await anyio.to_thread.run_sync(lambda: agency(*arguments, **settings))
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


async def walk_through(agency: Agency, settings: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Report:
    """Set up two tenants by commands and let one of them use everything; return the demo's report."""
    await run_agency(agency, "db", "upgrade", settings=settings)
    for name in ("alice", "bob"):
        await run_agency(agency, "user", "add", name, "--email", f"{name}@example.test", "--json", settings=settings)
    made = await run_agency(agency, "key", "create", "script", "--json", settings={**settings, "AGENCY_USER": "alice"})
    key = json.loads(made)["key"]
    assert parse_api_key(key)

    for name, value in {**settings, "AGENCY_API_KEY": key}.items():
        monkeypatch.setenv(name, value)  # the MCP server is a child and reads its settings by itself
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        assert not local.address.embedded
        bob = await find_user(local.database, local.settings, embedded=False, user="bob")
        report = await run_demo(local, CONVERSATION, 0, lambda _: None)
        await use_entities_and_memory(local, bob)
        await drive_an_execution(local)
        await see_nothing_as(local, bob)
        assert await ledger.check(local.database, local.user_id, [story["id"] for story in report.messages]) == []
    return report


async def use_entities_and_memory(local: Local, other: int) -> None:
    """Write and find a row and a memory; neither is there for the other tenant."""
    spec = spec_of(ClientProfile)
    async with local.database.begin(local.user_id) as db:
        added = await EntityStore(db, local.user_id).add(spec, {"name": "Dental Deluxe"})
        await MemoryStore(db, local.user_id).set("user", "colour", {"name": "teal"}, ttl=60)
    async with local.database.begin(local.user_id, read_only=True) as db:
        found = await EntityStore(db, local.user_id).find(spec, Query(order_by="name", limit=2))
        memories = await MemoryStore(db, local.user_id).search("colour")
    assert [item["name"] for item in found.items] == ["Acme Dental", "Bright Smiles"]
    assert found.next_cursor is not None
    assert [memory.value for memory in memories] == [{"name": "teal"}]
    async with local.database.begin(other, read_only=True) as db:
        with pytest.raises(EntityNotFoundError):
            await EntityStore(db, other).get(spec, added["id"])
        assert await MemoryStore(db, other).get("user", "colour") is None


async def drive_an_execution(local: Local) -> None:
    """Let the assistant put a card on the board, in this process and without a worker."""
    async with local.database.begin(local.user_id) as db:
        session_id = await executions.create_session(db, local.user_id)
        execution_id = await executions.queue_execution(
            db,
            user_id=local.user_id,
            session_id=session_id,
            agent_name=ASSISTANT.name,
            task="Please write the newsletter by tomorrow",
        )
    outcome = await local.driver.run(local.user_id, execution_id)
    assert isinstance(outcome, Ended)
    assert outcome.event.status == "completed"
    async with local.database.begin(local.user_id, read_only=True) as db:
        tools = await executions.tool_executions(db, execution_id)
    assert ("create_task", "done") in [(tool.tool_name, tool.state) for tool in tools]


async def see_nothing_as(local: Local, other: int) -> None:
    """Look at every table as another tenant, who has nothing but itself; and as nobody."""
    async with local.database.begin(other, read_only=True) as db:
        assert await demo.row_counts(db) == {"users": 1}
    async with local.database.begin_dispatch() as db:
        assert (await db.scalar(text('SELECT count(*) FROM "agentSessions"'))) == 0
