"""A town in which everything goes wrong: several workers, people who answer late, and an hour in a moment.

The workers are the product's `Driver` on one memory, each with its own owner. All chance comes from one seed, and all
time is virtual.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import anyio

from runtime.agents import Agent
from runtime.driver import Driver, Known
from runtime.errors import ModelReplyInvalidError, ModelUnavailableError
from runtime.events import ExecutionEnded, ModelReplied, Usage, WaitsFor
from runtime.journal_port import Claim
from runtime.operation import Context
from runtime.ports import Json, ModelRequest, OnText
from runtime.testing import MemoryJournal, MemoryStore, VirtualClock, VirtualLoop, call_reply, memory_of, text_reply
from runtime.tools import ExternalContext, tool
from storage.jobs import Handler, JobRequest, ParkedJob, WorkerOptions
from tests.contract.worlds import USER, Op
from tests.simulation.gate import Gate, LostAnswerError

MakeJournal = Callable[[MemoryStore, str], MemoryJournal]

LONGEST_S = 12 * 3600.0
"""Virtual seconds after which a town is stuck."""

HARM = 0.02
"""How often something happens to a worker on its way."""

LANES = 2
"""Executions that a worker drives at once."""

RENEW_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A command that has reached the journal, or what somebody did from outside."""

    at: datetime
    """The clock that the command has seen: when its transaction began."""
    who: str
    name: str
    op: Op
    answer: Any


@dataclass(kw_only=True)
class Worker:
    """A process; it may stand still, and it may die at any await."""

    name: str
    town: "Town"
    frozen_until: float = 0
    is_dead: bool = False
    scopes: list[anyio.CancelScope] = field(default_factory=list[anyio.CancelScope])

    async def turn(self) -> None:
        """Take a moment, as everything does that leaves the process; this is where harm is done."""
        if self.town.harms_left and not self.is_dead and self.town.chance.random() < HARM:
            self.town.harm(self)
        await anyio.sleep(max(self.town.chance.random() - 0.5, 0) * 0.5)  # half of all ways take no time at all
        while (left := self.frozen_until - anyio.current_time()) > 0:  # noqa: ASYNC110 -- a clock is waited for
            await anyio.sleep(left)

    def kill(self) -> None:
        """End it wherever it is; nothing that it still does arrives anywhere."""
        self.is_dead = True
        for scope in self.scopes:
            scope.cancel()


