"""The rule of the loop: from an execution's history to its next step. Pure; the driver performs what this returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import assert_never

from runtime.events import Event, ExecutionEnded, ModelReplied, ToolCall, ToolReturned, UserSpoke
from runtime.steps import CallModel, Finish, GiveUp, RunTools, Step, Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one execution may use."""

    iterations: int = 100
    """Model replies."""
    identical_calls: int = 3
    """How often in a row a call may give the same result before asking for it once more is called a loop."""


_BROKEN_OFF = frozenset({"refusal", "max_tokens", "model_context_window_exceeded"})
"""Reasons to stop after which the calls of a reply do not count."""


def decide(events: Sequence[Event], limits: Limits) -> Step:
    """Return the next step of the execution whose events these are.

    `events` are those of one execution, oldest first, and hold at least what somebody said. Plans and phases are facts
    about the work, not turns, so they do not change what comes next. What follows the end changes nothing.
    """
    for event in events:
        if isinstance(event, ExecutionEnded):
            return _already_ended(event)
    turns = [event for event in events if isinstance(event, UserSpoke | ModelReplied | ToolReturned)]
    if open_calls := _open_calls(turns):
        return _guarded(RunTools(calls=open_calls), turns, limits)
    match turns[-1]:
        case ModelReplied() as reply:
            return _after_reply(reply, turns, limits)
        case UserSpoke() | ToolReturned():
            return _next_turn(turns, limits)
        case _ as unreachable:
            assert_never(unreachable)


def _already_ended(event: ExecutionEnded) -> Step:
    match event.status:
        case "completed":
            return Finish(text=event.text)
        case "failed":
            return GiveUp(reason=event.text)
        case "cancelled":
            return Stop(reason=event.text)
        case _ as unreachable:
            assert_never(unreachable)


def _after_reply(reply: ModelReplied, turns: Sequence[Event], limits: Limits) -> Step:
    """Tell a finished answer from one that the provider broke off (https://platform.claude.com/docs/en/api/messages)."""
    match reply.stop_reason:
        case "pause_turn":
            return _next_turn(turns, limits)
        case "refusal":
            return GiveUp(reason=reply.text or "the model refused to answer")
        case "max_tokens":
            return GiveUp(reason="the model's reply was cut at max_tokens; raise AGENCY_MAX_TOKENS or ask for less")
        case "model_context_window_exceeded":
            return GiveUp(reason="the session no longer fits the model's context window; start a new one")
        case _:
            return Finish(text=reply.text)


def _next_turn(turns: Sequence[Event], limits: Limits) -> Step:
    replies = sum(isinstance(event, ModelReplied) for event in turns)
    if replies >= limits.iterations:
        return GiveUp(reason=f"reached the limit of {limits.iterations} iterations")
    return CallModel()


def _guarded(step: RunTools, turns: Sequence[Event], limits: Limits) -> Step:
    """Refuse a call that has just given the same result several times in a row, or stands there as often."""
    calls = {call.id: call for event in turns if isinstance(event, ModelReplied) for call in event.calls}
    recent = [event for event in reversed(turns) if isinstance(event, ToolReturned) and event.call_id in calls]
    for index, call in enumerate(step.calls):
        beside = sum(_is_same(call, other) for other in step.calls[:index])
        times = beside + _repeats(call, recent, calls)
        if times >= limits.identical_calls:
            return GiveUp(reason=f"called {call.name!r} {times + 1} times in a row with the same result")
    return step


def _repeats(call: ToolCall, recent: Sequence[ToolReturned], calls: Mapping[str, ToolCall]) -> int:
    same = takewhile(lambda event: _is_same(call, calls[event.call_id]), recent)
    return sum(1 for _ in takewhile(lambda event: event.content == recent[0].content, same))


def _is_same(call: ToolCall, other: ToolCall) -> bool:
    return call.name == other.name and call.arguments == other.arguments


def _open_calls(turns: Sequence[Event]) -> tuple[ToolCall, ...]:
    """Return the calls of the last reply that have no result yet; a reply that was broken off has none to run."""
    replied_at = [index for index, event in enumerate(turns) if isinstance(event, ModelReplied)]
    if not replied_at:
        return ()
    reply, *after = turns[replied_at[-1] :]
    if not isinstance(reply, ModelReplied) or reply.stop_reason in _BROKEN_OFF:
        return ()
    answered = {event.call_id for event in after if isinstance(event, ToolReturned)}
    return tuple(call for call in reply.calls if call.id not in answered)
