"""The rule of the loop: a table of histories and the step that follows each."""

from typing import Any

import pytest

from runtime.decide import Limits, Spent, decide
from runtime.events import (
    CallApproved,
    CallWaits,
    Compacted,
    Event,
    ExecutionEnded,
    ModelReplied,
    PhaseAdvanced,
    Planned,
    ToolCall,
    ToolReturned,
    UserSpoke,
    WaitsFor,
)
from runtime.steps import AskApproval, CallModel, Compact, Finish, GiveUp, RunTools, Step, Stop, Wait

LIMITS = Limits(iterations=3, identical_calls=2)


def asked() -> UserSpoke:
    return UserSpoke(text="Create a card.")


def called(*calls: tuple[str, str, dict[str, Any]], text: str = "", stop_reason: str = "tool_use") -> ModelReplied:
    blocks = [{"type": "tool_use", "id": id_, "name": name, "input": arguments} for id_, name, arguments in calls]
    return ModelReplied(content=({"type": "text", "text": text}, *blocks), stop_reason=stop_reason, model="m")


def said(text: str, stop_reason: str = "end_turn") -> ModelReplied:
    return called(text=text, stop_reason=stop_reason)


def returned(call_id: str, *, is_error: bool = False) -> ToolReturned:
    return ToolReturned(call_id=call_id, name="look", content="seen", is_error=is_error)


def run(*calls: tuple[str, str, dict[str, Any]]) -> RunTools:
    return RunTools(calls=tuple(ToolCall(id=id_, name=name, arguments=arguments) for id_, name, arguments in calls))


def ended(status: Any) -> ExecutionEnded:
    return ExecutionEnded(status=status, text="so")


def waits(call_id: str) -> CallWaits:
    return CallWaits(call_id=call_id, waits_for=WaitsFor(kind="approval", id=7))


APPROVED = CallApproved(call_id="1", approval_id=7, by="ann")
OUTGREW = "model_context_window_exceeded"
SUMMED_UP = Compacted(steps=1, summary="So far: nothing.", model="m")
PLANNED = Planned(goal="A card", phases=("write", "check"))
ADVANCED = PhaseAdvanced(index=1, name="check")
ONE, TWO, THREE = ("1", "look", {"at": 1}), ("2", "look", {"at": 2}), ("3", "look", {"at": 3})

TABLE: dict[str, tuple[list[Event], Step]] = {
    "a question is put to the model": ([asked()], CallModel()),
    "a second message before any reply is part of the question": ([asked(), asked()], CallModel()),
    "words end the execution": ([asked(), said("Done.")], Finish(text="Done.")),
    "words are ended without the blanks around them": ([asked(), said(" Done.\n")], Finish(text="Done.")),
    "a call is run": ([asked(), called(ONE)], run(ONE)),
    "words beside a call do not end the execution": ([asked(), called(ONE, text="Looking.")], run(ONE)),
    "all calls of a reply are run together": ([asked(), called(ONE, TWO)], run(ONE, TWO)),
    "a session that outgrew the model is summed up": ([asked(), said("", OUTGREW)], Compact()),
    "a session that was summed up goes on": ([asked(), said("", OUTGREW), SUMMED_UP], CallModel()),
    "a session is summed up again when it has grown again": (
        [asked(), said("", OUTGREW), SUMMED_UP, called(ONE), returned("1"), said("", OUTGREW)],
        Compact(),
    ),
    "a call that waits is waited for": ([asked(), called(ONE), waits("1")], Wait(waits=(waits("1"),))),
    "what can run does not wait for what cannot": ([asked(), called(ONE, TWO), waits("1")], run(TWO)),
    "an approved call is run": ([asked(), called(ONE), waits("1"), APPROVED], run(ONE)),
    "an answered call goes to the model": ([asked(), called(ONE), waits("1"), returned("1")], CallModel()),
    "a result goes to the model": ([asked(), called(ONE), returned("1")], CallModel()),
    "a failed result goes to the model too": ([asked(), called(ONE), returned("1", is_error=True)], CallModel()),
    "only calls without a result are left to run": ([asked(), called(ONE, TWO), returned("1")], run(TWO)),
    "results may come in any order": ([asked(), called(ONE, TWO, THREE), returned("2")], run(ONE, THREE)),
    "the last result of several goes to the model": (
        [asked(), called(ONE, TWO), returned("2"), returned("1")],
        CallModel(),
    ),
    "results of earlier replies do not answer a later one": (
        [asked(), called(ONE), returned("1"), called(TWO, THREE), returned("2")],
        run(THREE),
    ),
    "a plan changes nothing before the calls beside it": ([asked(), called(ONE), PLANNED], run(ONE)),
    "a plan changes nothing after a result": ([asked(), called(ONE), returned("1"), PLANNED], CallModel()),
    "a plan beside words does not prolong the execution": ([asked(), said("Done."), PLANNED], Finish(text="Done.")),
    "a phase changes nothing": ([asked(), PLANNED, called(ONE), ADVANCED, returned("1"), ADVANCED], CallModel()),
    "a new message after words opens the next turn": ([asked(), said("Done."), asked()], CallModel()),
    "a refusal fails with its words": ([asked(), said("I will not.", "refusal")], GiveUp(reason="I will not.")),
    "a completed execution stays completed": ([asked(), said("so"), ended("completed")], Finish(text="so")),
    "a failed execution stays failed": ([asked(), ended("failed")], GiveUp(reason="so")),
    "a cancelled execution stays cancelled, calls or not": (
        [asked(), called(ONE), ended("cancelled")],
        Stop(reason="so"),
    ),
    "a plan after the end does not revive it": ([asked(), ended("cancelled"), PLANNED], Stop(reason="so")),
    "words in the last allowed reply end as usual": (
        [asked(), called(ONE), returned("1"), called(TWO), returned("2"), said("Done.")],
        Finish(text="Done."),
    ),
    "calls in the last allowed reply still run": (
        [asked(), called(ONE), returned("1"), called(TWO), returned("2"), called(THREE)],
        run(THREE),
    ),
    "a paused turn goes on": ([asked(), said("Searching", "pause_turn")], CallModel()),
    "a message that comes while calls are open waits for them": ([asked(), called(ONE), asked()], run(ONE)),
    "nothing that follows the end revives it": ([asked(), ended("completed"), returned("1")], Finish(text="so")),
    "a call with another result each time is no loop": (
        [
            asked(),
            called(*[(str(number), "look", {"at": 1}) for number in range(2)]),
            *[ToolReturned(call_id=str(number), name="look", content=f"seen {number}") for number in range(2)],
            called(("9", "look", {"at": 1})),
        ],
        run(("9", "look", {"at": 1})),
    ),
    "the same call twice is within the limit": (
        [asked(), called(ONE), returned("1"), called(("2", "look", {"at": 1}))],
        run(("2", "look", {"at": 1})),
    ),
}