class Town:
    """Everything that one seed makes."""

    def __init__(self, seed: int, make: MakeJournal = MemoryJournal) -> None:
        self.seed = seed
        self.chance = random.Random(seed)  # noqa: S311 -- chance to repeat, not a secret
        self.store = MemoryStore(VirtualClock())
        self.records: list[Record] = []
        self.sent: Counter[str] = Counter()
        """How often an item went out by a tool that honours no key."""
        self.keyed: dict[str, set[str]] = {}
        """Item → the keys under which it went out."""
        self.broken: list[str] = []
        """Promises that were seen to be broken on the way."""
        self.workers: list[Worker] = []
        self.harms_left = self.chance.randint(0, 4)
        self._make = make
        self._names = itertools.count(1)
        self._is_all_queued = False

    # --- what happens from outside ---

    def record(self, who: str, name: str, op: Op, answer: Any, at: datetime | None = None) -> None:
        """Record what has just happened; `at` is when its transaction began, if not now."""
        self.records.append(Record(at=at or self.store.now(), who=who, name=name, op=op, answer=answer))

    def act(self, name: str, op: Op, answer: Any) -> None:
        """Record what somebody has just done from outside."""
        self.record("outside", name, op, answer)

    @property
    def is_done(self) -> bool:
        """Nothing is left to do."""
        return self._is_all_queued and all(one.is_over for one in self.store.executions.values())

    async def queue_tasks(self) -> None:
        """Queue executions in two sessions, now and then."""
        for one_task in (False, True):
            self.act(
                "add_session", partial(_add_session, one_task=one_task), self.store.add_session(USER, one_task=one_task)
            )
        for number in range(self.chance.randint(2, 4)):
            session_id = 1 if number < 2 else 2
            queued = self.store.queue(session_id, agent_name=AGENT.name, task=f"task {self.seed}.{number}")
            self.act("queue", partial(_queue, session_id=session_id, task=f"task {self.seed}.{number}"), queued)
            await anyio.sleep(self.chance.random() * 10)
        self._is_all_queued = True

    async def live_among_people(self) -> None:
        """Answer late, refuse, cancel, pause and resume, until nothing is left to do."""
        while not self.is_done:
            await anyio.sleep(1 + self.chance.random() * 5)
            for approval in list(self.store.approvals.values()):
                if approval.status == "pending" and self.chance.random() < 0.5:
                    self._decide(approval.id, grants=self.chance.random() < 0.75)
            for call in list(self.store.calls.values()):
                waits = call.tool_name == "ask_colleague" and call.state == "started" and call.result is None
                if waits and self.chance.random() < 0.5:
                    self._answer(call.execution_id, call.tool_use_id)
            self._interfere()

    def _decide(self, approval_id: int, *, grants: bool) -> None:
        decide = self.store.grant if grants else self.store.deny
        self.act("decide", partial(_decide, approval_id=approval_id, grants=grants), decide(approval_id, by="ann"))

    def _answer(self, execution_id: int, call_id: str) -> None:
        op = partial(_answer, execution_id=execution_id, call_id=call_id)
        self.act("answer", op, self.store.answer(execution_id, call_id, "42"))

    def _interfere(self) -> None:
        for execution in list(self.store.executions.values()):
            drawn = self.chance.random()
            if execution.paused_at is not None and drawn < 0.5:
                self.act("resume", partial(_on, name="resume", execution_id=execution.id), None)
                self.store.resume(execution.id)
            elif not execution.is_over and drawn < 0.03:
                self.act("cancel", partial(_on, name="cancel", execution_id=execution.id), None)
                self.store.request_cancel(execution.id)
            elif not execution.is_over and drawn < 0.08:
                self.act("pause", partial(_on, name="pause", execution_id=execution.id), None)
                self.store.pause(execution.id)

    # --- the workers ---

    async def run(self) -> None:
        """Let it all happen, until every execution is over."""
        with anyio.fail_after(LONGEST_S):
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self.queue_tasks)
                tasks.start_soon(self.live_among_people)
                for _ in range(self.chance.randint(2, 3)):
                    self._start_worker()

    def _start_worker(self) -> None:
        worker = Worker(name=f"worker {next(self._names)}", town=self)
        self.workers.append(worker)
        gate = Gate(self._make(self.store, worker.name), worker)
        driver = Driver(
            journal=gate,
            model=TownModel(worker),
            jobs=NoJobs(),
            closing=_close,
            known=Known(agents=lambda _: AGENT, tools=TOOLS.__getitem__),
        )
        for _ in range(LANES):
            self._tasks.start_soon(self._alive, worker, partial(self._drive, worker, driver))
        self._tasks.start_soon(self._alive, worker, partial(self._renew, driver, gate))

    async def _alive(self, worker: Worker, duty: Callable[[], Any]) -> None:
        HERE.set(worker)
        with anyio.CancelScope() as scope:
            worker.scopes.append(scope)
            if not worker.is_dead:  # it may have died before this began
                await duty()

    async def _drive(self, worker: Worker, driver: Driver) -> None:
        """Take up what is due, and now and then what is not: a wake-up may come twice or in vain."""
        while not self.is_done:
            everything = sorted(self.store.executions)
            due = [one.execution_id for one in self.store.due()]
            chosen = everything if everything and self.chance.random() < 0.1 else due
            if not chosen or worker.frozen_until > anyio.current_time():
                await anyio.sleep(1 + self.chance.random() * 6)
                continue
            try:
                await driver.run(USER, self.chance.choice(chosen))
            except* LostAnswerError:
                pass
            await anyio.sleep(self.chance.random())

    async def _renew(self, driver: Driver, gate: Gate) -> None:
        while not self.is_done:
            await anyio.sleep(RENEW_EVERY_S)
            if not gate.held:
                continue
            try:
                driver.interrupt(sorted(await gate.renew_all()))
            except LostAnswerError:
                continue

    def harm(self, worker: Worker) -> None:
        """Let a worker die where it is, or stand still for longer than its lease; another one comes for a dead one."""
        self.harms_left -= 1
        if self.chance.random() < 0.6:
            worker.frozen_until = anyio.current_time() + self.chance.choice((3, 16, 17, 20, 40))
        else:
            worker.kill()
            self._start_worker()


class TownModel:
    """Answers from the request alone, so that whoever asks again hears the same; only how long it takes differs."""

    name = "scripted-model"

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
        """Think for a while; sometimes be too busy, or break off in the middle."""
        del on_text
        town = self._worker.town
        town.broken += [f"a request that no provider takes: {problem}" for problem in unpaired(request.messages)]
        await self._worker.turn()
        await anyio.sleep(town.chance.choice((0.2, 1, 4, 18)))
        await self._worker.turn()
        drawn = town.chance.random()
        if drawn < 0.05:
            raise ModelUnavailableError("busy", retry_after_s=town.chance.choice((None, 2.0, 30.0)))
        if drawn < 0.08:
            raise ModelReplyInvalidError("cut")
        return answer_to(request)


def answer_to(request: ModelRequest) -> ModelReplied:
    """Return the reply that follows from what was said last and how often the model has spoken since."""
    task, turn = "", 0
    for message in request.messages:
        if message["role"] == "assistant":
            turn += 1
        for block in message["content"]:
            if block["type"] == "text" and block["text"].startswith("task "):
                task, turn = block["text"], 0
    chance = random.Random(f"{task}/{turn}")  # noqa: S311 -- as above
    usage = Usage(input_tokens=len(request.messages), output_tokens=turn)
    if turn >= 1 + len(task) % 3 or chance.random() < 0.2:
        return text_reply(f"done: {task}", usage=usage)
    items = [f"{task}/{turn}/{place}" for place in range(chance.randint(1, 3))]
    calls: list[tuple[str, dict[str, Any]]] = [(chance.choice(OFTEN), {"item": item}) for item in items]
    return call_reply(*calls, tag=f"{task}/{turn}/", usage=usage)


