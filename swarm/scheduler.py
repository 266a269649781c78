"""The scheduler: one per swarm, the only writer of its claims and results.

Submissions, beginnings and ends arrive in an inbox. Each round takes all that have arrived, decides (`swarm.decide`),
writes everything in one transaction under the fence, and only then tells anybody: an attempt starts after its claim is
durable, and a task's result is known after it is. State in memory mirrors the rows; nobody else writes them, because
the fence refuses it.
"""

import bisect
import hashlib
import logging
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, assert_never

import anyio
from anyio.abc import TaskGroup
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncSession

from storage.ids import new_id
from storage.models.swarm import (
    AgentStatus,
    AgentStrategy,
    QueenMode,
    SwarmPriority,
    SwarmStatus,
    SwarmTaskStatus,
)
from storage.queries import swarm as rows
from storage.tenancy import Database
from swarm import decide
from swarm.agents import Ctx, Definition
from swarm.attempts import Attempt, Completed, Faulted, Outcome, Runner, Stopped
from swarm.blackboard import Memory
from swarm.calls import Input, artefacts
from swarm.errors import AttemptError, SchedulerLostError, SubmitError, TaskCancelled, TaskFailed
from swarm.tasks import Failure, Task

logger = logging.getLogger(__name__)

RENEW_EVERY_S = 5
"""A third of the lease."""

