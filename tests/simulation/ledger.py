"""What must be true of a town when everything is over, whatever has gone wrong in it."""

from collections.abc import Callable, Iterator, Mapping

from runtime.events import ExecutionEnded, ModelReplied, ToolReturned, UserSpoke
from runtime.requests import Transcript
from runtime.testing.memory_store import CallRow
from tests.contract.worlds import USER
from tests.simulation.town import Town, unpaired


def broken_promises(town: Town) -> list[str]:
    """Return every promise that was broken, in words."""
    found = [f"{rule}: {case}" for rule, look in RULES.items() for case in look(town)]
    return [*town.broken, *found]


def _not_over(town: Town) -> Iterator[str]:
    return (f"{one.id} {one.status}" for one in town.store.executions.values() if not one.is_over)


def _leased(town: Town) -> Iterator[str]:
    return (f"{one.id} {one.lease_owner}" for one in town.store.sessions.values() if one.lease_owner is not None)


def _gaps(town: Town) -> Iterator[str]:
    for session in town.store.sessions.values():
        if session.next_seq != len(town.store.steps[session.id]) + 1:
            yield f"{session.id}"


def _ends(town: Town) -> Iterator[str]:
    for execution in town.store.executions.values():
        events = [one.event for one in town.store.steps[execution.session_id] if one.execution_id == execution.id]
        ends = sum(isinstance(event, ExecutionEnded) for event in events)
        closed = town.store.kept_by(USER).get(f"closed {execution.id}", 0)
        replies = sum(isinstance(event, ModelReplied) for event in events)
        if (ends, closed, execution.iterations) != (1, 1, replies):
            yield f"{execution.id}: {ends} ends, {closed} times closed, {execution.iterations} of {replies} replies"


def _interleaved(town: Town) -> Iterator[str]:
    for session_id, steps in town.store.steps.items():
        ids = [one.execution_id for one in steps]
        if ids != sorted(ids):
            yield f"{session_id}: {ids}"


def _results(town: Town) -> Iterator[str]:
    for steps in town.store.steps.values():
        transcript = Transcript([*(one.event for one in steps), UserSpoke(text="and then?")])
        yield from unpaired(transcript.messages)
        returned = [(one.execution_id, one.event.call_id) for one in steps if isinstance(one.event, ToolReturned)]
        yield from (f"{call} twice" for call in set(returned) if returned.count(call) > 1)


def _calls(town: Town, *tools: str) -> Iterator[tuple[str, CallRow]]:
    for call in town.store.calls.values():
        if call.tool_name in tools:
            yield call.parameters["item"], call


def _db_effects(town: Town) -> Iterator[str]:
    for item, call in _calls(town, "put", "put_if_allowed"):
        effects = town.store.kept_by(USER).get(item, 0)
        if effects != (call.state == "done"):
            yield f"{item} is {call.state}, and took effect {effects} times"


def _unkeyed(town: Town) -> Iterator[str]:
    for item, call in _calls(town, "send", "send_if_allowed"):
        sent = town.sent[item]
        fits = {"done": sent == 1, "pending": sent == 0, "error": sent == 0}
        if sent > 1 or not fits.get(call.state, True):
            yield f"{item} is {call.state}, and was sent {sent} times"


def _keyed(town: Town) -> Iterator[str]:
    for item, call in _calls(town, "send_keyed"):
        keys = town.keyed.get(item, set[str]())
        if len(keys) > 1 or (call.state == "done" and keys != {call.idempotency_key}):
            yield f"{item} is {call.state}, and was sent under {len(keys)} keys"


def _unallowed(town: Town) -> Iterator[str]:
    used = {(one.execution_id, one.tool_use_id) for one in town.store.approvals.values() if one.status == "used"}
    for item, call in _calls(town, "put_if_allowed", "send_if_allowed"):
        took_effect = town.sent[item] or town.store.kept_by(USER).get(item)
        if took_effect and (call.execution_id, call.tool_use_id) not in used:
            yield item


RULES: Mapping[str, Callable[[Town], Iterator[str]]] = {
    "an execution is not at its end": _not_over,
    "a session is leased although nothing is left to do": _leased,
    "the journal of a session has a gap": _gaps,
    "an execution has not ended once": _ends,
    "two executions of a session overlap": _interleaved,
    "a call has not one result": _results,
    "an effect in the database and its record do not agree": _db_effects,
    "something was sent blindly twice, or is told wrongly": _unkeyed,
    "something was sent under two keys, or is told wrongly": _keyed,
    "something happened that nobody allowed": _unallowed,
}
"""A broken promise → the cases of it."""
