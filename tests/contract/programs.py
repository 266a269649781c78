"""Random programs of journal commands: small numbers that are read as commands on whatever there is by then.

The reading happens once, with the answers so far; what it gives is an `Op`, which runs in either world.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from runtime.approvals import Permit
from runtime.events import (
    CallWaits,
    Compacted,
    DefinitionChanged,
    Event,
    ExecutionEnded,
    ModelReplied,
    PhaseAdvanced,
    ToolCall,
    ToolReturned,
    Usage,
    UserSpoke,
    WaitsFor,
)
from runtime.journal_port import Claim, Granted, Settled, ToolOutcome
from runtime.operation import Audited
from runtime.testing import call_reply
from runtime.testing.virtual_loop import EPOCH
from tests.contract.worlds import Op, World, end, settle

T = TypeVar("T")

OWNERS = ("red", "green", "blue")

STORIES: tuple[tuple[str, ...], ...] = (
    ("claim", "begin", "reply"),
    ("claim", "begin", "reply"),
    ("pass_time", "claim", "reply"),
    ("pass_time", "claim", "begin", "reply"),
    ("reply", "start_call", "t2"),
    ("ask", "decide", "arrivals", "start_call", "t2"),
    ("ask", "decide", "arrivals", "t2"),
    ("ask", "hold", "pass_time", "decide", "claim", "arrivals", "t2"),
    ("ask", "pass_time", "expire", "arrivals", "start_call"),
    ("t2_waits", "hold", "answer", "claim", "arrivals", "t2"),
    ("t2_waits", "answer", "arrivals", "hold"),
    ("pause", "hold_paused", "resume", "claim"),
    ("renew", "pass_time", "renew", "claim"),
    ("claim_unheard", "renew", "pass_time", "claim"),
    ("pass_time", "claim_unheard", "renew", "pass_time", "claim"),
    ("release", "claim", "claim"),
    ("cancel", "renew", "claim"),
    ("reserve", "release", "claim", "summary"),
    ("end", "claim", "claim"),
    ("queue", "claim"),
    ("forget", "renew", "pass_time"),
    ("read", "looking"),
    ("note",),
    ("pass_time",),
    ("t2",),
    ("start_call",),
    ("hold",),
)
"""What belongs together: commands about the same things, so that a random program gets somewhere."""

COMMANDS = frozenset(name for story in STORIES for name in story)

PAUSES_S = (16, 1, 6, 16, 40, 20, 90_000, 3)
"""Less and more than a lease, and more than the time that a person has to answer."""

Step = tuple[str, int, int, int]
"""A command, and three numbers from 0 to 7 that choose what it is about."""


def told_in_full(chapters: Sequence[tuple[tuple[str, ...], int, int, int]]) -> list[Step]:
    """Return the steps of stories that share their numbers."""
    return [(name, a, b, c) for story, a, b, c in chapters for name in story]


NEWEST_MOSTLY = (0, 0, 0, 0, 0, 1, 1, 2)
"""A number → how many newer ones are passed over."""


def _newest(found: Sequence[T], number: int) -> T:
    return found[-1 - min(NEWEST_MOSTLY[number], len(found) - 1)]


@dataclass
class Told:
    """What a program knows by now: the answers that it has been given."""

    now_s: int = 0
    executions: list[int] = field(default_factory=list[int])
    claims: list[tuple[str, Claim]] = field(default_factory=list[tuple[str, Claim]])
    """With their owners, the newest last; whoever has lost one does not know that."""
    calls: dict[int, list[ToolCall]] = field(default_factory=dict[int, list[ToolCall]])
    waits: list[tuple[int, CallWaits]] = field(default_factory=list[tuple[int, CallWaits]])
    permits: dict[str, Permit] = field(default_factory=dict[str, Permit])
    replies: int = 0

    def claim(self, number: int) -> tuple[str, Claim]:
        """Return one of the newest claims, whether it is current or not."""
        return _newest(self.claims, number)

    def call(self, claim: Claim, number: int) -> ToolCall:
        """Return one of the newest calls of an execution; one that nobody has recorded when there is none."""
        calls = self.calls.get(claim.execution_id, [])
        return calls[-1 - number % min(len(calls), 4)] if calls else ToolCall(id="none", name="none", arguments={})

    def hear(self, step: Step, answer: Any, owner: str | None) -> None:
        """Take in an answer."""
        match answer:
            case Claim() if owner is not None:
                self.claims.append((owner, answer))
            case CallWaits():
                _, claim = self.claim(step[1])
                self.waits.append((claim.execution_id, answer))
            case dict():
                self._hear_arrivals(answer)  # pyright: ignore[reportUnknownArgumentType] -- arrivals by call
            case _:
                pass

    def _hear_arrivals(self, arrivals: dict[str, Any]) -> None:
        calls = {call.id: call for calls in self.calls.values() for call in calls}
        for call_id, arrival in arrivals.items():
            if isinstance(arrival, Granted):
                self.permits[call_id] = Permit(approval_id=arrival.approval_id, call=calls[call_id])


async def set_up(world: World) -> list[int]:
    """Make two sessions, one forked from the other, with executions that wait for each other."""
    first = await world.add_session()
    second = await world.add_session(one_task=True, parent=(first, 2))
    one = await world.queue(first, limits={"seconds": 60, "tokens": 500})
    return [one, await world.queue(first), await world.queue(second, parent_execution_id=one)]


def read_step(step: Step, told: Told) -> Op | None:
    """Return what a step means by now; None: nothing, because what it is about does not exist."""
    name, a, b, c = step
    if name in _FREE_STANDING:
        return _FREE_STANDING[name](told, a, b, c)
    if not told.claims:
        return None
    owner, claim = told.claim(a)
    return _OF_A_CLAIM[name](told, owner, claim, b, c)


def owner_of(step: Step) -> str | None:
    """Return who claims, when the step is a claim."""
    return OWNERS[step[1] % len(OWNERS)] if step[0] == "claim" else None


# --- commands that need no claim ---


def _claim(told: Told, a: int, b: int, c: int) -> Op:
    owner, execution_id = OWNERS[a % len(OWNERS)], told.executions[b % len(told.executions)]
    del c
    return lambda world: world.journal(owner).claim(1, execution_id)


def _claim_unheard(told: Told, a: int, b: int, c: int) -> Op:
    """Claim, and never hear that it has worked: the answer to the commit was lost."""
    owner, execution_id = OWNERS[a % len(OWNERS)], told.executions[b % len(told.executions)]
    del c

    async def run(world: World) -> bool:
        return await world.journal(owner, is_forgetful=True).claim(1, execution_id) is not None

    return run


def _renew(told: Told, a: int, b: int, c: int) -> Op:
    del told, b, c
    return lambda world: world.journal(OWNERS[a % len(OWNERS)]).renew_all()


def _pass_time(told: Told, a: int, b: int, c: int) -> Op:
    del b, c
    told.now_s += PAUSES_S[a % len(PAUSES_S)]
    instant = EPOCH + timedelta(seconds=told.now_s)
    return lambda world: world.at(instant)


def _queue(told: Told, a: int, b: int, c: int) -> Op:
    del b, c
    told.executions.append(len(told.executions) + 1)
    return lambda world: world.queue(1 + a % 2)


def _on_an_execution(told: Told, a: int, b: int, c: int, *, name: str) -> Op:
    del a, c
    execution_id = told.executions[b % len(told.executions)]
    return lambda world: getattr(world, name)(execution_id)


def _decide(told: Told, a: int, b: int, c: int) -> Op | None:
    approvals = [wait.waits_for.id for _, wait in told.waits if wait.waits_for.kind == "approval"]
    if not approvals:
        return None
    approval_id = _newest(approvals, a)
    return lambda world: world.decide(approval_id, grants=b % 3 != 0, note="no" if c % 2 else None)


def _answer(told: Told, a: int, b: int, c: int) -> Op | None:
    waits = [(execution_id, wait) for execution_id, wait in told.waits if wait.waits_for.kind == "answer"]
    if not waits:
        return None
    execution_id, wait = _newest(waits, a)
    del b, c
    return lambda world: world.answer(execution_id, wait.call_id, "42")


def _expire(told: Told, a: int, b: int, c: int) -> Op:
    del told, a, b, c
    return lambda world: world.expire()


_FREE_STANDING = {
    "claim": _claim,
    "claim_unheard": _claim_unheard,
    "renew": _renew,
    "pass_time": _pass_time,
    "queue": _queue,
    "cancel": partial(_on_an_execution, name="cancel"),
    "pause": partial(_on_an_execution, name="pause"),
    "resume": partial(_on_an_execution, name="resume"),
    "decide": _decide,
    "answer": _answer,
    "expire": _expire,
}


# --- commands under a claim ---


def _begin(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del told, c
    said = UserSpoke(text=f"task {b}")
    return lambda world: world.journal(owner).begin(claim, said, definition_hash=f"hash {b}")


def _reply(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    told.replies += 1
    tools = [(f"tool {at}", {"n": at}) for at in range(b % 4)]
    usage = Usage(input_tokens=100 + b, output_tokens=10 + c)
    reply = call_reply(*tools, text="é \x00", tag=f"{told.replies}-", usage=usage)
    # Kept even if the reply is refused: then these are calls that nobody has recorded.
    told.calls[claim.execution_id] = [*told.calls.get(claim.execution_id, []), *reply.calls]
    cost, goal = (None if c == 7 else 10 * c), ("goal" if c % 2 else None)
    return lambda world: world.journal(owner).record_reply(claim, reply, cost=cost, goal=goal, said=bool(b % 2))


def settled(call: ToolCall, state: ToolOutcome = "done", *, blob: str | None = None) -> Settled:
    """Return what a commit says about a call that is over."""
    is_error = state != "done"
    event = ToolReturned(call_id=call.id, name=call.name, content=f"{state} \x00", is_error=is_error)
    result = None if is_error else {"state": state}
    return Settled(call=call, event=event, state=state, result=result, duration_ms=7, blob=blob)


def _t2(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    states: Sequence[ToolOutcome] = ("done", "done", "error", "unknown", "cancelled")
    calls = [told.call(claim, b + at) for at in range(1 + (c == 3))]
    results = [settled(call, states[c % len(states)], blob="long" if c == 5 else None) for call in calls]
    audited = Audited(action="act", door="agent", entity_id=None, execution_id=claim.execution_id, arguments=("n",))
    facts = [PhaseAdvanced(index=1, name="next")] if c == 4 else []
    permit = told.permits.get(calls[0].id)
    keeps = {f"{claim.execution_id}/{call.id}": owner for call in calls}
    return partial(
        _settled_by,
        owner=owner,
        claim=claim,
        settled=results,
        facts=facts,
        audits=[audited],
        permit=permit,
        keeps=keeps,
    )


async def _settled_by(world: World, **arguments: Any) -> Any:
    return await settle(world, **arguments)


def _t2_waits(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    call = told.call(claim, b)
    target = WaitsFor(kind="execution", id=3) if c % 2 else WaitsFor(kind="answer", id=1 + c)
    waits = CallWaits(call_id=call.id, waits_for=target)

    async def run(world: World) -> CallWaits:
        await settle(world, owner, claim, [Settled(call=call, event=waits, state="started")])
        return waits

    return run


def _start_call(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del c
    call = told.call(claim, b)
    permit = told.permits.get(call.id)
    return lambda world: world.journal(owner).start_call(claim, call, f"key {call.id}", permit=permit)


def _ask(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del c
    call = told.call(claim, b)
    return lambda world: world.journal(owner).ask_approval(claim, call, reason="because")


def _note(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del told
    changed = DefinitionChanged(definition_hash=f"hash {b}")
    return lambda world: world.journal(owner).note(
        claim, changed, definition_hash=changed.definition_hash if c % 2 else None
    )


def _reserve(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del told
    return lambda world: world.journal(owner).reserve(claim, tokens=b, cost_micros=c)


def _summary(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del told
    compacted = Compacted(steps=1, summary="short", model="m", usage=Usage(input_tokens=b, output_tokens=c))
    return lambda world: world.journal(owner).record_summary(claim, compacted, cost=c)


def _waits(told: Told, claim: Claim, b: int) -> list[CallWaits]:
    mine = [wait for execution_id, wait in told.waits if execution_id == claim.execution_id]
    return mine[-1 - b % 2 :]


def _arrivals(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op | None:
    del c
    waits = _waits(told, claim, b)
    return (lambda world: world.journal(owner).arrivals(claim, waits)) if waits else None


def _hold(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op | None:
    waits = _waits(told, claim, b)
    events: list[Event] = [ModelReplied(content=({"type": "text", "text": f"{c}"},), stop_reason="end_turn", model="m")]
    return (lambda world: world.journal(owner).hold(claim, waits, events)) if waits else None


def _hold_paused(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del told, b, c
    return lambda world: world.journal(owner).hold(claim, (), ())


def _end(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del told
    ended = ExecutionEnded(status=("completed", "failed", "cancelled")[b % 3], text=f"end {c}")
    keeps = {f"end {claim.execution_id}/{claim.epoch}": owner}
    return lambda world: end(world, owner, claim, ended, keeps=keeps)


def _release(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del told
    return lambda world: world.journal(owner).release(claim, delay_s=(0, 2.5, 20)[b % 3], blames=bool(c % 2))


def _forget(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del told, b, c

    async def run(world: World) -> None:
        world.journal(owner).forget(claim)

    return run


def _read(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del told, b, c
    return lambda world: world.journal(owner).read(claim)


def _looking(told: Told, owner: str, claim: Claim, b: int, c: int) -> Op:
    del told, b, c

    async def run(world: World) -> Any:
        async with world.journal(owner).looking(claim):
            return await world.journal(owner).scene(claim)

    return run


_OF_A_CLAIM = {
    "begin": _begin,
    "reply": _reply,
    "t2": _t2,
    "t2_waits": _t2_waits,
    "start_call": _start_call,
    "ask": _ask,
    "note": _note,
    "reserve": _reserve,
    "summary": _summary,
    "arrivals": _arrivals,
    "hold": _hold,
    "hold_paused": _hold_paused,
    "end": _end,
    "release": _release,
    "forget": _forget,
    "read": _read,
    "looking": _looking,
}
