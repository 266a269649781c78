"""Turns of a conversation on Postgres: from an accepted message to a queued reply."""

from sqlalchemy import select, text, update

from runtime import conversations
from runtime.driver import Ended
from runtime.local import Local
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from runtime.webhooks import WebhookRequest, create_webhook
from storage.models.agents import AgentExecution
from storage.models.crm import AgencyTask
from storage.models.messaging import BotConversation, InboundMessage, OutboundMessage, UserWebhook
from storage.queries import messaging
from storage.queries.messaging import NewInbound
from storage.tenancy import Database


async def webhook_of(system: Local, *, auto_respond: bool = True) -> int:
    request = WebhookRequest(
        name="chat", signing_secret="whsec_in", reply_secret="whsec_out", auto_respond=auto_respond
    )
    async with system.database.begin(system.user_id) as db:
        return (await create_webhook(db, system.keyring, system.user_id, request)).id


async def accepted(system: Local, webhook_id: int, message_id: str, body: str, sender: str = "anna") -> int | None:
    new = NewInbound(
        user_id=system.user_id,
        webhook_id=webhook_id,
        provider_message_id=message_id,
        raw_body=body.encode(),
        sender=sender,
        recipient="bot",
        body=body,
        media_urls=[],
    )
    async with system.database.begin(system.user_id) as db:
        return await conversations.accept(db, system.jobs, await messaging.webhook(db, webhook_id), new)


async def end_debounce(system: Local) -> None:
    async with system.database.begin(system.user_id) as db:
        await db.execute(update(BotConversation).values({BotConversation.turn_due_at: text("now() - interval '1 s'")}))


async def turn(system: Local, inbound_id: int | None) -> conversations.Begun:
    assert inbound_id is not None
    async with system.database.begin(system.user_id) as db:
        return await conversations.begin_turn(db, system.jobs, system.user_id, inbound_id)


async def job_kinds(system: Local) -> list[str]:
    async with system.database.begin_dispatch() as db:
        rows = await db.execute(text("SELECT entrypoint FROM pgqueuer ORDER BY id"))
        return [row[0] for row in rows]


async def test_a_message_becomes_a_conversation_an_execution_a_card_and_a_reply(database: Database, alice: int) -> None:
    model = ScriptedModel(
        call_reply(("create_task", {"title": "Fix the page"}), ("reply", {"text": "It is on the board."})),
        text_reply("told them"),
    )
    system = system_on(database, alice, model)
    webhook_id = await webhook_of(system)
    inbound_id = await accepted(system, webhook_id, "m1", "please fix the page")
    await end_debounce(system)

    begun = await turn(system, inbound_id)
    assert begun.execution_id is not None
    assert isinstance(await system.driver.run(alice, begun.execution_id), Ended)

    async with database.begin(alice) as db:
        message = (await db.scalars(select(InboundMessage))).one()
        conversation = (await db.scalars(select(BotConversation))).one()
        card = (await db.scalars(select(AgencyTask))).one()
        reply = (await db.scalars(select(OutboundMessage))).one()
        webhook = (await db.scalars(select(UserWebhook))).one()
    assert (message.status, message.conversation_id) == ("processed", conversation.id)
    assert message.execution_id == begun.execution_id
    assert (card.conversation_id, card.webhook_id, card.execution_id) == (
        conversation.id,
        webhook_id,
        begun.execution_id,
    )
    assert (reply.body, reply.status, reply.to) == ("It is on the board.", "pending", "anna")
    assert (reply.inbound_message_id, reply.execution_id) == (message.id, begun.execution_id)
    assert [(entry["role"], entry["body"]) for entry in conversation.message_history] == [
        ("participant", "please fix the page"),
        ("bot", "It is on the board."),
    ]
    assert webhook.message_count == 1
    assert await job_kinds(system) == ["turn", "execute", "deliver"]


async def test_the_same_message_twice_is_one_row_and_one_job(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel())
    webhook_id = await webhook_of(system)

    assert await accepted(system, webhook_id, "m1", "hello") is not None
    assert await accepted(system, webhook_id, "m1", "hello") is None

    assert await job_kinds(system) == ["turn"]
    async with database.begin(alice) as db:
        assert (await db.scalars(select(UserWebhook.message_count))).one() == 1


async def test_quick_messages_are_one_turn_that_sees_them_all_in_order(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel())
    webhook_id = await webhook_of(system)
    ids = [await accepted(system, webhook_id, f"m{n}", body) for n, body in enumerate(("one", "two", "three"))]

    assert (await turn(system, ids[0])).due_at is not None
    await end_debounce(system)
    begun = await turn(system, ids[0])

    assert begun.execution_id is not None
    assert await turn(system, ids[1]) == conversations.Begun()
    async with database.begin(alice) as db:
        execution = (await db.scalars(select(AgentExecution))).one()
    assert execution.task_description == "one\ntwo\nthree"


