"""Calls that a person has to allow: nothing runs before that, what was shown is what runs, and it runs once."""

from typing import Any

import pytest
from sqlalchemy import select, text

from gateway.worker import TakeOver
from runtime.agents import ASSISTANT, Agent
from runtime.approvals import Permit
from runtime.driver import Ended, Held
from runtime.errors import ApprovalGoneError, NotAuthorisedError
from runtime.events import ToolCall
from runtime.local import Local
from runtime.operations.approvals import deny_approval, grant_approval, list_approvals, show_approval
from runtime.operations.executions import cancel_execution
from runtime.testing import call_reply, text_reply
from runtime.toolbox import OPERATIONS
from runtime.tools import ExternalContext, tool
from storage.errors import EntityConflictError, EntityNotFoundError
from storage.models.crm import AgencyTask
from storage.models.runtime import Approval
from storage.tenancy import Database
from tests.runtime.waiting_system import (
    assert_sound,
    calls_of,
    did,
    driver_of,
    pending,
    process,
    queued,
    results_of,
    row_of,
    status,
)

CAREFUL = Agent(name="careful", instructions="x", tools=ASSISTANT.tools, approvals=("create_task",))
CARD = ("create_task", {"title": "Refund Anna"})


async def careful(database: Database, user_id: int, *replies: Any) -> tuple[Local, int]:
    """Return a system, and an execution of the careful agent that has been driven until it waits."""
    system = process(database, user_id, *replies)
    execution_id = await queued(system, agent=CAREFUL.name)
    assert await driver_of(system, CAREFUL).run(user_id, execution_id) == Held()
    return system, execution_id


async def cards(database: Database, user_id: int) -> list[str]:
    async with database.begin(user_id) as db:
        return list(await db.scalars(select(AgencyTask.title)))


async def statuses(database: Database, user_id: int) -> list[str]:
    async with database.begin(user_id) as db:
        return list(await db.scalars(select(Approval.status).order_by(Approval.id)))


async def test_a_call_runs_when_a_person_has_seen_and_allowed_it(database: Database, alice: int) -> None:
    system, execution_id = await careful(database, alice, call_reply(CARD), text_reply("done"))
    assert await cards(database, alice) == []
    assert [call.state for call in await calls_of(system, execution_id)] == ["awaiting_approval"]
    (asked,) = await pending(system)
    shown = await did(system, show_approval, id=asked["id"])
    assert (shown["tool"], shown["payload"], shown["isIntact"]) == (*CARD, True)
    (waits,) = (await status(system, execution_id))["waitingFor"]["asked"]
    assert (waits["tool"], waits["payload"], waits["reason"]) == (*CARD, shown["reason"])
    await assert_sound(system)

    granted = await did(system, grant_approval, id=asked["id"])

    assert (granted["status"], granted["decidedBy"]) == ("granted", "alice")
    assert isinstance(await driver_of(system, CAREFUL).run(alice, execution_id), Ended)
    assert await cards(database, alice) == ["Refund Anna"]
    assert await statuses(database, alice) == ["used"]
    await assert_sound(system)


async def test_the_model_reads_why_a_call_was_refused(database: Database, alice: int) -> None:
    system, execution_id = await careful(database, alice, call_reply(CARD), text_reply("then not"))
    (asked,) = await pending(system)

    await did(system, deny_approval, id=asked["id"], note="Anna has been refunded")
    assert isinstance(await driver_of(system, CAREFUL).run(alice, execution_id), Ended)

    (told,) = await results_of(system, execution_id)
    assert "Anna has been refunded" in told
    assert await cards(database, alice) == []
    assert [call.state for call in await calls_of(system, execution_id)] == ["cancelled"]
    await assert_sound(system)


async def test_a_decision_is_made_once(database: Database, alice: int, bob: int) -> None:
    system, _ = await careful(database, alice, call_reply(CARD))
    (asked,) = await pending(system)
    with pytest.raises(EntityNotFoundError):
        await did(process(database, bob), grant_approval, id=asked["id"])
    await did(system, grant_approval, id=asked["id"])

    for decide in (grant_approval, deny_approval):
        with pytest.raises(EntityConflictError, match="granted already"):
            await did(system, decide, id=asked["id"])


@pytest.mark.parametrize("door", ["agent", "mcp"])
@pytest.mark.parametrize("operation", [list_approvals, show_approval, grant_approval, deny_approval])
async def test_only_a_person_decides(database: Database, alice: int, door: str, operation: Any) -> None:
    system, _ = await careful(database, alice, call_reply(CARD))
    (asked,) = await pending(system)
    arguments = {} if operation is list_approvals else {"id": asked["id"]}

    with pytest.raises(NotAuthorisedError, match="people"):
        await did(system, operation, door=door, **arguments)
    assert operation.name not in OPERATIONS


