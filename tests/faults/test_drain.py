"""`agency worker` is told to stop in the middle of an execution: it ends soon, and somebody else goes on."""

import base64
import secrets

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import select

from gateway.worker import working
from runtime.testing import FakeMessagesAPI, ScriptedModel, Stall, in_order, serve_loopback, system_on, text_reply
from storage.engine import Address
from storage.models.agents import AgentExecution, AgentSession
from storage.tenancy import Database
from tests.faults import ledger, turns
from tests.user import Running, Started

SOON_S = 30
"""What a worker may take to end: it drains for 10 s, gives its leases back, and shares this machine."""


@pytest.mark.parametrize("insisting", [False, True], ids=["once", "twice"])
async def test_a_worker_that_is_told_to_stop_hands_over_what_its_model_has_not_answered(
    address: Address, database: Database, alice: int, started: Started, *, insisting: bool
) -> None:
    api = FakeMessagesAPI(in_order(Stall()))
    system = system_on(database, alice, ScriptedModel(text_reply("hello, Anna")))
    inbound_id = await turns.accept(system, await turns.make_webhook(system), "anna", "hello")
    execution_id = await turns.begin(system, inbound_id)

    async with serve_loopback(api.app) as url:
        settings = {
            "DATABASE_URL": address.dsn,
            "AGENCY_SECRET_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
            "AGENCY_USER": "alice",
            "ANTHROPIC_API_KEY": "sk-test",
            "ANTHROPIC_BASE_URL": url,
        }
        with started("worker", **settings) as worker:
            with anyio.fail_after(SOON_S):
                while not api.requests:  # noqa: ASYNC110 -- the fake announces no event
                    await anyio.sleep(0.05)
            status, said = await stop(worker, insisting=insisting)
    assert (status, "Traceback" in said) == (0, False), said

    async with database.begin(alice, read_only=True) as db:
        execution = await db.get_one(AgentExecution, execution_id)
        session = (await db.scalars(select(AgentSession))).one()
    assert (execution.status, execution.attempt, session.lease_owner) == ("planning", 0, None)

    async with working(system):
        await ledger.settled(database, alice, timeout_s=20)
    assert await ledger.check(database, alice, [inbound_id]) == []
    replies = (await turns.story(database, alice, execution_id))["replies"]
    assert [body for body, _ in replies] == ["hello, Anna"]


async def stop(worker: Running, *, insisting: bool) -> tuple[int, str]:
    with anyio.fail_after(SOON_S):
        ran = await anyio.to_thread.run_sync(worker.insist if insisting else worker.stop, abandon_on_cancel=True)
    return ran.returncode, ran.stderr
