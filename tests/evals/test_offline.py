"""The offline model's understanding, measured on what people write; tests/evals/offline.yaml holds the answers.

The table of patterns was written after the utterances. `pytest -s` prints the figures.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
import yaml

from runtime.events import ToolCall
from runtime.models.offline import OfflineModel
from runtime.models.offline_grammar import RULES, render_markdown
from runtime.models.offline_parse import Request, parse
from runtime.ports import Json, ModelRequest, ToolSpec

ROOT = Path(__file__).parents[2]
SET = yaml.safe_load((Path(__file__).parent / "offline.yaml").read_text())
UNDERSTOOD: list[dict[str, Any]] = SET["understood"]
REFUSED: list[str] = SET["refused"]
NOW = datetime.fromisoformat(SET["now"]).astimezone(ZoneInfo(SET["timezone"]))
MINIMUM = 0.95

WRITING = ("create_task", "update_task", "forget", "swarm_start", "delegate")
TOOLS = (*WRITING, "find_tasks", "remember", "recall", "get_client", "ask_person", "hand_over", "reply", "plan")
BOARD = [
    {"id": 1, "title": "Fix the landing page", "status": "todo", "priority": "high", "dueDate": None, "client": "Acme"},
    {"id": 2, "title": "Prepare the newsletter", "status": "todo", "priority": "low", "dueDate": None, "client": None},
]
MEMORY = [{"key": "acme-dental-prefers-blue", "value": "Acme Dental prefers blue"}]


def read(text: str) -> list[dict[str, Any]]:
    return [_plain(request) for request in parse(text, NOW)]


def _plain(request: Request) -> dict[str, Any]:
    return {"intent": request.intent} | json.loads(json.dumps(request.named))


def _intents(requests: Iterable[dict[str, Any]]) -> list[str]:
    return [request["intent"] for request in requests]


def test_the_set_is_large_enough_and_a_third_of_it_is_no_example_of_the_table() -> None:
    examples = {example for rule in RULES for example in rule.examples}
    paraphrases = [case["text"] for case in UNDERSTOOD if case.get("paraphrase")]
    texts = [case["text"] for case in UNDERSTOOD]
    assert (len(UNDERSTOOD), len(REFUSED)) == (200, 50)
    assert len(set(texts + REFUSED)) == 250
    assert len(paraphrases) * 3 >= len(UNDERSTOOD)
    assert not examples & set(paraphrases)


def test_intents_and_slots_are_read_right_in_at_least_19_of_20_utterances() -> None:
    misread = [case for case in UNDERSTOOD if _intents(read(case["text"])) != _intents(case["want"])]
    inexact = [case for case in UNDERSTOOD if read(case["text"]) != case["want"]]
    intents, slots = (1 - len(missed) / len(UNDERSTOOD) for missed in (misread, inexact))
    print(f"offline model: intents {intents:.1%}, intents and all slots {slots:.1%} of {len(UNDERSTOOD)}")  # noqa: T201 -- the figure is what an eval is for
    for case in inexact:
        print(f"  {case['text']!r}\n    want {case['want']}\n    got  {read(case['text'])}")  # noqa: T201 -- as above
    assert intents >= MINIMUM
    assert slots >= MINIMUM


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.intent}-{rule.on}")
def test_every_example_of_the_table_is_read_as_its_rule_says(rule: Any) -> None:
    for example in rule.examples:
        assert rule.intent in _intents(read(example)), example


@pytest.mark.parametrize("text", REFUSED)
async def test_what_must_be_refused_changes_nothing_however_the_tools_answer(text: str) -> None:
    calls = await conversation(text)
    assert [call for call in calls if call.name in WRITING] == []
    assert [call.name for call in calls].count("reply") == 1


async def conversation(text: str) -> list[ToolCall]:
    """Play one message to its end against a board with two cards and a memory with one fact."""
    context = f"<context>\nnow: {NOW.isoformat()}\ntimezone: {SET['timezone']}\n</context>"
    messages: list[Json] = [
        {"role": "user", "content": [{"type": "text", "text": context}, {"type": "text", "text": text}]}
    ]
    tools = [ToolSpec(name=name, description="", input_schema={"type": "object"}) for name in TOOLS]
    calls: list[ToolCall] = []
    for _ in range(10):
        reply = await OfflineModel().reply(ModelRequest(system="", messages=messages, tools=tools))
        if not reply.calls:
            return calls
        calls += reply.calls
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": json.dumps(answer(call))} for call in reply.calls
        ]
        messages += [{"role": "assistant", "content": list(reply.content)}, {"role": "user", "content": results}]
    pytest.fail(f"no end after {len(calls)} calls")


def answer(call: ToolCall) -> Json:
    match call.name:
        case "find_tasks":
            words = str(call.arguments.get("text", "")).lower().split()
            return {
                "items": [card for card in BOARD if all(word in cast("str", card["title"]).lower() for word in words)]
            }
        case "recall":
            return {"items": MEMORY}
        case "create_task" | "update_task":
            return BOARD[0]
        case _:
            return {"queued": True}


def test_the_page_about_the_offline_model_is_up_to_date() -> None:
    page = ROOT / "docs" / "offline.md"
    assert page.read_text() == render_markdown(), (
        "write it anew: python -c 'from runtime.models.offline_grammar import render_markdown; "
        "print(render_markdown(), end=str())' > docs/offline.md"
    )