def unpaired(messages: Sequence[Json]) -> list[str]:
    """Return the calls that have another number of results than one in the message after them."""
    found: list[str] = []
    nothing: Json = {"role": "user", "content": []}
    for message, following in itertools.pairwise([*messages, nothing]):
        calls = Counter(block["id"] for block in message["content"] if block["type"] == "tool_use")
        results = Counter(block["tool_use_id"] for block in following["content"] if block["type"] == "tool_result")
        found += [f"{calls} calls, {results} results"] if calls != results and message["role"] == "assistant" else []
    return found


HERE: ContextVar[Worker] = ContextVar("HERE")
"""The process that a tool runs in."""


async def _put_once(ctx: Context, item: str) -> str:
    db = memory_of(ctx)
    await HERE.get().turn()
    db.put(item, db.get(item, 0) + 1)
    await HERE.get().turn()
    return "put"


async def _send_once(item: str) -> str:
    await HERE.get().turn()
    HERE.get().town.sent[item] += 1
    await HERE.get().turn()
    return "sent"


@tool(effect="none")
async def look(ctx: Context, item: str) -> str:
    """Look at an item."""
    await HERE.get().turn()
    return str(memory_of(ctx).get(item, 0))


@tool(effect="db")
async def put(ctx: Context, item: str) -> str:
    """Put an item down."""
    return await _put_once(ctx, item)


@tool(effect="db", asks="it matters")
async def put_if_allowed(ctx: Context, item: str) -> str:
    """Put an item down, if a person allows it."""
    return await _put_once(ctx, item)


@tool(effect="external")
async def send(item: str) -> str:
    """Send an item."""
    return await _send_once(item)


@tool(effect="external", asks="it is far")
async def send_if_allowed(item: str) -> str:
    """Send an item, if a person allows it."""
    return await _send_once(item)


@tool(effect="external", honours_key=True)
async def send_keyed(ctx: ExternalContext, item: str) -> str:
    """Send an item to somebody who does nothing twice under one key."""
    await HERE.get().turn()
    HERE.get().town.keyed.setdefault(item, set()).add(ctx.key)
    await HERE.get().turn()
    return "sent"


@tool(effect="db")
async def ask_colleague(ctx: Context, item: str) -> WaitsFor:
    """Ask somebody who takes their time."""
    del item
    await HERE.get().turn()
    return WaitsFor(kind="answer", id=ctx.execution_id or 0)


TOOLS = {made.name: made for made in (look, put, put_if_allowed, send, send_if_allowed, send_keyed, ask_colleague)}
AGENT = Agent(name="agent", instructions="Do it.", tools=tuple(TOOLS))
OFTEN = (*TOOLS, "look", "look", "put", "put", "send")
"""What the model calls: each tool, some more often."""


async def _close(db: Any, claim: Claim, ended: ExecutionEnded) -> None:
    """Do what belongs into the transaction of the end: here, count it."""
    del ended
    key = f"closed {claim.execution_id}"
    db.put(key, db.get(key, 0) + 1)


class NoJobs:
    """Takes wake-ups and wakes nobody: in a town the take-over sweep finds whatever is due."""

    async def enqueue(self, db: Any, request: JobRequest) -> bool:
        """Take a request."""
        del db, request
        return True

    async def work(
        self, handlers: Mapping[str, Handler], *, stop: anyio.Event, options: WorkerOptions | None = None
    ) -> None:
        """Do nothing."""
        del handlers, options
        await stop.wait()

    async def parked(self, *, limit: int = 50) -> list[ParkedJob]:
        """Return nothing."""
        del limit
        return []

    async def release(self, number: int) -> bool:
        """Know no job."""
        del number
        return False


# --- what people did, as ops for another world ---


def _add_session(world: Any, *, one_task: bool) -> Any:
    return world.add_session(one_task=one_task)


def _queue(world: Any, *, session_id: int, task: str) -> Any:
    return world.queue(session_id, task=task)


def _decide(world: Any, *, approval_id: int, grants: bool) -> Any:
    return world.decide(approval_id, grants=grants)


def _answer(world: Any, *, execution_id: int, call_id: str) -> Any:
    return world.answer(execution_id, call_id, "42")


def _on(world: Any, *, name: str, execution_id: int) -> Any:
    return getattr(world, name)(execution_id)


def simulate(seed: int, make: MakeJournal = MemoryJournal) -> Town:
    """Run the town of a seed to its end."""

    async def run() -> Town:
        town = Town(seed, make)
        await town.run()
        return town

    return anyio.run(run, backend_options={"loop_factory": partial(VirtualLoop, seed)})