async def test_what_arrives_during_a_turn_is_asked_for_when_it_ends(database: Database, alice: int) -> None:
    model = ScriptedModel(text_reply("first answer"), text_reply("second answer"))
    system = system_on(database, alice, model)
    webhook_id = await webhook_of(system)
    first = await accepted(system, webhook_id, "m1", "one")
    await end_debounce(system)
    begun = await turn(system, first)
    assert begun.execution_id is not None
    late = await accepted(system, webhook_id, "m2", "two")
    await end_debounce(system)
    assert await turn(system, late) == conversations.Begun()

    await system.driver.run(alice, begun.execution_id)
    following = await turn(system, late)

    assert following.execution_id is not None
    await system.driver.run(alice, following.execution_id)
    async with database.begin(alice) as db:
        replies = [row.body for row in await db.scalars(select(OutboundMessage).order_by(OutboundMessage.id))]
        assert [row.status for row in await db.scalars(select(InboundMessage))] == ["processed", "processed"]
    assert replies == ["first answer", "second answer"]


async def test_an_empty_message_is_stored_and_starts_nothing(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel())
    webhook_id = await webhook_of(system)

    await accepted(system, webhook_id, "m1", "   ")

    async with database.begin(alice) as db:
        assert (await db.scalars(select(InboundMessage.status))).one() == "processed"
    assert await job_kinds(system) == []


async def test_a_webhook_that_does_not_answer_by_itself_gets_a_draft(database: Database, alice: int) -> None:
    system = system_on(database, alice, ScriptedModel(text_reply("my suggestion")))
    webhook_id = await webhook_of(system, auto_respond=False)
    inbound_id = await accepted(system, webhook_id, "m1", "hello")
    await end_debounce(system)
    begun = await turn(system, inbound_id)
    assert begun.execution_id is not None

    await system.driver.run(alice, begun.execution_id)

    async with database.begin(alice) as db:
        reply = (await db.scalars(select(OutboundMessage))).one()
    assert (reply.status, reply.body) == ("draft", "my suggestion")
    assert "deliver" not in await job_kinds(system)


async def test_one_card_per_intent_and_another_one_for_another_wish(database: Database, alice: int) -> None:
    model = ScriptedModel(
        call_reply(
            ("create_task", {"title": "Fix the page", "intent": "page"}),
            ("create_task", {"title": "Fix the page soon", "intent": "page"}),
            ("create_task", {"title": "Write a letter", "intent": "letter"}),
        ),
        text_reply("three calls, two cards"),
    )
    system = system_on(database, alice, model)
    webhook_id = await webhook_of(system)
    inbound_id = await accepted(system, webhook_id, "m1", "page, and a letter")
    await end_debounce(system)
    begun = await turn(system, inbound_id)
    assert begun.execution_id is not None

    await system.driver.run(alice, begun.execution_id)

    async with database.begin(alice) as db:
        titles = [row.title for row in await db.scalars(select(AgencyTask).order_by(AgencyTask.id))]
    assert titles == ["Fix the page soon", "Write a letter"]


async def test_after_hand_over_the_bot_is_silent(database: Database, alice: int) -> None:
    model = ScriptedModel(call_reply(("hand_over", {"summary": "angry about the invoice"})), text_reply(""))
    system = system_on(database, alice, model)
    webhook_id = await webhook_of(system)
    inbound_id = await accepted(system, webhook_id, "m1", "I want a person")
    await end_debounce(system)
    begun = await turn(system, inbound_id)
    assert begun.execution_id is not None
    await system.driver.run(alice, begun.execution_id)

    again = await accepted(system, webhook_id, "m2", "hello?")
    await end_debounce(system)

    assert await turn(system, again) == conversations.Begun()
    async with database.begin(alice) as db:
        assert (await db.scalars(select(AgencyTask.task_type))).one() == "hand_over"
        assert (await db.scalars(select(BotConversation.status))).one() == "paused"


async def test_a_failed_execution_leaves_its_message_with_the_reason(database: Database, alice: int) -> None:
    refused = text_reply("I will not").model_copy(update={"stop_reason": "refusal"})
    system = system_on(database, alice, ScriptedModel(refused))
    webhook_id = await webhook_of(system)
    inbound_id = await accepted(system, webhook_id, "m1", "something bad")
    await end_debounce(system)
    begun = await turn(system, inbound_id)
    assert begun.execution_id is not None

    await system.driver.run(alice, begun.execution_id)

    async with database.begin(alice) as db:
        message = (await db.scalars(select(InboundMessage))).one()
        assert (await db.scalars(select(OutboundMessage))).all() == []
    assert (message.status, message.error) == ("error", "I will not")