async def test_what_was_changed_after_it_was_asked_for_is_not_allowed(database: Database, alice: int) -> None:
    system, execution_id = await careful(database, alice, call_reply(CARD), text_reply("gone"))
    (asked,) = await pending(system)
    async with database.begin(alice) as db:
        await db.execute(text("""UPDATE "toolExecutions" SET parameters = '{"title": "Refund Mallory"}'"""))

    assert (await did(system, show_approval, id=asked["id"]))["isIntact"] is False
    with pytest.raises(EntityConflictError, match="not for the call"):
        await did(system, grant_approval, id=asked["id"])
    await did(system, deny_approval, id=asked["id"])
    assert isinstance(await driver_of(system, CAREFUL).run(alice, execution_id), Ended)
    assert await cards(database, alice) == []


async def test_what_is_shown_has_to_be_what_runs(database: Database, alice: int) -> None:
    system, _ = await careful(database, alice, call_reply(CARD))
    (asked,) = await pending(system)
    async with database.begin(alice) as db:
        await db.execute(text("""UPDATE "toolExecutions" SET parameters = '{"title": "harmless"}'"""))
        await db.execute(text("""UPDATE approvals SET payload = '{"title": "harmless"}'"""))
        await db.execute(text("""UPDATE approvals SET "requestHash" = repeat('0', 64)"""))

    with pytest.raises(EntityConflictError, match="not for the call"):
        await did(system, grant_approval, id=asked["id"])


async def test_a_grant_for_another_request_is_of_no_use(database: Database, alice: int) -> None:
    system, execution_id = await careful(database, alice, call_reply(CARD), text_reply("so be it"))
    (asked,) = await pending(system)
    await did(system, grant_approval, id=asked["id"])
    async with database.begin(alice) as db:
        await db.execute(text("""UPDATE approvals SET "requestHash" = repeat('0', 64)"""))

    assert isinstance(await driver_of(system, CAREFUL).run(alice, execution_id), Ended)

    assert await cards(database, alice) == []
    (told,) = await results_of(system, execution_id)
    assert "used up or has expired" in told
    await assert_sound(system)


async def test_a_grant_that_is_too_old_is_of_no_use(database: Database, alice: int) -> None:
    system, execution_id = await careful(database, alice, call_reply(CARD), text_reply("so be it"))
    (asked,) = await pending(system)
    await did(system, grant_approval, id=asked["id"])
    async with database.begin(alice) as db:
        await db.execute(text("""UPDATE approvals SET "expiresAt" = now() - interval '1 second'"""))

    assert isinstance(await driver_of(system, CAREFUL).run(alice, execution_id), Ended)
    assert await cards(database, alice) == []
    await assert_sound(system)


async def test_an_approval_that_nobody_gives_expires_and_the_agent_is_told(database: Database, alice: int) -> None:
    system, execution_id = await careful(database, alice, call_reply(CARD), text_reply("nobody cared"))
    (asked,) = await pending(system)
    async with database.begin(alice) as db:
        await db.execute(text("""UPDATE approvals SET "expiresAt" = now() - interval '1 second'"""))
    with pytest.raises(EntityConflictError, match="has expired"):
        await did(system, grant_approval, id=asked["id"])

    await TakeOver(system)()

    assert await statuses(database, alice) == ["expired"]
    assert (await row_of(system, execution_id)).waiting_for is None
    await assert_sound(system)
    assert isinstance(await driver_of(system, CAREFUL).run(alice, execution_id), Ended)
    (told,) = await results_of(system, execution_id)
    assert "in time" in told
    await assert_sound(system)


async def test_an_approval_whose_time_has_not_come_is_left_alone(database: Database, alice: int) -> None:
    system, _ = await careful(database, alice, call_reply(CARD))
    await TakeOver(system)()
    assert await statuses(database, alice) == ["pending"]


async def test_two_calls_of_one_reply_are_decided_each_for_itself(database: Database, alice: int) -> None:
    both = call_reply(("create_task", {"title": "one"}), ("create_task", {"title": "two"}))
    system, execution_id = await careful(database, alice, both, text_reply("half"))
    first, second = await pending(system)
    await assert_sound(system)

    await did(system, grant_approval, id=second["id"])
    driver = driver_of(system, CAREFUL)
    assert await driver.run(alice, execution_id) == Held()
    assert await cards(database, alice) == ["two"]
    await assert_sound(system)
    await did(system, deny_approval, id=first["id"])
    assert isinstance(await driver.run(alice, execution_id), Ended)

    assert await cards(database, alice) == ["two"]
    assert await statuses(database, alice) == ["denied", "used"]
    await assert_sound(system)


