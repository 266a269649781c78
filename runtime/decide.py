"""The rule of the loop: from an execution's history to its next step. Pure; the driver performs what this returns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import assert_never

from runtime.events import (
    CallApproved,
    CallWaits,
    Compacted,
    Event,
    ExecutionEnded,
    ModelReplied,
    ToolCall,
    ToolReturned,
    UserSpoke,
)
from runtime.steps import AskApproval, CallModel, Compact, Finish, GiveUp, RunTools, Step, Stop, Wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one execution may use. None: as much as it likes."""

    iterations: int = 100
    """Model replies."""
    identical_calls: int = 3
    """How often in a row a call may give the same result before asking for it once more is called a loop."""
    tokens: int | None = None
    """Read and written, cached ones included."""
    cost_micros: int | None = None
    """Millionths of a US dollar."""
    tool_calls: int | None = None
    seconds: float | None = None
    """From its first claim to its end, waiting included."""
    context_tokens: int | None = None
    """Tokens of a request beyond which the older part of the session is summed up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one execution has used, by every worker that has driven it; what is perhaps spent counts as spent."""

    tokens: int = 0
    cost_micros: int | None = 0
    """None: a model was used whose price is unknown."""
    seconds: float = 0
    context_tokens: int = 0
    """Of the session, as the provider counted them last; 0: not known since the last summary."""


Asks = Callable[[ToolCall], str | None]
"""Tells why a person has to allow a call; None: nobody has to."""


def asks_nobody(call: ToolCall) -> str | None:
    """Let every call run."""
    del call


_BROKEN_OFF = frozenset({"refusal", "max_tokens", "model_context_window_exceeded"})
"""Reasons to stop after which the calls of a reply do not count."""

Turn = UserSpoke | ModelReplied | ToolReturned | Compacted


def decide(events: Sequence[Event], limits: Limits, *, spent: Spent | None = None, asks: Asks = asks_nobody) -> Step:
    """Return the next step of the execution whose events these are.

    `events` are those of one execution, oldest first, and hold at least what somebody said. Plans and phases are facts
    about the work, not turns, so they do not change what comes next. What follows the end changes nothing.
    """
    for event in events:
        if isinstance(event, ExecutionEnded):
            return _already_ended(event)
    turns = [event for event in events if isinstance(event, Turn)]
    spent = spent or Spent()
    if open_calls := _open_calls(events):
        return _next_calls(open_calls, events, limits, spent, asks)
    match turns[-1]:
        case ModelReplied() as reply:
            return _after_reply(reply, turns, limits, spent)
        case UserSpoke() | ToolReturned() | Compacted():
            return _next_turn(turns, limits, spent)
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


def _after_reply(reply: ModelReplied, turns: Sequence[Turn], limits: Limits, spent: Spent) -> Step:
    """Tell a finished answer from one that the provider broke off (https://platform.claude.com/docs/en/api/messages)."""
    match reply.stop_reason:
        case "pause_turn":
            return _next_turn(turns, limits, spent)
        case "refusal":
            return GiveUp(reason=reply.text or "the model refused to answer")
        case "max_tokens":
            return GiveUp(reason="the model's reply was cut at max_tokens; raise AGENCY_MAX_TOKENS or ask for less")
        case "model_context_window_exceeded":
            return _make_room(turns)
        case _:
            return Finish(text=reply.text)


def _make_room(turns: Sequence[Turn]) -> Step:
    """Sum up once; a session that does not fit even then would be summed up for ever."""
    before = [turn for turn in turns[:-1] if isinstance(turn, ModelReplied | Compacted)]
    if before and isinstance(before[-1], Compacted):
        return GiveUp(reason="the session does not fit the model's context window even summed up; start a new one")
    return Compact()


def _next_turn(turns: Sequence[Turn], limits: Limits, spent: Spent) -> Step:
    replies = sum(isinstance(event, ModelReplied) for event in turns)
    if replies >= limits.iterations:
        return GiveUp(reason=f"reached the limit of {limits.iterations} iterations")
    if reason := _exhausted(limits, spent):
        return GiveUp(reason=reason)
    if limits.context_tokens is not None and spent.context_tokens > limits.context_tokens:
        return Compact()
    return CallModel()


