"""What must be true of a tenant's sessions and executions: the columns that are shown agree with the rows that count.

A sound tenant passes at every moment, also while its workers are killed. Operators and tests ask; nothing is repaired.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from runtime.events import (
    Compacted,
    Event,
    ExecutionEnded,
    ModelReplied,
    PhaseAdvanced,
    Planned,
    ToolReturned,
    event_adapter,
)
from runtime.journal import PROJECTED
from storage.queries import invariants
from storage.queries.invariants import History


async def check_invariants(db: AsyncSession) -> list[str]:
    """Return every broken promise of the tenant behind `db` with the ids that break it; empty: all are kept.

    It reads every step of the tenant's ended executions, a hundred executions at a time, and writes nothing.
    """
    found = await invariants.broken(db, invariants.RULES, {"length": PROJECTED})
    async for history in invariants.ended_histories(db):
        events = [event_adapter.validate_python(step.body) for step in history.steps]
        lies = [rule for rule, is_kept in HISTORY_RULES.items() if not is_kept(history, events)]
        found += [f"{rule}: {{'id': {history.execution.id}}}" for rule in lies]
    return found


def _kinds_agree(history: History, events: Sequence[Event]) -> bool:
    return [step.kind for step in history.steps] == [event.kind for event in events]


def _thoughts_agree(history: History, events: Sequence[Event]) -> bool:
    thoughts = [
        {"iteration": index, "thinking": _in_a_column(reply.thinking), "text": _in_a_column(reply.text)}
        for index, reply in enumerate(_replies(events), start=1)
    ]
    return history.execution.thinking_steps == thoughts[-PROJECTED:]


def _tokens_agree(history: History, events: Sequence[Event]) -> bool:
    spent = [event.usage for event in events if isinstance(event, ModelReplied | Compacted)]
    told = sum(usage.input_tokens for usage in spent), sum(usage.output_tokens for usage in spent)
    return (history.execution.tokens_in, history.execution.tokens_out) == told


def _plan_agrees(history: History, events: Sequence[Event]) -> bool:
    row = history.execution
    return (row.plan, row.phases, row.current_phase_index) == _told_plan(events)


def _told_plan(events: Sequence[Event]) -> tuple[Any, list[Any], int]:
    """Return plan, phases and current phase as the journal tells them; planning again begins anew."""
    newest_first = list(reversed(events))
    plan = next((event for event in newest_first if isinstance(event, Planned)), None)
    if plan is None:
        return None, [], 0
    current = sum(isinstance(event, PhaseAdvanced) for event in newest_first[: newest_first.index(plan)])
    is_completed = _told_outcome(events)[0] == "completed"
    phases = [
        {"name": name, "status": "done" if is_completed or at < current else "active" if at == current else "pending"}
        for at, name in enumerate(plan.phases)
    ]
    return {"goal": plan.goal, "phases": list(plan.phases)}, phases, current


def _outcome_agrees(history: History, events: Sequence[Event]) -> bool:
    row = history.execution
    return not events or (row.status, row.result, row.error) == _told_outcome(events)


def _told_outcome(events: Sequence[Event]) -> tuple[str, Any, str | None]:
    """Return status, result and error as the journal's end tells them."""
    match events[-1] if events else None:
        case ExecutionEnded(status="completed", text=text):
            return "completed", {"text": _in_a_column(text)}, None
        case ExecutionEnded(status=status, text=text):
            return status, None, _in_a_column(text)
        case _:
            return "without an end", None, None


def _calls_agree(history: History, events: Sequence[Event]) -> bool:
    intended = Counter(call.id for reply in _replies(events) for call in reply.calls)
    returned = {event.call_id for event in events if isinstance(event, ToolReturned)}
    return intended == Counter(row.tool_use_id for row in history.calls) and returned <= intended.keys()


def _in_a_column(words: str) -> str:
    """Return what a column can show of words that a step holds verbatim: no NUL, no half of a surrogate pair."""
    return words.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _replies(events: Sequence[Event]) -> list[ModelReplied]:
    return [event for event in events if isinstance(event, ModelReplied)]


HISTORY_RULES: Mapping[str, Callable[[History, Sequence[Event]], bool]] = {
    "a step's kind is not that of its body": _kinds_agree,
    "an ended execution shows other thoughts than its replies": _thoughts_agree,
    "an ended execution shows another plan than its journal": _plan_agrees,
    "an ended execution counts other tokens than its replies": _tokens_agree,
    "an ended execution shows another outcome than its end": _outcome_agrees,
    "a reply's calls have other rows than one each": _calls_agree,
}
"""A broken promise → whether an ended execution with these events keeps it; the others are in storage."""
