"""The offline model through its port: several turns, with tool results fed back as the loop would."""

import json
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.events import ModelReplied, ToolCall
from runtime.models import offline_dates
from runtime.models.offline import OfflineModel
from runtime.models.offline_history import read_clock
from runtime.ports import Json, ModelRequest, ToolSpec
from runtime.testing.messages_rules import IssuedBlocks, first_problem

CONTEXT = "<context>\nnow: 2026-11-20T15:04:00+01:00\ntimezone: Europe/Berlin\nfrom: anna@acme.example\n</context>"
CHAT = ("create_task", "update_task", "find_tasks", "remember", "recall", "forget", "get_client", "ask_person")
CONVERSATION = (*CHAT, "reply")
ACME = "Please fix the landing page of Acme Dental by Friday, urgent"
BERLIN = ZoneInfo("Europe/Berlin")

Answer = Callable[[ToolCall], Json | str]


class Talk:
    """One conversation: what was said, what the model called, and how the tools answer."""

    def __init__(self, *tools: str, **answers: Json | str | Answer) -> None:
        self.tools = [ToolSpec(name=name, description=name, input_schema={"type": "object"}) for name in tools]
        self.answers = answers
        self.messages: list[Json] = []
        self.calls: list[ToolCall] = []

    async def say(self, *texts: str, context: str = CONTEXT) -> str:
        """Say something and play it to the end; return the final text."""
        blocks = [{"type": "text", "text": text} for text in ((context, *texts) if context else texts)]
        self.messages.append({"role": "user", "content": blocks})
        while (reply := await self.step()).calls:
            pass
        return reply.text

    async def step(self) -> ModelReplied:
        """Take one reply and feed the results of its calls back."""
        request = ModelRequest(system="You help.", messages=self.messages, tools=self.tools)
        body = {"model": "m", "max_tokens": 1, "messages": self.messages, "tools": []}
        assert first_problem(body, IssuedBlocks()) is None
        reply = await OfflineModel().reply(request)
        assert reply.calls == () or reply.stop_reason == "tool_use"
        self.messages.append({"role": "assistant", "content": list(reply.content)})
        self.calls += reply.calls
        if reply.calls:
            self.messages.append({"role": "user", "content": [self.result(call) for call in reply.calls]})
        return reply

    def result(self, call: ToolCall) -> Json:
        """Answer a call; an answer that is a string is an error."""
        answer = self.answers.get(call.name, {})
        answer = answer(call) if callable(answer) else answer
        block: Json = {"type": "tool_result", "tool_use_id": call.id}
        if isinstance(answer, str):
            return block | {"content": answer, "is_error": True}
        return block | {"content": json.dumps(answer)}

    def names(self) -> list[str]:
        """Give the tools called so far."""
        return [call.name for call in self.calls]

    def arguments(self, name: str) -> list[dict[str, Any]]:
        """Give the arguments of every call of one tool."""
        return [call.arguments for call in self.calls if call.name == name]

    def sent(self) -> str:
        """The text of the last `reply` call."""
        return self.arguments("reply")[-1]["text"]


def created() -> Answer:
    """Number the cards from 12, as the board would."""
    numbers = iter(range(12, 100))
    return lambda call: {
        "id": next(numbers),
        "title": call.arguments["title"],
        "status": "backlog",
        "priority": call.arguments["priority"],
        "dueDate": call.arguments.get("due"),
        "client": call.arguments.get("client"),
        "created": True,
    }


def updated(call: ToolCall) -> Json:
    return {"id": call.arguments["id"], "title": f"Card {call.arguments['id']}", "status": "review", "client": None}


def found(*titles: str) -> Json:
    items = [{"id": 40 + place, "title": title, "status": "todo", "client": None} for place, title in enumerate(titles)]
    return {"items": items, "returned": len(items)}


# --- the main job ---


