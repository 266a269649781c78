"""What a driver knows about the execution that it drives; nothing of it outlives the process."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from runtime.agents import Agent
from runtime.approvals import Permit
from runtime.decide import Limits, Spent
from runtime.errors import UnknownToolError
from runtime.events import CallApproved, Compacted, Event, ModelReplied, Planned, ToolCall
from runtime.journal_port import Claim, Scene, Signals
from runtime.operation import Operation
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
    next_seq: int = 0
    """The number of the next step."""
    tokens: int = 0
    cost_micros: int | None = 0
    began: float = field(default_factory=time.monotonic)

    def load(self, history: list[Event], events: list[Event]) -> None:
        """Take up the session as it is recorded."""
        self.transcript = Transcript(history)
        self.events = events
        self.tokens = self.claim.unsettled_tokens + sum(_tokens(event) for event in events)

    def note(self, *events: Event) -> None:
        """Take in what has just been recorded."""
        self.events.extend(events)
        self.transcript.add(*events)
        self.next_seq += len(events)
        self.tokens += sum(_tokens(event) for event in events)

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
        return operation.asks

    def permit(self, call: ToolCall) -> Permit | None:
        """Return the approval under which a call runs, if it needed one."""
        for event in self.events:
            if isinstance(event, CallApproved) and event.call_id == call.id:
                return Permit(approval_id=event.approval_id, call=call)
        return None


def _tokens(event: Event) -> int:
    return event.usage.total_tokens if isinstance(event, ModelReplied | Compacted) else 0
