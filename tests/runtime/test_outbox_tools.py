"""Calls that are sent after their result was recorded: at least once, under one key, by whoever has the tool."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, text

from gateway.worker import Sender, TakeOver, outbox_tools
from runtime import Agent, Runtime, tool
from runtime.errors import ToolError
from runtime.local import Local
from runtime.operation import Operation
from runtime.registry import Registry
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from runtime.tool_outbox import SEND
from runtime.tools import ExternalContext
from storage.jobs import Done, Job
from storage.models.runtime import ToolOutbox
from storage.tenancy import Database
from tests.runtime.waiting_system import assert_sound

MAIL = ("send_mail", {"to": "anna@example.com"})


class Post:
    """A mail service that may refuse its first calls."""

    def __init__(self, *failures: Exception) -> None:
        self.keys: list[str] = []
        failing = list(failures)
        post = self

        @tool(effect="outbox")
        async def send_mail(ctx: ExternalContext, to: str) -> str:
            """Send a mail."""
            post.keys.append(ctx.key)
            if failing:
                raise failing.pop(0)
            return f"sent to {to}"

        self.tool: Operation = send_mail


async def rows(database: Database, user_id: int) -> list[ToolOutbox]:
    async with database.begin(user_id) as db:
        return list(await db.scalars(select(ToolOutbox).order_by(ToolOutbox.id)))


async def ran(database: Database, user_id: int, post: Post, *replies: Any) -> Local:
    system = system_on(database, user_id, ScriptedModel(*replies))
    clerk = Agent(name="clerk", instructions="x", tools=(post.tool,))
    async with Runtime(clerk, local=system) as runtime:
        run = await runtime.run(clerk, "write to Anna")
    assert run.status == "completed"
    return system


async def test_a_program_sends_what_its_own_tools_have_queued(database: Database, alice: int) -> None:
    post = Post()
    system = await ran(database, alice, post, call_reply(MAIL), text_reply("done"))

    (row,) = await rows(database, alice)
    assert (row.status, row.attempts, row.result) == ("delivered", 1, {"result": "sent to anna@example.com"})
    assert post.keys == [f"outbox-{row.id}"]
    await assert_sound(system)


async def test_nothing_is_sent_twice(database: Database, alice: int) -> None:
    post = Post()
    system = await ran(database, alice, post, call_reply(MAIL), text_reply("done"))
    known = worker_with(system, post)

    (row,) = await rows(database, alice)
    await due_now(database, alice)
    assert await Sender(known)(Job(kind=SEND, user_id=alice, id=row.id, attempt=1)) == Done()
    assert len(post.keys) == 1


def worker_with(system: Local, post: Post) -> Local:
    """Return the system of a worker that has loaded the program's module."""
    return replace(system, registry=Registry(tools={"shop:send_mail": post.tool}))


async def due_now(database: Database, user_id: int) -> None:
    async with database.begin(user_id) as db:
        await db.execute(text('UPDATE "toolOutbox" SET "nextAttemptAt" = now()'))


async def test_a_worker_tries_again_what_failed_under_the_same_key(database: Database, alice: int) -> None:
    post = Post(ConnectionError("no route"))
    system = await ran(database, alice, post, call_reply(MAIL), text_reply("done"))
    (row,) = await rows(database, alice)
    assert (row.status, row.attempts) == ("pending", 1)
    worker = worker_with(system, post)
    async with database.begin_dispatch() as db:
        await db.execute(text("DELETE FROM pgqueuer"))
    await TakeOver(worker)()
    assert await queued_sends(database) == 0
    await due_now(database, alice)

    await TakeOver(worker)()

    assert await queued_sends(database) == 1
    await Sender(worker)(Job(kind=SEND, user_id=alice, id=row.id, attempt=1))
    (row,) = await rows(database, alice)
    assert (row.status, row.attempts) == ("delivered", 2)
    assert len(set(post.keys)) == 1


async def queued_sends(database: Database) -> int:
    async with database.begin_dispatch() as db:
        return await db.scalar(text("SELECT count(*) FROM pgqueuer WHERE entrypoint = 'send'")) or 0


async def test_a_worker_without_the_tool_leaves_the_row_alone(database: Database, alice: int) -> None:
    post = Post(ConnectionError("no route"))
    system = await ran(database, alice, post, call_reply(MAIL), text_reply("done"))
    (row,) = await rows(database, alice)
    await due_now(database, alice)

    assert outbox_tools(system) == {}
    await Sender(system)(Job(kind=SEND, user_id=alice, id=row.id, attempt=1))
    await TakeOver(system)()

    (row,) = await rows(database, alice)
    assert (row.status, row.attempts) == ("pending", 1)


async def test_what_the_service_refuses_is_not_tried_again(database: Database, alice: int) -> None:
    post = Post(ToolError("no such mailbox"))
    await ran(database, alice, post, call_reply(MAIL), text_reply("done"))
    (row,) = await rows(database, alice)
    assert (row.status, row.error) == ("failed", "no such mailbox")


async def test_an_outbox_call_that_asks_first_is_queued_when_it_is_allowed(database: Database, alice: int) -> None:
    post = Post()
    clerk = Agent(name="clerk", instructions="x", tools=(post.tool,), approvals=("send_mail",))
    system = system_on(database, alice, ScriptedModel(call_reply(MAIL), text_reply("done")))
    async with Runtime(clerk, local=system) as runtime:
        run = await runtime.run(clerk, "write to Anna")
        assert await rows(database, alice) == []
        await runtime.approve(run.waiting_for[0].id)
        run = await runtime.resume(run.execution_id)

    assert (run.status, len(post.keys)) == ("completed", 1)
    await assert_sound(system)


@pytest.mark.parametrize("failure", [ValueError("odd"), TimeoutError("slow")])
async def test_the_call_has_its_result_whatever_becomes_of_the_sending(
    database: Database, alice: int, failure: Exception
) -> None:
    post = Post(failure)
    system = await ran(database, alice, post, call_reply(MAIL), text_reply("done"))
    assert [row.status for row in await rows(database, alice)] == ["pending"]
    await assert_sound(system)