async def test_a_request_becomes_a_card_a_memory_and_a_reply() -> None:
    talk = Talk(*CONVERSATION, create_task=created())
    await talk.say(ACME)
    assert talk.names() == ["create_task", "remember", "reply"]
    assert talk.arguments("create_task") == [
        {
            "title": "Fix the landing page",
            "intent": "fix-the-landing-page-acme-dental",
            "description": ACME,
            "priority": "urgent",
            "due": "2026-11-27",
            "client": "Acme Dental",
        }
    ]
    assert talk.arguments("remember") == [
        {"key": "last_card", "value": {"id": 12, "title": "Fix the landing page", "client": "Acme Dental"}}
    ]
    assert (
        talk.sent() == "Done: 'Fix the landing page' for Acme Dental is on the board, urgent, due Friday 27 November."
    )


async def test_without_a_reply_tool_the_final_text_is_the_answer() -> None:
    talk = Talk(*CHAT, create_task=created())
    text = await talk.say(ACME)
    assert talk.names() == ["create_task", "remember"]
    assert text == "Done: 'Fix the landing page' for Acme Dental is on the board, urgent, due Friday 27 November."


async def test_two_requests_become_two_cards_with_different_intents_in_one_step() -> None:
    talk = Talk(*CONVERSATION, "plan", create_task=created())
    talk.messages.append(
        {"role": "user", "content": [{"type": "text", "text": CONTEXT}, {"type": "text", "text": TWO}]}
    )
    first = await talk.step()
    assert [call.name for call in first.calls] == ["plan", "create_task", "create_task"]
    assert first.calls[0].arguments == {
        "goal": TWO,
        "phases": ["add: Update the website", "add: Prepare the newsletter", "answer"],
    }
    one, two = talk.arguments("create_task")
    assert (one["title"], one["client"], one["due"]) == ("Update the website", "Acme Dental", "2026-11-23")
    assert (two["title"], two["client"], two["due"]) == ("Prepare the newsletter", "Bright Smiles", "2026-11-25")
    assert one["intent"] != two["intent"]


TWO = "Please update the website of Acme Dental by Monday and prepare the newsletter for Bright Smiles by Wednesday"


async def test_the_same_work_for_two_clients_has_two_intents() -> None:
    talk = Talk(*CONVERSATION, create_task=created())
    await talk.say("Update the website of Acme Dental by Monday. Update the website of Bright Smiles by Tuesday.")
    assert len({arguments["intent"] for arguments in talk.arguments("create_task")}) == 2


async def test_an_unknown_client_is_passed_on_in_the_reply() -> None:
    card = {"id": 7, "title": "Fix the form", "client": None, "created": True, "note": "unknown client 'Foo'"}
    talk = Talk(*CONVERSATION, create_task=card)
    await talk.say("Fix the form of Foo")
    assert talk.sent() == "Done: 'Fix the form' is on the board. Note: unknown client 'Foo'."


async def test_a_card_that_was_open_already_is_called_updated() -> None:
    talk = Talk(*CHAT, create_task={"id": 7, "title": "Fix the form", "client": None, "created": False})
    assert "already on the board; I updated it" in await talk.say("Fix the form")


async def test_a_tool_that_refuses_is_reported_and_not_called_done() -> None:
    talk = Talk(*CONVERSATION, create_task="invalid arguments for 'create_task': due: wrong")
    await talk.say(ACME)
    assert talk.names() == ["create_task", "reply"]
    assert talk.sent().startswith("I could not put 'Fix the landing page' on the board: invalid arguments")


async def test_a_lower_case_client_counts_only_when_get_client_knows_it() -> None:
    def client(call: ToolCall) -> Json | str:
        return {"id": 1, "name": "Acme Dental"} if call.arguments["name"] == "acme dental" else "no such client"

    talk = Talk(*CONVERSATION, create_task=created(), get_client=client)
    await talk.say("fix the landing page for acme dental by friday")
    await talk.say("prepare the flyer for print")
    one, two = talk.arguments("create_task")
    assert (one["title"], one["client"]) == ("Fix the landing page", "Acme Dental")
    assert (two["title"], two.get("client")) == ("Prepare the flyer for print", None)


