"""Between a worker and its journal: the way takes time, answers get lost, and the dead are not heard."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from runtime.approvals import Permit
from runtime.events import CallWaits, Compacted, Event, ExecutionEnded, ModelReplied, ToolCall, UserSpoke
from runtime.journal_port import Arrival, Claim, Recorded, Scene, Signals, ToolCommit
from runtime.testing import MemoryDb, MemoryJournal
from tests.contract.worlds import REFUSALS, Op, World, end, settle

if TYPE_CHECKING:
    from tests.simulation.town import Worker

LOST = 0.003
"""How often a command does not arrive, and how often its answer does not."""


WRITES = frozenset({"begin", "note", "reserve", "record_reply", "record_summary", "start_call", "ask_approval", "hold"})
"""Commands that change something under the fence, beside the two that are blocks."""


class LostAnswerError(Exception):
    """The connection broke: nobody here knows whether the command took effect."""


class Gate:
    """A `Journal` as a worker reaches it."""

    def __init__(self, inner: MemoryJournal, worker: "Worker") -> None:
        self._inner = inner
        self._worker = worker
        self.held: set[tuple[int, int]] = set()
        """Session and epoch of what the worker knows that it drives."""

    async def claim(self, user_id: int, execution_id: int) -> Claim | None:
        claim: Claim | None = await self._arrive("claim", user_id, execution_id)
        try:
            await self._hear()
        except LostAnswerError:
            if claim is not None:
                self.forget(claim)  # this process does not know that it has it
            raise
        if claim is not None:
            self.held.add((claim.session_id, claim.epoch))
        return claim

    async def read(self, claim: Claim) -> list[Recorded]:
        return await self._do("read", claim)

    async def scene(self, claim: Claim) -> Scene:
        return await self._do("scene", claim)

    async def begin(
        self, claim: Claim, event: UserSpoke, *, definition_hash: str, seconds: float | None = None
    ) -> None:
        await self._do("begin", claim, event, definition_hash=definition_hash, seconds=seconds)

    async def note(self, claim: Claim, *events: Event, definition_hash: str | None = None) -> None:
        await self._do("note", claim, *events, definition_hash=definition_hash)

    async def reserve(self, claim: Claim, *, tokens: int, cost_micros: int) -> None:
        await self._do("reserve", claim, tokens=tokens, cost_micros=cost_micros)

    async def record_reply(
        self, claim: Claim, reply: ModelReplied, *, cost: int | None, goal: str | None, said: bool = False
    ) -> Signals:
        return await self._do("record_reply", claim, reply, cost=cost, goal=goal, said=said)

    async def record_summary(self, claim: Claim, compacted: Compacted, *, cost: int | None) -> None:
        await self._do("record_summary", claim, compacted, cost=cost)

    async def start_call(self, claim: Claim, call: ToolCall, key: str, *, permit: Permit | None = None) -> bool:
        return await self._do("start_call", claim, call, key, permit=permit)

    async def ask_approval(self, claim: Claim, call: ToolCall, *, reason: str) -> CallWaits:
        return await self._do("ask_approval", claim, call, reason=reason)

    async def arrivals(self, claim: Claim, waits: Sequence[CallWaits]) -> Mapping[str, Arrival]:
        return await self._do("arrivals", claim, waits)

    async def hold(self, claim: Claim, waits: Sequence[CallWaits], events: Sequence[Event]) -> bool:
        return await self._do("hold", claim, waits, tuple(events))

    async def release(self, claim: Claim, *, delay_s: float = 0, blames: bool = False) -> None:
        await self._do("release", claim, delay_s=delay_s, blames=blames)

    async def renew_all(self) -> frozenset[int]:
        return await self._do("renew_all")

    def forget(self, claim: Claim) -> None:
        self._inner.forget(claim)
        self.held.discard((claim.session_id, claim.epoch))
        self._record("forget", partial(_forget, owner=self._worker.name, claim=claim), None)

    @asynccontextmanager
    async def looking(self, claim: Claim) -> AsyncGenerator[MemoryDb]:
        await self._worker.turn()
        async with self._inner.looking(claim) as db:
            yield db

    @asynccontextmanager
    async def tool_commit(self, claim: Claim, *, permit: Permit | None = None) -> AsyncGenerator[ToolCommit]:
        await self._go()
        opened_at, said = self._worker.town.store.now(), dict[str, Any]()
        try:
            async with self._inner.tool_commit(claim, permit=permit) as commit:
                opened_at = self._worker.town.store.now()
                yield commit
                await self._go()
                said |= {"settled": [*commit.settled], "facts": [*commit.facts], "audits": [*commit.audits]}
                said["keeps"] = {key: str(value) for key, value in commit.db.staged.items()}
        except REFUSALS as refusal:
            self._record("tool_commit", self._settling(claim, permit, said), type(refusal), opened_at)
            raise
        self._record("tool_commit", self._settling(claim, permit, said), commit.signals, opened_at)
        self._see_that_it_may("tool_commit", claim)
        await self._hear()

    def _settling(self, claim: Claim, permit: Permit | None, said: dict[str, Any]) -> Op:
        return partial(_settle, owner=self._worker.name, claim=claim, permit=permit, **said)

    @asynccontextmanager
    async def ending(self, claim: Claim, ended: ExecutionEnded, events: Sequence[Event]) -> AsyncGenerator[MemoryDb]:
        await self._go()
        opened_at, keeps = self._worker.town.store.now(), dict[str, str]()
        op = partial(_end, owner=self._worker.name, claim=claim, ended=ended, events=tuple(events), keeps=keeps)
        try:
            async with self._inner.ending(claim, ended, events) as db:
                opened_at = self._worker.town.store.now()
                yield db
                keeps.update({key: str(value) for key, value in db.staged.items()})
        except REFUSALS as refusal:
            self._record("ending", op, type(refusal), opened_at)
            raise
        self._record("ending", op, None, opened_at)
        self._see_that_it_may("ending", claim)
        await self._hear()

    # --- the way there and back ---

    async def _do(self, name: str, *arguments: Any, **options: Any) -> Any:
        answer = await self._arrive(name, *arguments, **options)
        await self._hear()
        return answer

    async def _arrive(self, name: str, *arguments: Any, **options: Any) -> Any:
        await self._go()
        op = partial(_command, owner=self._worker.name, name=name, arguments=arguments, options=options)
        try:
            answer = await getattr(self._inner, name)(*arguments, **options)
        except REFUSALS as refusal:
            self._record(name, op, type(refusal))
            raise
        self._record(name, op, answer)
        if name in WRITES and not (name == "hold" and answer is False):
            self._see_that_it_may(name, arguments[0])
        return answer

    def _see_that_it_may(self, name: str, claim: Claim) -> None:
        """Look whether the one who has just written still drives the session."""
        town = self._worker.town
        epoch = town.store.sessions[claim.session_id].lease_epoch
        if epoch != claim.epoch:
            town.broken.append(f"{name} was written under epoch {claim.epoch} although {epoch} is current")

    async def _go(self) -> None:
        await self._worker.turn()
        if self._worker.is_dead:
            await anyio.sleep_forever()  # until whoever waits for it gives up
        self._lose()

    async def _hear(self) -> None:
        await self._worker.turn()
        self._lose()

    def _lose(self) -> None:
        if self._worker.town.chance.random() < LOST:
            raise LostAnswerError

    def _record(self, name: str, op: Op, answer: Any, at: datetime | None = None) -> None:
        self._worker.town.record(self._worker.name, name, op, answer, at)


async def _command(world: World, *, owner: str, name: str, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    return await getattr(world.journal(owner), name)(*arguments, **options)


async def _settle(world: World, **said: Any) -> Signals:
    return await settle(world, **said)


async def _end(world: World, **said: Any) -> None:
    await end(world, **said)


async def _forget(world: World, *, owner: str, claim: Claim) -> None:
    world.journal(owner).forget(claim)