CLOSE_WITHIN_S = 30
"""How long the last transaction may take, cancelled or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One agent of the swarm."""

    id: str
    name: str
    definition: Definition


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was submitted."""

    task_id: str
    description: str
    given: Input
    """For functions: without the results that it comes after."""
    text: str | None
    """What models are asked; None: they are given the arguments by name."""
    types: frozenset[str]
    needs: frozenset[str]
    kind: str
    priority: SwarmPriority
    max_attempts: int
    after: tuple[str, ...]
    output: TypeAdapter[Any] | None
    """What the result must fit; None: what the agent says."""


@dataclass(eq=False, slots=True, kw_only=True)
class _Work:
    """A task and how far it is."""

    order: Order
    task: Task[Any]
    seq: int
    status: SwarmTaskStatus = "pending"
    waits_for: set[str] = field(default_factory=set[str])
    attempts: int = 0
    errors: list[AttemptError] = field(default_factory=list[AttemptError])
    tried: frozenset[str] = frozenset()
    tried_types: frozenset[str] = frozenset()
    running: Attempt | None = None
    outcome: Completed | None = None

    def move(self, status: SwarmTaskStatus) -> None:
        self.status = decide.task_becomes(self.status, status)

    def view(self) -> decide.TaskView:
        return decide.TaskView(
            id=self.order.task_id,
            types=self.order.types,
            needs=self.order.needs,
            pri=decide.PRI[self.order.priority],
            seq=self.seq,
            tried=self.tried,
            tried_types=self.tried_types,
        )


@dataclass(eq=False, slots=True, kw_only=True)
class _Seat:
    """A member and what it does."""

    member: Member
    is_queen: bool
    status: AgentStatus = "idle"
    taken: int = 0

    def move(self, status: AgentStatus) -> None:
        self.status = decide.agent_becomes(self.status, status)

    def view(self) -> decide.MemberView:
        return decide.MemberView(
            id=self.member.id,
            agent_type=self.member.definition.name,
            capabilities=self.member.definition.capabilities,
            is_idle=self.status == "idle",
            is_queen=self.is_queen,
            taken=self.taken,
        )


@dataclass(frozen=True, slots=True)
class _Submitted:
    work: _Work


@dataclass(frozen=True, slots=True)
class _Began:
    work: _Work
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class _Finished:
    work: _Work
    attempt: Attempt
    seat: _Seat
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _Cancelled:
    work: _Work


_Message = _Submitted | _Began | _Finished | _Cancelled


@dataclass(frozen=True, slots=True)
class _Claim:
    """A placement that is about to become durable."""

    work: _Work
    seat: _Seat
    row: rows.NewAttempt
    given: Input


@dataclass(slots=True)
class _Round:
    """Everything that one transaction writes, and what is told afterwards."""

    tasks: list[rows.NewTask] = field(default_factory=list[rows.NewTask])
    begun: list[rows.BegunAttempt] = field(default_factory=list[rows.BegunAttempt])
    ended_attempts: list[rows.EndedAttempt] = field(default_factory=list[rows.EndedAttempt])
    ended_tasks: list[rows.EndedTask] = field(default_factory=list[rows.EndedTask])
    requeued: list[str] = field(default_factory=list[str])
    in_vain: list[str] = field(default_factory=list[str])
    """Tasks that had failed already when something was submitted after them."""
    claims: list[_Claim] = field(default_factory=list[_Claim])
    announcements: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    @property
    def is_empty(self) -> bool:
        return not (self.tasks or self.begun or self.ended_attempts or self.ended_tasks or self.requeued or self.claims)


class Scheduler:
    """Schedules one swarm in this process."""

    def __init__(
        self,
        *,
        database: Database,
        fence: rows.Fence,
        members: Sequence[Member],
        queen: Member | None,
        strategy: AgentStrategy,
        runner: Runner,
    ) -> None:
        self._database = database
        self._fence = fence
        self._queen_mode: QueenMode = "distributed" if queen is None else "centralized"
        self._strategy: AgentStrategy = strategy
        self._runner = runner
        self._seats = {member.id: _Seat(member=member, is_queen=member is queen) for member in members}
        self._work: dict[str, _Work] = {}
        self._open: dict[str, _Work] = {}
        self._ready: list[decide.TaskView] = []
        """Most urgent first."""
        self._is_whole = True
        """Memory says what the rows say: no round has been rolled back."""
        self._dependents: dict[str, list[str]] = {}
        self._status: SwarmStatus = "active"
        self._send, self._receive = anyio.create_memory_object_stream[_Message](math.inf)

    @property
    def status(self) -> SwarmStatus:
        """Of the swarm."""
        return self._status

    def knows(self, task: Task[Any]) -> bool:
        """Tell whether this task was submitted here."""
        found = self._work.get(task.id)
        return found is not None and found.task is task

    def submit(self, order: Order) -> Task[Any]:
        """Take an order; it is written with the next round.

        Raises:
            SubmitError: the swarm has ended.
        """
        if self._status != "active":
            raise SubmitError(f"the swarm is {self._status} and takes no tasks; submit inside its 'async with' block")
        task: Task[Any] = Task(order.task_id, order.description, lambda: self._cancel(order.task_id))
        work = _Work(order=order, task=task, seq=len(self._work))
        self._work[order.task_id] = work
        self._open[order.task_id] = work
        self._send.send_nowait(_Submitted(work))
        return task

    def _cancel(self, task_id: str) -> None:
        if self._status == "active":
            self._send.send_nowait(_Cancelled(self._work[task_id]))

    async def run(self, tasks: TaskGroup) -> None:
        """Do rounds until cancelled; attempts run in `tasks`.

        Raises:
            SchedulerLostError: another process has taken the swarm.
        """
        tasks.start_soon(self._keep_lease)
        while True:
            messages = [await self._receive.receive(), *self._waiting()]
            # A round is whole or has not been: memory must not run ahead of rows that were rolled back.
            claimed: list[tuple[_Claim, Attempt]] = []
            with anyio.CancelScope(shield=True):
                claimed = await self._round(messages)
            for claim, attempt in claimed:
                tasks.start_soon(self._attempt, claim, attempt)

    async def drained(self) -> None:
        """Wait until every submitted task has ended."""
        while self._open:
            await next(iter(self._open.values())).task.ended()

    async def close(self) -> None:
        """Write what has arrived, cancel what is open and destroy the swarm, whatever has happened.

        Raises:
            SchedulerLostError: another process has taken the swarm; it will end it.
        """
        with anyio.CancelScope(shield=True), anyio.fail_after(CLOSE_WITHIN_S):
            try:
                await self._destroy()
            finally:
                self._send.close()
                self._receive.close()
                self._status = "destroyed"
                for work in self._open.values():
                    work.task.settle("cancelled", failure=TaskCancelled(work.task.id, work.task.description))
        unseen = [work.task.id for work in self._work.values() if work.task.is_failure_unseen]
        if unseen:
            logger.warning("tasks failed and nobody asked for their results", extra={"taskIds": unseen})

    async def _destroy(self) -> None:
        self._status = decide.swarm_becomes(self._status, "destroyed")
        this = _Round()
        # What builds on a round that was rolled back would refer to rows that do not exist.
        for message in self._waiting() if self._is_whole else ():
            self._take(this, message)
        async with self._fenced() as db:
            await self._write(db, this)
            await rows.destroy(db, self._fence)
        for tell in this.announcements:
            tell()

    async def _keep_lease(self) -> None:
        while True:
            await anyio.sleep(RENEW_EVERY_S)
            async with self._database.begin(self._fence.user_id) as db:
                if not await rows.renew(db, self._fence):
                    raise SchedulerLostError(self._fence.swarm_id, self._fence.epoch)

    def _waiting(self) -> list[_Message]:
        messages: list[_Message] = []
        while True:
            try:
                messages.append(self._receive.receive_nowait())
            except anyio.WouldBlock:
                return messages

    # --- one round ---

    async def _round(self, messages: Sequence[_Message]) -> list[tuple[_Claim, Attempt]]:
        self._is_whole = False
        this = _Round()
        for message in messages:
            self._take(this, message)
        self._place(this)
        execution_ids: list[int] = []
        if not this.is_empty:
            async with self._fenced() as db:
                execution_ids = await self._write(db, this)
        self._is_whole = True
        for tell in this.announcements:
            tell()
        return [(claim, self._begin(claim, id_)) for claim, id_ in zip(this.claims, execution_ids, strict=True)]

    @asynccontextmanager
    async def _fenced(self) -> AsyncGenerator[AsyncSession]:
        """Open the only kind of transaction in which a scheduler writes."""
        async with self._database.begin(self._fence.user_id) as db:
            if not await rows.hold(db, self._fence):
                raise SchedulerLostError(self._fence.swarm_id, self._fence.epoch)
            yield db

    async def _write(self, db: AsyncSession, this: _Round) -> list[int]:
        await rows.add_tasks(db, self._fence, this.tasks)
        await rows.begin_attempts(db, this.begun)
        await rows.end_attempts(db, this.ended_attempts)
        await rows.end_tasks(db, this.ended_tasks)
        await rows.break_dependencies(db, this.in_vain)
        await rows.requeue_tasks(db, this.requeued)
        return await rows.claim(db, self._fence, [claim.row for claim in this.claims])

    def _take(self, this: _Round, message: _Message) -> None:
        match message:
            case _Submitted(work=work):
                self._add(this, work)
            case _Began(work=work, attempt=attempt):
                if work.running is attempt:
                    work.move("running")
                    this.begun.append(_begun_row(work, attempt))
                    this.announcements.append(lambda: work.task.show("running"))
            case _Finished():
                self._end_attempt(this, message)
            case _Cancelled(work=work):
                self._stop(this, work)
            case _ as unreachable:
                assert_never(unreachable)

    def _add(self, this: _Round, work: _Work) -> None:
        before = [self._work[task_id] for task_id in dict.fromkeys(work.order.after)]
        satisfied = [one.order.task_id for one in before if one.status == "completed"]
        waits_for = [one.order.task_id for one in before if one.status != "completed"]
        this.tasks.append(_task_row(work.order, waits_for=waits_for, satisfied=satisfied))
        work.waits_for = set(waits_for)
        for task_id in waits_for:
            self._dependents.setdefault(task_id, []).append(work.order.task_id)
        broken = [one for one in before if one.status in ("failed", "cancelled")]
        if broken:
            this.in_vain.extend(one.order.task_id for one in broken)
            for task_id, chain in decide.chains(broken[0].order.task_id, self._dependents).items():
                self._fail_dependent(this, self._work[task_id], chain)
        elif not waits_for:
            self._make_ready(work)

    def _end_attempt(self, this: _Round, message: _Finished) -> None:
        work, outcome = message.work, message.outcome
        work.running = None
        message.seat.move("idle")
        this.ended_attempts.append(_ended_row(message))
        match outcome:
            case Completed():
                work.outcome = outcome
                result = {"output": outcome.output, "attempts": _errors(work)}
                self._end_task(this, work, "completed", result, None)
            case Faulted(error=error):
                member = message.seat.member
                work.errors.append(AttemptError(attempt=work.attempts, agent=member.name, error=error))
                work.tried |= {member.id}
                work.tried_types |= {member.definition.name}
                self._retry_or_fail(this, work)
            case Stopped():
                self._give_up(this, work)
            case _ as unreachable:
                assert_never(unreachable)

    def _retry_or_fail(self, this: _Round, work: _Work) -> None:
        if decide.may_retry(work.attempts, work.order.max_attempts):
            work.move("pending")
            self._make_ready(work)
            this.requeued.append(work.order.task_id)
            this.announcements.append(lambda: work.task.show("pending"))
            return
        failure = TaskFailed(work.task.id, work.task.description, work.errors)
        self._end_task(this, work, "failed", {"reason": "agent_fault", "attempts": _errors(work)}, failure)

    def _stop(self, this: _Round, work: _Work) -> None:
        if work.running is not None:
            work.running.scope.cancel()
        elif work.status == "pending":
            self._give_up(this, work)

    def _give_up(self, this: _Round, work: _Work) -> None:
        failure = TaskCancelled(work.task.id, work.task.description)
        self._end_task(this, work, "cancelled", {"reason": "cancelled", "attempts": _errors(work)}, failure)

    def _fail_dependent(self, this: _Round, work: _Work, chain: Sequence[str]) -> None:
        if work.status != "pending":
            return  # it has ended by another chain
        failure = TaskFailed(work.task.id, work.task.description, (), chain)
        result = {"reason": "dependency_failed", "chain": list(chain)}
        self._close_task(this, work, "failed", result, failure)

    def _end_task(
        self, this: _Round, work: _Work, status: SwarmTaskStatus, result: dict[str, Any], failure: Failure | None
    ) -> None:
        """End a task, and with it what can no longer run; or make ready what has waited for it alone."""
        self._close_task(this, work, status, result, failure)
        task_id = work.order.task_id
        if failure is not None:
            for doomed, chain in decide.chains(task_id, self._dependents).items():
                self._fail_dependent(this, self._work[doomed], chain)
            return
        for waiting in self._dependents.get(task_id, ()):
            dependent = self._work[waiting]
            dependent.waits_for.discard(task_id)
            if dependent.status == "pending" and not dependent.waits_for:
                self._make_ready(dependent)

    def _make_ready(self, work: _Work) -> None:
        bisect.insort(self._ready, work.view(), key=decide.urgency)

    def _unready(self, work: _Work) -> None:
        place = bisect.bisect_left(self._ready, decide.urgency(work.view()), key=decide.urgency)
        if place < len(self._ready) and self._ready[place].id == work.order.task_id:
            del self._ready[place]

    def _close_task(
        self, this: _Round, work: _Work, status: SwarmTaskStatus, result: dict[str, Any], failure: Failure | None
    ) -> None:
        work.move(status)
        self._unready(work)
        value = work.outcome.value if work.outcome else None

        def tell() -> None:
            self._open.pop(work.order.task_id, None)
            work.task.settle(status, value=value, failure=failure)

        this.ended_tasks.append(rows.EndedTask(id=work.order.task_id, status=status, result=result))
        this.announcements.append(tell)

    # --- placing ---

    def _place(self, this: _Round) -> None:
        if not self._ready or all(seat.status != "idle" for seat in self._seats.values()):
            return
        placements = decide.match(
            self._ready,
            [seat.view() for seat in self._seats.values()],
            queen_mode=self._queen_mode,
            strategy=self._strategy,
        )
        for placement in placements:
            this.claims.append(self._claim(this, placement))

    def _claim(self, this: _Round, placement: decide.Placement) -> _Claim:
        work, seat = self._work[placement.task_id], self._seats[placement.agent_id]
        self._unready(work)
        work.move("assigned")
        work.attempts += 1
        seat.move("busy")
        seat.taken += 1
        definition = seat.member.definition
        given, task = self._input(work, definition)
        row = rows.NewAttempt(
            id=new_id("asg"),
            task_id=work.order.task_id,
            agent_id=seat.member.id,
            attempt=work.attempts,
            agent_name=definition.agent_name,
            task=task,
            max_iterations=definition.limits.turns,
        )
        this.announcements.append(lambda: work.task.show("assigned"))
        return _Claim(work=work, seat=seat, row=row, given=given)

    def _input(self, work: _Work, definition: Definition) -> tuple[Input, str]:
        """Return the arguments of a function, and the input as it is written down and as a model reads it."""
        before = [self._work[task_id] for task_id in work.order.after]
        if definition.is_model:
            asked = work.order.text
            if asked is None:
                assert definition.signature is not None  # noqa: S101 -- only a function is submitted with arguments
                asked = definition.signature.written(work.order.given)
            results = [(one.task.description, _outcome_of(one).output) for one in before]
            return work.order.given, artefacts(asked, results)
        values = [_outcome_of(one).value for one in before]
        given = Input(args=(*work.order.given.args, *values), kwargs=work.order.given.kwargs)
        assert definition.signature is not None  # noqa: S101 -- a function agent has one
        return given, definition.signature.written(given)

    def _begin(self, claim: _Claim, execution_id: int) -> Attempt:
        definition = claim.seat.member.definition
        ctx = Ctx(
            swarm_id=self._fence.swarm_id,
            task_id=claim.work.order.task_id,
            agent=claim.seat.member.name,
            attempt=claim.row.attempt,
            key=hashlib.sha256(claim.work.order.task_id.encode()).hexdigest(),
            memory=Memory(database=self._database, user_id=self._fence.user_id, swarm_id=self._fence.swarm_id),
        )
        attempt = Attempt(
            id=claim.row.id,
            execution_id=execution_id,
            definition=definition,
            output=claim.work.order.output or definition.output,
            given=claim.given,
            ctx=ctx,
        )
        claim.work.running = attempt
        return attempt

    async def _attempt(self, claim: _Claim, attempt: Attempt) -> None:
        self._send.send_nowait(_Began(claim.work, attempt))
        outcome = await self._runner.run(attempt)
        self._send.send_nowait(_Finished(claim.work, attempt, claim.seat, outcome))


def _outcome_of(work: _Work) -> Completed:
    assert work.outcome is not None, "a task is ready when all it comes after have completed"  # noqa: S101
    return work.outcome


def _errors(work: _Work) -> list[dict[str, Any]]:
    return [{"attempt": one.attempt, "agent": one.agent, "error": one.error} for one in work.errors]


def _task_row(order: Order, *, waits_for: Sequence[str], satisfied: Sequence[str]) -> rows.NewTask:
    return rows.NewTask(
        id=order.task_id,
        description=order.description,
        priority=order.priority,
        pri=decide.PRI[order.priority],
        kind=order.kind,
        max_attempts=order.max_attempts,
        waits_for=waits_for,
        satisfied=satisfied,
    )


def _begun_row(work: _Work, attempt: Attempt) -> rows.BegunAttempt:
    return rows.BegunAttempt(
        id=attempt.id,
        task_id=work.order.task_id,
        execution_id=attempt.execution_id,
        is_driven=attempt.definition.is_model,
    )


def _ended_row(message: _Finished) -> rows.EndedAttempt:
    attempt, outcome = message.attempt, message.outcome
    match outcome:
        case Completed(output=output):
            status, error = "completed", None
        case Faulted(error=error):
            status, output = "failed", None
        case Stopped():
            status, output, error = "cancelled", None, "cancelled"
        case _ as unreachable:
            assert_never(unreachable)
    return rows.EndedAttempt(
        id=attempt.id,
        agent_id=message.seat.member.id,
        execution_id=attempt.execution_id,
        status=status,
        output=output,
        error=error,
        duration_ms=attempt.duration_ms,
    )