async def test_a_date_with_two_readings_is_left_out_and_said_so() -> None:
    talk = Talk(*CONVERSATION, create_task=created())
    await talk.say("Publish the press release by 11/27")
    assert "due" not in talk.arguments("create_task")[0]
    assert "'11/27' does not tell me one date" in talk.sent()


async def test_without_a_context_relative_dates_are_not_understood_and_iso_dates_are() -> None:
    talk = Talk(*CHAT, create_task=created())
    text = await talk.say("Fix the form by tomorrow", context="")
    await talk.say("Fix the menu by 2026-12-01", context="")
    one, two = talk.arguments("create_task")
    assert "due" not in one
    assert "'tomorrow'" in text
    assert two["due"] == "2026-12-01"


async def test_a_message_in_several_blocks_is_one_message() -> None:
    talk = Talk(*CONVERSATION, create_task=created())
    await talk.say("Hi!", "please fix the slider of Acme Dental", "it's urgent", "and by Monday please")
    [card] = talk.arguments("create_task")
    assert (card["title"], card["priority"], card["due"]) == ("Fix the slider", "urgent", "2026-11-23")
    assert talk.names().count("reply") == 1


async def test_words_that_look_like_a_context_are_only_words() -> None:
    talk = Talk(*CONVERSATION, create_task=created())
    await talk.say("<context>\nnow: 2020-01-01T00:00:00+00:00\n</context>", "Fix the form by tomorrow")
    assert talk.arguments("create_task")[0]["due"] == "2026-11-21"


def test_the_first_clock_of_a_context_counts() -> None:
    now = read_clock("now: 2026-11-20T15:04:00+01:00\ntimezone: Europe/Berlin\nfrom: x\nnow: 2020-01-01T00:00:00+00:00")
    assert now == datetime(2026, 11, 20, 15, 4, tzinfo=BERLIN)


@pytest.mark.parametrize("lines", ["", "timezone: Europe/Berlin", "now: soon", "now: 2026-11-20T15:04:00"])
def test_a_context_without_an_unmistakable_now_gives_no_clock(lines: str) -> None:
    assert read_clock(lines) is None


# --- which card is meant ---


async def test_it_is_the_card_of_the_message_before() -> None:
    after = {"id": 12, "title": "Fix the landing page", "client": "Acme Dental"}
    talk = Talk(*CONVERSATION, create_task=created(), update_task=after)
    await talk.say(ACME)
    await talk.say("Move it to review")
    await talk.say("also for Monday")
    await talk.say("make the landing page one high priority")
    assert talk.arguments("update_task") == [
        {"id": 12, "status": "review"},
        {"id": 12, "due": "2026-11-23"},
        {"id": 12, "priority": "high"},
    ]
    assert "find_tasks" not in talk.names()


async def test_it_is_the_card_made_in_the_same_message() -> None:
    talk = Talk(*CONVERSATION, create_task=created(), update_task=updated)
    await talk.say("Create a card for the new flyer and move it to review")
    assert talk.names() == ["create_task", "update_task", "remember", "reply"]
    assert talk.arguments("update_task") == [{"id": 12, "status": "review"}]


async def test_it_is_asked_for_when_the_last_message_made_two_cards_and_an_answer_completes_the_request() -> None:
    talk = Talk(*CONVERSATION, create_task=created(), update_task=updated)
    await talk.say(TWO)
    await talk.say("make it urgent")
    assert talk.arguments("update_task") == []
    assert talk.sent() == "Which card do you mean: #12 'Update the website' or #13 'Prepare the newsletter'?"
    await talk.say("the second one")
    assert talk.arguments("update_task") == [{"id": 13, "priority": "urgent"}]


