"""What has happened in a session: append-only facts, one agentSteps row each.

Pure data. Above: `decide` reads these, the journal stores them. A stored `kind` is never renamed; a change of meaning
is a new kind.
"""

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Fact(BaseModel):
    """Base of the events: immutable and strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Usage(Fact):
    """Tokens of one model call, as the provider counts them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Everything that was read and written, cached or not."""
        read = self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens
        return read + self.output_tokens


class ToolCall(Fact):
    """The model's request to run one tool."""

    id: str
    name: str
    arguments: dict[str, Any]


class UserSpoke(Fact):
    """Somebody said something to the agent."""

    kind: Literal["user"] = "user"
    text: str
    context: str = ""
    """What the agent should know beside the words (clock, participant, time zone); never in the system prompt,
    because a clock there would spoil the provider's prompt cache."""
    origin: Literal["participant", "staff", "system"] = "staff"


class ModelReplied(Fact):
    """The model answered; `content` is verbatim, because thinking blocks must go back unchanged."""

    kind: Literal["assistant"] = "assistant"
    content: tuple[dict[str, Any], ...]
    stop_reason: str
    model: str
    usage: Usage = Usage()

    @property
    def text(self) -> str:
        """The words of the reply, without thinking and calls."""
        return "".join(block["text"] for block in self.content if block["type"] == "text").strip()

    @property
    def thinking(self) -> str:
        """The model's readable reasoning, empty when it gave none."""
        return "\n".join(block["thinking"] for block in self.content if block["type"] == "thinking").strip()

    @cached_property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls, in the model's order."""
        return tuple(
            ToolCall(id=block["id"], name=block["name"], arguments=block["input"])
            for block in self.content
            if block["type"] == "tool_use"
        )


class ToolReturned(Fact):
    """A tool call has its one result."""

    kind: Literal["tool_result"] = "tool_result"
    call_id: str
    name: str
    content: str
    is_error: bool = False


class Planned(Fact):
    """The execution has a plan; written by the `plan` tool, or as the one-phase plan when the model did not plan."""

    kind: Literal["plan"] = "plan"
    goal: str
    phases: tuple[str, ...]


class PhaseAdvanced(Fact):
    """The execution moved to the phase with this index (from 0)."""

    kind: Literal["phase"] = "phase"
    index: int
    name: str


class ExecutionEnded(Fact):
    """The execution reached a terminal status."""

    kind: Literal["control"] = "control"
    status: Literal["completed", "failed", "cancelled"]
    text: str


class WaitsFor(Fact):
    """What a call waits for: a person's word on it, a person's answer, or another execution; `id` names the row."""

    kind: Literal["approval", "answer", "execution"]
    id: int


class CallWaits(Fact):
    """A call has no result yet, and nobody needs to do anything until its answer is there."""

    kind: Literal["system"] = "system"
    what: Literal["call_waits"] = "call_waits"
    call_id: str
    waits_for: WaitsFor


class CallApproved(Fact):
    """A person allowed one call; it may run once."""

    kind: Literal["system"] = "system"
    what: Literal["call_approved"] = "call_approved"
    call_id: str
    approval_id: int
    by: str


class DefinitionChanged(Fact):
    """From here on the agent has other instructions, another model or other tools than it began with."""

    kind: Literal["system"] = "system"
    what: Literal["definition_changed"] = "definition_changed"
    definition_hash: str


class Compacted(Fact):
    """The first `steps` steps of the session, as it is read, are told to the model as a summary; the rows stay."""

    kind: Literal["compaction"] = "compaction"
    steps: int
    summary: str
    model: str
    usage: Usage = Usage()


Noted = Annotated[CallWaits | CallApproved | DefinitionChanged, Field(discriminator="what")]

Event = Annotated[
    UserSpoke | ModelReplied | ToolReturned | Planned | PhaseAdvanced | Noted | Compacted | ExecutionEnded,
    Field(discriminator="kind"),
]

event_adapter: TypeAdapter[Event] = TypeAdapter(Event)
"""Parses a stored body back into its event."""