async def test_a_call_without_need_runs_while_another_one_waits(database: Database, alice: int) -> None:
    mixed = call_reply(CARD, ("remember", {"key": "anna", "value": "wants a refund"}))
    system, execution_id = await careful(database, alice, mixed)

    states = {call.tool_name: call.state for call in await calls_of(system, execution_id)}
    assert states == {"create_task": "awaiting_approval", "remember": "done"}
    await assert_sound(system)


class Bank:
    """An outside service that dies under its caller at the first call."""

    def __init__(self, *, honours_key: bool) -> None:
        self.keys: list[str] = []
        bank = self

        @tool(effect="external", honours_key=honours_key, asks="money leaves the house")
        async def refund(ctx: ExternalContext, amount: int) -> str:
            """Refund an amount of euros."""
            bank.keys.append(ctx.key)
            if len(bank.keys) == 1:
                raise KilledError
            return f"refunded {amount}"

        self.tool = refund
        self.agent = Agent(name="banker", instructions="x", tools=("refund",))


class KilledError(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("honours_key", [True, False])
async def test_a_worker_that_dies_in_an_allowed_call_uses_the_approval_up(
    database: Database, alice: int, *, honours_key: bool
) -> None:
    bank = Bank(honours_key=honours_key)
    system = process(database, alice, call_reply(("refund", {"amount": 20})), text_reply("ok"))
    execution_id = await queued(system, agent="banker")
    driver = driver_of(system, bank.agent, tools=(bank.tool,))
    assert await driver.run(alice, execution_id) == Held()
    assert bank.keys == []
    (asked,) = await pending(system)
    assert asked["reason"] == "money leaves the house"
    await did(system, grant_approval, id=asked["id"])
    with pytest.raises(KilledError):
        await driver.run(alice, execution_id)
    assert await statuses(database, alice) == ["used"]
    await assert_sound(system)

    assert isinstance(await driver.run(alice, execution_id), Ended)

    (call,) = await calls_of(system, execution_id)
    assert call.state == ("done" if honours_key else "unknown")
    assert len(bank.keys) == (2 if honours_key else 1)
    assert len(set(bank.keys)) == 1
    await assert_sound(system)


async def test_an_approval_cannot_be_used_twice(database: Database, alice: int) -> None:
    bank = Bank(honours_key=True)
    system = process(database, alice, call_reply(("refund", {"amount": 20})), text_reply("ok"))
    execution_id = await queued(system, agent="banker")
    driver = driver_of(system, bank.agent, tools=(bank.tool,))
    await driver.run(alice, execution_id)
    (asked,) = await pending(system)
    await did(system, grant_approval, id=asked["id"])
    async with database.begin(alice) as db:
        await db.execute(text("UPDATE approvals SET status = 'used'"))

    # As a second attempt would: its call has not begun, its approval is gone.
    claim = await system.journal.claim(alice, execution_id)
    assert claim is not None
    (row,) = await calls_of(system, execution_id)
    call = ToolCall(id=row.tool_use_id, name=row.tool_name, arguments=row.parameters)
    with pytest.raises(ApprovalGoneError):
        await system.journal.start_call(claim, call, "k", permit=Permit(approval_id=asked["id"], call=call))
    assert bank.keys == []


async def test_what_is_cancelled_takes_its_approvals_along(database: Database, alice: int) -> None:
    system, execution_id = await careful(database, alice, call_reply(CARD))
    (asked,) = await pending(system)
    await did(system, cancel_execution, id=execution_id)
    assert isinstance(await driver_of(system, CAREFUL).run(alice, execution_id), Ended)

    assert await statuses(database, alice) == ["expired"]
    with pytest.raises(EntityConflictError):
        await did(system, grant_approval, id=asked["id"])
    await assert_sound(system)


async def test_arguments_that_a_column_writes_in_another_way_can_be_allowed(database: Database, alice: int) -> None:
    @tool(effect="none", asks="numbers are delicate")
    async def weigh(grams: float, label: str) -> float:
        """Weigh something."""
        return grams * len(label)

    agent = Agent(name="odd", instructions="x", tools=("weigh",))
    system = process(database, alice, call_reply(("weigh", {"label": "ü", "grams": 1e22})), text_reply("ok"))
    execution_id = await queued(system, agent="odd")
    driver = driver_of(system, agent, tools=(weigh,))
    assert await driver.run(alice, execution_id) == Held()
    (asked,) = await pending(system)

    await did(system, grant_approval, id=asked["id"])
    assert isinstance(await driver.run(alice, execution_id), Ended)
    assert [call.state for call in await calls_of(system, execution_id)] == ["done"]
    await assert_sound(system)
