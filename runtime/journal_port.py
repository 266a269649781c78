"""What the driver needs of a journal, and the values that cross that seam. Pure.

The real one is `runtime.journal.PostgresJournal`; `runtime.testing.MemoryJournal` answers every command the same way,
which is what makes thousands of simulated interleavings admissible.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from runtime.approvals import Permit
from runtime.events import CallWaits, Compacted, Event, ExecutionEnded, ModelReplied, ToolCall, ToolReturned, UserSpoke
from runtime.labels import NOTHING_READ, Label, label_of
from runtime.operation import Audited, Conversation
from runtime.ports import Json

ToolOutcome = Literal["started", "done", "error", "unknown", "cancelled", "awaiting_approval"]
"""What a settled call's row says; `started` and `awaiting_approval` while it waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to drive one execution, as long as the session's epoch is ours."""

    user_id: int
    session_id: int
    execution_id: int
    epoch: int
    agent_name: str
    task: str
    is_new: bool
    """No event of this execution is recorded yet."""
    attempt: int
    """How many workers have taken it up without giving it back, this one included."""
    max_iterations: int
    now: datetime
    """The database's clock at the claim."""
    next_seq: int
    """The number of the session's next step."""
    started_at: datetime
    """Of the first claim."""
    cancel_requested: bool
    """Somebody wants it stopped; nothing more is to be asked of a model."""
    limits: Json = field(default_factory=dict[str, Any])
    """Of the execution, over those of its session."""
    cost_micros: int | None = 0
    unsettled_tokens: int = 0
    unsettled_cost_micros: int = 0
    parent_execution_id: int | None = None
    """The execution that waits for this one."""
    definition_hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where an execution takes place."""

    zone: str | None
    """IANA name; None: the user has not said."""
    conversation: Conversation | None = None
    prompt: str = ""
    """What the channel adds to the agent's instructions."""
    inherited: Label = NOTHING_READ
    """Of what the executions had read that delegated this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event of a session, and the execution it belongs to."""

    execution_id: int
    event: Event
    label: Label | None = None
    """As it was recorded; None: only what the event says about itself is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What people want of an execution, as a commit has seen it."""

    cancel: bool = False
    pause: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a commit says about one call: its result, or that it waits for one."""

    call: ToolCall
    event: ToolReturned | CallWaits
    state: ToolOutcome
    result: Any = None
    duration_ms: int | None = None
    blob: str | None = None
    """The whole result as JSON, when it is too large for the row."""
    label: Label | None = None
    """Of what the result tells; None: what the event says about itself."""


class ToolCommit:
    """What a tool's transaction will record; the driver settles it before the block ends."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.settled: list[Settled] = []
        self.facts: list[Event] = []
        """Further events, after those of the calls."""
        self.audits: list[Audited] = []
        self.signals = Signals()
        """Filled in by the commit."""

    @property
    def db(self) -> Any:
        """What the tool works with: its effect commits together with its result."""
        return self._db

    @property
    def events(self) -> list[Event]:
        """Everything that the commit appends, in order."""
        return [*(settled.event for settled in self.settled), *self.facts]

    @property
    def labels(self) -> list[Label]:
        """The label of each of them."""
        settled = [one.label or label_of(one.event) for one in self.settled]
        return [*settled, *map(label_of, self.facts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A person lets a call run."""

    approval_id: int
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A call that waited has its result."""

    text: str
    is_error: bool = False
    state: ToolOutcome = "done"
    result: Any = None
    label: Label = NOTHING_READ
    """Of what the answer was made from."""


Arrival = Granted | Answered


class Journal(Protocol):
    """The durable side of the loop. Every write compares the claim's epoch: see `LeaseLostError`."""

    async def claim(self, user_id: int, execution_id: int) -> Claim | None:
        """Take the lease of an execution's session.

        None: the execution is over, waits, is paused, is not yet due, is not the next one of its session, or somebody
        else drives it. One that is to be cancelled is not held back by waiting.
        """
        ...

    async def read(self, claim: Claim) -> list[Recorded]:
        """Return the whole history of the claimed session, that of the sessions it was forked from first."""
        ...

    async def scene(self, claim: Claim) -> Scene:
        """Return where the execution takes place."""
        ...

    async def begin(
        self, claim: Claim, event: UserSpoke, *, definition_hash: str, seconds: float | None = None
    ) -> None:
        """Record what the execution is about and show it as planning.

        `seconds`: how long it may take from its first claim, waiting included; after that, waiting holds it no longer.
        """
        ...

    async def note(self, claim: Claim, *events: Event, definition_hash: str | None = None) -> None:
        """Append facts."""
        ...

    async def reserve(self, claim: Claim, *, tokens: int, cost_micros: int) -> None:
        """Set aside what the next model call may cost at most."""
        ...

    async def record_reply(
        self, claim: Claim, reply: ModelReplied, *, cost: int | None, goal: str | None, said: bool = False
    ) -> Signals:
        """T1: record a reply, every call it intends, its usage and a longer lease.

        `goal`: the execution has no plan, so it gets the plan of one phase. `said`: live text of it was published.
        """
        ...

    async def record_summary(self, claim: Claim, compacted: Compacted, *, cost: int | None) -> None:
        """Record a summary and what it cost."""
        ...

    def looking(self, claim: Claim) -> AbstractAsyncContextManager[Any]:
        """Open a transaction that can only read, for a tool without an effect."""
        ...

    def tool_commit(self, claim: Claim, *, permit: Permit | None = None) -> AbstractAsyncContextManager[ToolCommit]:
        """T2: open the transaction in which tools' effects and their results commit together.

        Raises:
            ApprovalGoneError: the approval is used up, or its time is over.
        """
        ...

    async def start_call(self, claim: Claim, call: ToolCall, key: str, *, permit: Permit | None = None) -> bool:
        """Record that an external tool is about to act; False: a worker that is gone had recorded that before.

        Raises:
            ApprovalGoneError: the approval is used up, or its time is over.
        """
        ...

    async def ask_approval(self, claim: Claim, call: ToolCall, *, reason: str) -> CallWaits:
        """Put a call before a person, and record that it waits for the answer."""
        ...

    async def arrivals(self, claim: Claim, waits: Sequence[CallWaits]) -> Mapping[str, Arrival]:
        """Return what has come for calls that wait, by call id."""
        ...

    async def hold(self, claim: Claim, waits: Sequence[CallWaits], events: Sequence[Event]) -> bool:
        """Let go of an execution that waits, or (without `waits`) that a person has paused.

        False: an answer has come in the same moment, and the claim is still ours.
        """
        ...

    def ending(self, claim: Claim, ended: ExecutionEnded, events: Sequence[Event]) -> AbstractAsyncContextManager[Any]:
        """End the execution: status, projections and whatever the caller adds in the block commit together."""
        ...

    async def release(self, claim: Claim, *, delay_s: float = 0, blames: bool = False) -> None:
        """Give the session back unfinished; it is taken up again by anybody, not before `delay_s` seconds.

        `blames`: this attempt counts as one that the execution has spoilt; enough of them park it.
        """
        ...

    def forget(self, claim: Claim) -> None:
        """Renew this claim no more: nobody here drives it."""
        ...

    async def renew_all(self) -> frozenset[int]:
        """Prolong every lease of this process; return the executions among them that are to be cancelled."""
        ...