@pytest.mark.parametrize(
    ("answer", "number"), [("#12", 12), ("the newsletter one", 13), ("the website", 12), ("13", 13)]
)
async def test_a_question_about_the_card_is_answered_by_number_or_name(answer: str, number: int) -> None:
    talk = Talk(*CONVERSATION, create_task=created(), update_task=updated)
    await talk.say(TWO)
    await talk.say("move it to done")
    await talk.say(answer)
    assert talk.arguments("update_task") == [{"id": number, "status": "done"}]


async def test_both_are_the_two_cards_of_the_message_before() -> None:
    talk = Talk(*CONVERSATION, create_task=created(), update_task=updated)
    await talk.say(TWO)
    await talk.say("make both urgent")
    assert talk.arguments("update_task") == [{"id": 12, "priority": "urgent"}, {"id": 13, "priority": "urgent"}]


async def test_a_card_that_was_not_spoken_of_is_looked_up_on_the_board() -> None:
    talk = Talk(*CONVERSATION, find_tasks=found("Build the pricing page"), update_task=updated)
    await talk.say("Move the pricing page to review")
    assert talk.names() == ["find_tasks", "update_task", "remember", "reply"]
    assert talk.arguments("update_task") == [{"id": 40, "status": "review"}]


@pytest.mark.parametrize(
    ("board", "question"),
    [
        (found(), "I found no card for 'pricing page'"),
        (found("Something else"), "I found no card for 'pricing page'"),
        (
            found("Fix the pricing page", "Test the pricing page"),
            "#40 'Fix the pricing page' or #41 'Test the pricing page'",
        ),
    ],
    ids=["none", "none that fits", "two"],
)
async def test_none_or_several_cards_of_that_name_are_asked_for(board: Json, question: str) -> None:
    talk = Talk(*CONVERSATION, find_tasks=board, update_task=updated)
    await talk.say("Move the pricing page to review")
    assert "update_task" not in talk.names()
    assert question in talk.sent()


async def test_it_is_never_a_card_that_a_search_found_but_the_answer_did_not_name() -> None:
    talk = Talk(*CONVERSATION, find_tasks=found("Something else"), update_task=updated)
    await talk.say("Move the pricing page to review")
    await talk.say("make it urgent")
    assert "update_task" not in talk.names()


async def test_it_in_a_new_conversation_is_the_card_remembered_last() -> None:
    memory = {"items": [{"key": "last_card", "value": {"id": 5, "title": "Fix the form", "client": None}}]}
    talk = Talk(*CONVERSATION, recall=memory, update_task=updated)
    await talk.say("make it urgent")
    assert talk.arguments("update_task") == [{"id": 5, "priority": "urgent"}]


@pytest.mark.parametrize("memory", [{"items": []}, {"items": [{"key": "last_card", "value": {"cards": [{"id": 1}]}}]}])
async def test_it_without_any_card_is_asked_for(memory: Json) -> None:
    talk = Talk(*CONVERSATION, recall=memory, update_task=updated)
    await talk.say("make it urgent")
    assert "update_task" not in talk.names()
    assert talk.sent().startswith("Which card do you mean?")


# --- memory, clients, the board, people ---


async def test_one_fitting_note_is_forgotten_and_several_are_not() -> None:
    blue = {"key": "acme-blue", "value": "Acme Dental prefers blue"}
    talk = Talk(*CONVERSATION, recall={"items": [blue]}, forget={"deleted": True})
    await talk.say("Forget that Acme Dental prefers blue")
    assert talk.arguments("forget") == [{"key": "acme-blue"}]
    assert talk.sent() == "Forgotten: Acme Dental prefers blue."
    several = {"items": [blue, {"key": "acme-font", "value": "Acme Dental prefers Inter"}]}
    talk = Talk(*CONVERSATION, recall=several)
    await talk.say("Forget what I said about Acme Dental")
    assert "forget" not in talk.names()
    assert "several notes fit" in talk.sent()


