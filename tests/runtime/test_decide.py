"""The rule of the loop: a table of histories and the step that follows each."""

from typing import Any

import pytest

from runtime.decide import Limits, decide
from runtime.events import (
    Event,
    ExecutionEnded,
    ModelReplied,
    PhaseAdvanced,
    Planned,
    ToolCall,
    ToolReturned,
    UserSpoke,
)
from runtime.steps import CallModel, Finish, GiveUp, RunTools, Step, Stop

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
    "a session that outgrew the model": ([asked(), said("", "model_context_window_exceeded")], "start a new one"),
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
