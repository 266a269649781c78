"""What the driver is to do next: the decisions that `decide` returns.

Pure data. A new step does not type-check until every `match` handles it.
"""

from dataclasses import dataclass

from runtime.events import CallWaits, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class CallModel:
    """Ask the model for the next reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTools:
    """Run these calls, each of which has no result yet."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskApproval:
    """Ask a person whether this call may run."""

    call: ToolCall
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Let go of the execution until one of these calls has its answer."""

    waits: tuple[CallWaits, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compact:
    """Sum up what no longer fits the model's window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """End the execution as completed with this text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """End the execution as failed for this reason."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End the execution as cancelled for this reason."""

    reason: str


Step = CallModel | RunTools | AskApproval | Wait | Compact | Finish | GiveUp | Stop
