"""What a driver knows about the execution that it drives; nothing of it outlives the process."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from zoneinfo import ZoneInfo

from runtime.agents import Agent
from runtime.approvals import Permit
from runtime.decide import Limits, Spent
from runtime.errors import UnknownToolError
from runtime.events import CallApproved, Compacted, Event, ModelReplied, Planned, ToolCall, ToolReturned
from runtime.journal_port import Claim, Recorded, Scene, Signals
from runtime.labels import NOTHING_READ, Ask, Label, Refuse, label_of, verdict
from runtime.operation import Allowance, Operation
from runtime.requests import Transcript


@dataclass(kw_only=True)
class Running:
    """An execution under way."""

    claim: Claim
    agent: Agent
    scene: Scene
    zone: ZoneInfo
    tools: Mapping[str, Operation]
    """What the agent may call, by the name that the model uses, in the order of its requests."""
    limits: Limits
    signals: Signals = field(default_factory=Signals)
    events: list[Event] = field(default_factory=list[Event])
    """Of this execution."""
    transcript: Transcript = field(default_factory=Transcript)
    """Of the whole session."""
    label: Label = NOTHING_READ
    """Of everything that the session has read, what was summed up included."""
    label_of_reply: Label = NOTHING_READ
    """The same when the model wrote its last reply: its calls can hold no more than that."""
    next_seq: int = 0
    """The number of the next step."""
    tokens: int = 0
    cost_micros: int | None = 0
    began: float = field(default_factory=time.monotonic)

    def load(self, recorded: Sequence[Recorded]) -> None:
        """Take up the session as it is recorded."""
        self.transcript = Transcript(entry.event for entry in recorded)
        self.events = [entry.event for entry in recorded if entry.execution_id == self.claim.execution_id]
        self.label = self.label_of_reply = self.scene.inherited
        for entry in recorded:
            self._taint(entry.event, entry.label)
        self.tokens = self.claim.unsettled_tokens + sum(_tokens(event) for event in self.events)

    def note(self, *events: Event, labels: Sequence[Label] | None = None) -> None:
        """Take in what has just been recorded; without `labels` events have those that they say themselves."""
        for event, label in zip(events, labels or map(label_of, events), strict=True):
            self._taint(event, label)
        self.events.extend(events)
        self.transcript.add(*events)
        self.next_seq += len(events)
        self.tokens += sum(_tokens(event) for event in events)

    def _taint(self, event: Event, label: Label | None) -> None:
        if isinstance(event, ModelReplied):
            self.label_of_reply = self.label
        self.label = self.label.join(label or label_of(event))

    def pay(self, cost_micros: int | None) -> None:
        """Count what a model call cost; None: nobody knows."""
        known = self.cost_micros is not None and cost_micros is not None
        self.cost_micros = (self.cost_micros or 0) + (cost_micros or 0) if known else None

    @property
    def spent(self) -> Spent:
        """What the execution has used so far."""
        before_s = (self.claim.now - self.claim.started_at).total_seconds()
        unsettled = self.claim.unsettled_cost_micros
        return Spent(
            tokens=self.tokens,
            cost_micros=None if self.cost_micros is None else self.cost_micros + unsettled,
            seconds=before_s + time.monotonic() - self.began,
            context_tokens=self.transcript.context_tokens,
        )

    def allowance(self) -> Allowance:
        """Return what may be passed on to another agent: nothing that this one does not have."""
        limits, spent = self.limits, self.spent
        made = sum(isinstance(event, ToolReturned) for event in self.events)
        replies = sum(isinstance(event, ModelReplied) for event in self.events)
        left = replace(
            limits,
            iterations=max(limits.iterations - replies, 0),
            tokens=None if limits.tokens is None else max(limits.tokens - spent.tokens, 0),
            cost_micros=None if limits.cost_micros is None else max(limits.cost_micros - (spent.cost_micros or 0), 0),
            tool_calls=None if limits.tool_calls is None else max(limits.tool_calls - made - 1, 0),
            seconds=None if limits.seconds is None else max(limits.seconds - spent.seconds, 0),
        )
        return Allowance(tools=self.agent.tools, approvals=self.agent.approvals, limits=left)

    @property
    def is_planned(self) -> bool:
        """Whether there is a plan."""
        return any(isinstance(event, Planned) for event in self.events)

    def operation(self, call: ToolCall) -> Operation:
        """Return what the call names.

        Raises:
            UnknownToolError: the agent has no such tool.
        """
        try:
            return self.tools[call.name]
        except KeyError:
            raise UnknownToolError(call.name, list(self.tools)) from None

    def asks(self, call: ToolCall) -> str | None:
        """Tell why a person has to allow this call."""
        operation = self.tools.get(call.name)
        if operation is None:
            return None
        if call.name in self.agent.approvals:
            return f"the agent {self.agent.name!r} asks before each {call.name!r}"
        found = verdict(operation.tier, self.label_of_reply)
        return operation.asks or (found.reason if isinstance(found, Ask) else None)

    def refuses(self, call: ToolCall) -> str | None:
        """Tell why nobody can allow this call."""
        operation = self.tools.get(call.name)
        found = None if operation is None else verdict(operation.tier, self.label_of_reply)
        return found.reason if isinstance(found, Refuse) else None

    def permit(self, call: ToolCall) -> Permit | None:
        """Return the approval under which a call runs, if it needed one."""
        for event in self.events:
            if isinstance(event, CallApproved) and event.call_id == call.id:
                return Permit(approval_id=event.approval_id, call=call)
        return None


def _tokens(event: Event) -> int:
    return event.usage.total_tokens if isinstance(event, ModelReplied | Compacted) else 0