async def test_notes_are_recalled_without_the_models_own_housekeeping() -> None:
    items = [{"key": "last_card", "value": {"id": 1}}, {"key": "font", "value": "the brand font is Inter"}]
    talk = Talk(*CHAT, recall={"items": items})
    assert await talk.say("Do you remember the brand font?") == "I noted: the brand font is Inter."


async def test_a_list_shows_each_card_and_leaves_out_what_is_done_when_open_ones_are_wanted() -> None:
    items = [
        {
            "id": 1,
            "title": "A",
            "status": "todo",
            "priority": "urgent",
            "dueDate": "2026-11-27T22:59:59Z",
            "client": "X",
        },
        {"id": 2, "title": "B", "status": "done", "priority": "low", "dueDate": None, "client": None},
    ]
    talk = Talk(*CHAT, find_tasks={"items": items})
    assert await talk.say("show my open tasks") == "1 card:\n#1 A: todo, urgent, due Friday 27 November, X"


async def test_overdue_cards_are_those_due_before_today_in_the_persons_zone() -> None:
    # 23:30 UTC on the 19th is the 20th in Berlin, and that is today.
    items = [
        {"id": 1, "title": "A", "status": "todo", "dueDate": "2026-11-19T22:59:59Z"},
        {"id": 2, "title": "B", "status": "todo", "dueDate": "2026-11-19T23:30:00Z"},
        {"id": 3, "title": "C", "status": "done", "dueDate": "2026-11-01T12:00:00Z"},
    ]
    talk = Talk(*CHAT, find_tasks={"items": items})
    assert "\n#1 A" in (text := await talk.say("What is overdue?"))
    assert "#2" not in text
    assert "#3" not in text


async def test_a_wish_for_a_person_hands_over_and_a_question_to_somebody_does_not() -> None:
    talk = Talk(*CONVERSATION, "hand_over")
    await talk.say("I want to talk to a person")
    await talk.say("Ask Anna whether the photos are approved")
    assert talk.names() == ["hand_over", "reply", "ask_person", "reply"]


async def test_what_is_not_understood_goes_to_a_person_word_for_word() -> None:
    talk = Talk(*CONVERSATION)
    await talk.say("Refund the customer 200 euros")
    assert talk.arguments("ask_person") == [{"question": "Refund the customer 200 euros"}]
    assert talk.sent().startswith("I cannot do that offline, so a person will look at it.")


@pytest.mark.parametrize(
    "words",
    [
        "Update the form but do not touch the menu",
        "Fix the slider, never mind the footer",
        "Fix the form if Anna agrees",
        "Replace or remove the banner on the homepage",
        "Update the form?",
    ],
)
async def test_a_request_with_a_negation_a_condition_or_an_alternative_goes_to_a_person(words: str) -> None:
    talk = Talk(*CONVERSATION, create_task=created())
    await talk.say(words)
    assert talk.names() == ["ask_person", "reply"]


async def test_the_refusal_names_the_nearest_thing_that_it_can_do() -> None:
    assert "start several agents" in await Talk().say("What if we start a swarm on cost and risk?")


async def test_half_a_message_that_is_understood_is_done_and_the_other_half_goes_to_a_person() -> None:
    talk = Talk(*CONVERSATION, create_task=created())
    await talk.say("Fix the form. Pay the invoice of Acme Dental.")
    assert sorted(talk.names()) == ["ask_person", "create_task", "remember", "reply"]
    assert talk.arguments("ask_person") == [{"question": "Pay the invoice of Acme Dental."}]


async def test_a_swarm_is_started_with_its_parts_where_that_is_offered() -> None:
    talk = Talk(*CHAT, "swarm_start")
    await talk.say("Start a swarm on cost, risk and timing")
    assert talk.arguments("swarm_start") == [{"goal": "cost, risk and timing", "parts": ["cost", "risk", "timing"]}]


# --- the loop ---


@pytest.mark.parametrize("texts", [[], [""], ["  \n "], ["👍"]])
async def test_a_message_without_words_gets_a_text_and_no_call(texts: list[str]) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": text} for text in (CONTEXT, *texts)]}
    reply = await OfflineModel().reply(ModelRequest(system="", messages=[message], tools=Talk(*CONVERSATION).tools))
    assert reply.calls == ()
    assert reply.text.startswith("I see no words in this message.")