def _exhausted(limits: Limits, spent: Spent) -> str | None:
    """Return which allowance is used up, in words."""
    if limits.seconds is not None and spent.seconds >= limits.seconds:
        return f"reached the limit of {limits.seconds:g} s"
    if limits.tokens is not None and spent.tokens >= limits.tokens:
        return f"reached the limit of {limits.tokens:,} tokens; {spent.tokens:,} are used"
    if limits.cost_micros is None:
        return None
    if spent.cost_micros is None:
        return "the price of the model is unknown, so the limit of its cost cannot be kept; set a limit of tokens"
    if spent.cost_micros >= limits.cost_micros:
        return f"reached the limit of {limits.cost_micros / 1e6:g} USD; {spent.cost_micros / 1e6:g} are used"
    return None


def _next_calls(
    open_calls: Sequence[ToolCall], events: Sequence[Event], limits: Limits, spent: Spent, asks: Asks
) -> Step:
    """Run what can run; then ask for what needs a person; then wait for what others have to give."""
    waits = {event.call_id: event for event in events if isinstance(event, CallWaits)}
    approved = {event.call_id for event in events if isinstance(event, CallApproved)}
    ready = [call for call in open_calls if call.id in approved or (call.id not in waits and asks(call) is None)]
    if ready:
        return _guarded(RunTools(calls=tuple(ready)), [event for event in events if isinstance(event, Turn)], limits)
    for call in open_calls:
        if call.id not in waits:
            return AskApproval(call=call, reason=asks(call) or "")
    if limits.seconds is not None and spent.seconds >= limits.seconds:
        return GiveUp(reason=f"reached the limit of {limits.seconds:g} s while it waited")
    return Wait(waits=tuple(waits[call.id] for call in open_calls))


def _guarded(step: RunTools, turns: Sequence[Turn], limits: Limits) -> Step:
    """Refuse calls beyond the allowance, and one that has given the same result several times in a row."""
    if limits.tool_calls is not None:
        made = sum(isinstance(event, ToolReturned) for event in turns) + len(step.calls)
        if made > limits.tool_calls:
            return GiveUp(reason=f"reached the limit of {limits.tool_calls} tool calls")
    newest_first = list(_calls_with_results(turns, limits.identical_calls))
    for index, call in enumerate(step.calls):
        beside = sum(_is_same(call, other) for other in step.calls[:index])
        same = list(takewhile(lambda pair, call=call: _is_same(call, pair[0]), newest_first))
        times = beside + sum(1 for _ in takewhile(lambda pair, same=same: pair[1] == same[0][1], same))
        if times >= limits.identical_calls:
            return GiveUp(reason=f"called {call.name!r} {times + 1} times in a row with the same result")
    return step


def _calls_with_results(turns: Sequence[Turn], count: int) -> Iterable[tuple[ToolCall, str]]:
    """Yield the last `count` calls that have a result, with it, the newest first."""
    results: list[ToolReturned] = []
    wanted = count
    for event in reversed(turns):
        if isinstance(event, ToolReturned):
            results.append(event)
        elif isinstance(event, ModelReplied) and results:
            calls: Mapping[str, ToolCall] = {call.id: call for call in event.calls}
            for result in results:
                if result.call_id in calls and wanted > 0:
                    wanted -= 1
                    yield calls[result.call_id], result.content
            results = []
        if wanted <= 0:
            return


def _is_same(call: ToolCall, other: ToolCall) -> bool:
    return call.name == other.name and call.arguments == other.arguments


def _open_calls(events: Sequence[Event]) -> tuple[ToolCall, ...]:
    """Return the calls of the last reply that have no result yet; a reply that was broken off has none to run."""
    answered: set[str] = set()
    for event in reversed(events):
        if isinstance(event, ToolReturned):
            answered.add(event.call_id)
        elif isinstance(event, ModelReplied):
            broken = event.stop_reason in _BROKEN_OFF
            return () if broken else tuple(call for call in event.calls if call.id not in answered)
    return ()
