"""What has happened in a session: append-only facts, one agentSteps row each.

Pure data. Above: `decide` reads these, the journal stores them. A stored `kind` is never renamed; a change of meaning
is a new kind.
"""

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

    @property
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


Event = Annotated[
    UserSpoke | ModelReplied | ToolReturned | Planned | PhaseAdvanced | ExecutionEnded,
    Field(discriminator="kind"),
]

event_adapter: TypeAdapter[Event] = TypeAdapter(Event)
"""Parses a stored body back into its event."""