@pytest.mark.parametrize(
    "words", ["Fix the form", "Move it to review", "Who is Acme Dental?", "Forget that Acme likes blue"]
)
async def test_a_tool_that_is_missing_is_named_and_not_called(words: str) -> None:
    talk = Talk("reply")
    await talk.say(words)
    assert talk.names() == ["reply"]
    assert "tool" in talk.sent() or "Which card" in talk.sent()


async def test_an_agent_that_must_plan_first_plans_and_then_works() -> None:
    talk = Talk("plan", "find_tasks", create_task=created())
    talk.messages.append(
        {"role": "user", "content": [{"type": "text", "text": CONTEXT}, {"type": "text", "text": ACME}]}
    )
    assert [call.name for call in (await talk.step()).calls] == ["plan"]
    talk.tools = Talk("plan", *CONVERSATION).tools
    assert [call.name for call in (await talk.step()).calls] == ["create_task"]


async def test_each_of_two_equal_calls_takes_its_own_result() -> None:
    talk = Talk(*CONVERSATION, create_task=created())
    await talk.say("Fix the form\nFix the form")
    assert [card["id"] for card in talk.arguments("remember")[0]["value"]["cards"]] == [12, 13]


async def test_a_reply_that_could_not_be_sent_is_not_sent_again() -> None:
    talk = Talk(*CONVERSATION, reply="the conversation is closed")
    assert await talk.say("hello") == "The answer could not be sent: the conversation is closed"
    assert talk.names() == ["reply"]


async def test_words_after_an_interrupted_exchange_are_all_that_counts() -> None:
    talk = Talk(*CONVERSATION, create_task="not run: the execution ended before this call")
    talk.messages.append({"role": "user", "content": [{"type": "text", "text": "Fix the form"}]})
    await talk.step()
    talk.messages[-1]["content"] += [{"type": "text", "text": CONTEXT}, {"type": "text", "text": "hello"}]
    while (await talk.step()).calls:
        pass
    assert talk.names() == ["create_task", "reply"]


async def test_ids_are_unique_in_a_history_and_differ_between_conversations() -> None:
    one, two = Talk(*CONVERSATION, create_task=created()), Talk(*CONVERSATION, create_task=created())
    for _ in range(3):
        await one.say(TWO)
        await two.say(ACME)
    ids = [call.id for call in (*one.calls, *two.calls)]
    assert len(set(ids)) == len(ids)


async def test_the_same_request_gets_the_same_reply() -> None:
    talk = Talk(*CONVERSATION, "plan", create_task=created())
    await talk.say(TWO)
    for end in range(1, len(talk.messages), 2):
        request = ModelRequest(system="", messages=talk.messages[:end], tools=talk.tools)
        reply = await OfflineModel().reply(request)
        assert reply == await OfflineModel().reply(request)
        assert list(reply.content) == talk.messages[end]["content"]


async def test_every_reply_names_the_model_as_offline() -> None:
    talk = Talk()
    await talk.say("hello")
    reply = await OfflineModel().reply(ModelRequest(system="", messages=[{"role": "user", "content": "hello"}]))
    assert (OfflineModel().name, reply.model, reply.stop_reason) == ("offline", "offline", "end_turn")


_PIECES = st.sampled_from(
    [
        *(
            "fix",
            "the form",
            "of Acme",
            "by Friday",
            "urgent",
            "and",
            "move it to done",
            "don't",
            "forget",
            "remember that",
        ),
        *(
            "next",
            "11/27",
            "at 5",
            "delete",
            "all",
            "for",
            "swarm on",
            "#12",
            ".",
            "?",
            "\n",
            "'",
            '"',
            "“",
            "-",
            "*",
            "(",
        ),
        *("\\", ":", "\x00"),
    ]
)