@pytest.mark.parametrize(("events", "step"), TABLE.values(), ids=TABLE.keys())
def test_a_history_has_its_next_step(events: list[Event], step: Step) -> None:
    assert decide(events, LIMITS) == step


GIVEN_UP: dict[str, tuple[list[Event], str]] = {
    "a refusal without words": ([asked(), said("", "refusal")], "refused"),
    "calls of a refusal": ([asked(), called(ONE, stop_reason="refusal")], "refused"),
    "words cut at max_tokens": ([asked(), said("Once upon a", "max_tokens")], "AGENCY_MAX_TOKENS"),
    "calls cut at max_tokens": ([asked(), called(ONE, stop_reason="max_tokens")], "AGENCY_MAX_TOKENS"),
    "a session that outgrew the model even summed up": (
        [asked(), said("", OUTGREW), SUMMED_UP, said("", OUTGREW)],
        "start a new one",
    ),
    "no iterations left": (
        [asked(), called(ONE), returned("1"), called(TWO), returned("2"), called(THREE), returned("3")],
        "3 iterations",
    ),
    "the same call once too often": (
        [asked(), called(ONE), returned("1"), called(ONE), returned("1"), called(ONE)],
        "'look' 3 times",
    ),
    "the same call too often at once": (
        [asked(), called(*[(str(number), "look", {"at": 1}) for number in range(3)])],
        "'look' 3 times",
    ),
}


@pytest.mark.parametrize(("events", "reason"), GIVEN_UP.values(), ids=GIVEN_UP.keys())
def test_a_history_that_leads_nowhere_is_given_up_with_what_was_reached(events: list[Event], reason: str) -> None:
    step = decide(events, LIMITS)
    assert isinstance(step, GiveUp)
    assert reason in step.reason


@pytest.mark.parametrize("events", [events for events, _ in TABLE.values()], ids=TABLE.keys())
def test_deciding_leaves_the_history_alone_and_gives_the_same_answer_again(events: list[Event]) -> None:
    before = [event.model_copy(deep=True) for event in events]
    assert decide(events, LIMITS) == decide(tuple(events), LIMITS)
    assert events == before


def asks_about_two(call: ToolCall) -> str | None:
    return "it is number two" if call.id == "2" else None


def test_a_call_that_needs_a_person_is_asked_about_after_the_others_have_run() -> None:
    both = [asked(), called(ONE, TWO)]
    assert decide(both, LIMITS, asks=asks_about_two) == run(ONE)
    two = ToolCall(id="2", name="look", arguments={"at": 2})
    step = decide([*both, returned("1")], LIMITS, asks=asks_about_two)
    assert step == AskApproval(call=two, reason="it is number two")


@pytest.mark.parametrize(
    ("limits", "spent", "reason"),
    [
        (Limits(tokens=100), Spent(tokens=100), "limit of 100 tokens"),
        (Limits(cost_micros=2_500_000), Spent(cost_micros=2_500_000), "2.5 USD"),
        (Limits(cost_micros=1), Spent(cost_micros=None), "price of the model is unknown"),
        (Limits(seconds=60), Spent(seconds=60.5), "limit of 60 s"),
    ],
)
def test_an_allowance_that_is_used_up_ends_the_execution_before_the_next_call(
    limits: Limits, spent: Spent, reason: str
) -> None:
    step = decide([asked()], limits, spent=spent)
    assert isinstance(step, GiveUp)
    assert reason in step.reason
    assert decide([asked(), said("Done.")], limits, spent=spent) == Finish(text="Done.")


def test_calls_beyond_the_allowance_are_not_run() -> None:
    step = decide([asked(), called(ONE), returned("1"), called(TWO, THREE)], Limits(tool_calls=2))
    assert isinstance(step, GiveUp)
    assert "2 tool calls" in step.reason


def test_a_session_that_fills_the_window_is_summed_up_before_the_next_call() -> None:
    limits = Limits(context_tokens=1_000)
    assert decide([asked()], limits, spent=Spent(context_tokens=1_001)) == Compact()
    assert decide([asked()], limits, spent=Spent(context_tokens=1_000)) == CallModel()