@given(words=st.lists(_PIECES | st.text(max_size=12), max_size=12), offered=st.sets(st.sampled_from(CONVERSATION)))
async def test_any_words_get_a_reply_that_calls_only_what_is_offered(words: Sequence[str], offered: set[str]) -> None:
    message = {
        "role": "user",
        "content": [{"type": "text", "text": CONTEXT}, {"type": "text", "text": " ".join(words)}],
    }
    tools = [ToolSpec(name=name, description="", input_schema={}) for name in sorted(offered)]
    reply = await OfflineModel().reply(ModelRequest(system="", messages=[message], tools=tools))
    assert {call.name for call in reply.calls} <= offered
    assert bool(reply.text) != bool(reply.calls)
    json.dumps(reply.content)


# --- dates ---


@given(day=st.dates(date(2024, 1, 1), date(2040, 12, 31)), index=st.integers(0, 6), hour=st.integers(0, 23))
def test_a_weekday_is_the_next_one_and_never_today(day: date, index: int, hour: int) -> None:
    now = datetime(day.year, day.month, day.day, hour, tzinfo=BERLIN)
    name = f"{date(2024, 1, 1 + index):%A}"
    rest, due = offline_dates.extract(f"fix the form by {name}", now)
    assert due is not None
    ahead = date.fromisoformat(due.value) - day
    assert timedelta(days=1) <= ahead <= timedelta(days=7)
    assert date.fromisoformat(due.value).weekday() == index
    assert rest == "fix the form"


@given(day=st.dates(date(2024, 1, 1), date(2040, 12, 31)), target=st.dates(date(2024, 1, 1), date(2040, 12, 31)))
def test_a_day_and_month_is_the_next_such_day(day: date, target: date) -> None:
    now = datetime(day.year, day.month, day.day, 12, tzinfo=BERLIN)
    due = offline_dates.resolve(f"by {target.day} {target:%B}", now)
    assert due is not None
    if due.value:
        read = date.fromisoformat(due.value)
        assert (read.day, read.month) == (target.day, target.month)
        assert timedelta(0) <= read - day <= timedelta(days=366)
    else:
        assert (target.day, target.month) == (29, 2)


FRIDAY = datetime(2026, 11, 20, 15, 4, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("by today", "2026-11-20"),
        ("by tomorrow", "2026-11-21"),
        ("by the day after tomorrow", "2026-11-22"),
        ("in a week", "2026-11-27"),
        ("in 2 months", "2027-01-20"),
        ("in 2 hours", "2026-11-20T17:04:00+01:00"),
        ("by Friday next week", "2026-11-27"),
        ("before Monday", "2026-11-22"),
        ("by the end of next month", "2026-12-31"),
        ("by end of February", "2027-02-28"),
        ("by 29 February", ""),
        ("by 5pm", "2026-11-20T17:00:00+01:00"),
        ("by 9am", ""),
        ("by tomorrow at noon", "2026-11-21T12:00:00+01:00"),
        ("by 28 March 2027 10:00", "2027-03-28T10:00:00+02:00"),
        ("by Friday at 5", ""),
        ("by 31 November", ""),
        ("by next Saturday", ""),
        ("by this Friday", ""),
        ("by yesterday", ""),
        ("by 2026-11-19", ""),
        ("by 27.11.2026", ""),
        ("by 11/27", ""),
        ("by next week", ""),
        ("by the end of the week", ""),
    ],
)  # fmt: skip
def test_deadlines_are_read_as_they_are_meant_or_not_at_all(words: str, value: str) -> None:
    due = offline_dates.resolve(words, FRIDAY)
    assert due is not None
    assert due.value == value


@pytest.mark.parametrize(
    "text", ["the Monday report", "a banner for Black Friday", "a post about tomorrow", "support 24/7"]
)
def test_dates_in_names_and_topics_are_no_deadlines(text: str) -> None:
    assert offline_dates.extract(text, FRIDAY) == (text, None)
