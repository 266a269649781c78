"""Kills a worker at a chosen suspension of its event loop, without touching the code under test.

A task factory drives every coroutine by hand: it sees each suspension (bytes are written, their answer is not read) and
each resumption (the answer is read, the next statement is not made). SQLAlchemy announces each COMMIT, so that the
moments before it is sent, while it is under way and after it is confirmed have names of their own.

Run as a program it is a nursery: it imports the product once and forks for each order on stdin, because a fork costs a
hundredth of a new interpreter. Orders and reports are JSON, one a line.
"""

import asyncio  # noqa: TID251 -- the event loop itself is what is instrumented
import json
import os
import signal
import sys
import types
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import anyio
import asyncpg
from sqlalchemy import event

from runtime.approvals import Permit
from runtime.driver import Driver
from runtime.events import ModelReplied
from runtime.journal import PostgresJournal
from runtime.journal_port import Claim, ToolCommit
from runtime.ports import ModelRequest
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from storage.engine import Address
from storage.tenancy import Database

Kind = Literal["suspend", "resume", "before_commit", "in_commit", "after_commit"]

CARD, ANSWER = "Fix the landing page", "It is on the board."


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The `number`-th time (from 1) that something happens in the process."""

    kind: Kind
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Drive one execution, and die at a moment; None: survive and count."""

    dsn: str
    user_id: int
    execution_id: int
    moment: Moment | None = None
    splits: bool = False
    """True: with the deliberately broken `SplitJournal`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How an order ended, and how often each kind of moment has been passed; nothing is known of a killed process."""

    killed: bool
    passed: dict[Kind, int]


class Killer:
    """Counts the moments of this process and ends it at one of them."""

    def __init__(self, moment: Moment | None) -> None:
        self._moment = moment
        self._commit: Literal["none", "announced", "sent"] = "none"
        self.passed: Counter[Kind] = Counter()

    def install(self, database: Database) -> None:
        """Watch every task that starts from here on, and every commit."""
        asyncio.get_running_loop().set_task_factory(self._task)
        event.listen(database.engine.sync_engine, "commit", self._on_commit)
        # The two commits of an iteration are said to asyncpg itself (`storage.swift`).
        execute = asyncpg.Connection.execute

        async def watched(connection: Any, query: str, *arguments: Any, **options: Any) -> str:
            if query == "COMMIT":
                self._on_commit(connection)
            return await execute(connection, query, *arguments, **options)

        asyncpg.Connection.execute = watched  # pyright: ignore[reportAttributeAccessIssue] -- only its positional use

    def _task(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> "asyncio.Task[Any]":
        assert isinstance(coroutine, Coroutine)

        async def watched() -> Any:
            return await self._drive(coroutine)

        return asyncio.Task(watched(), loop=loop, **options)

    @types.coroutine
    def _drive(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                awaited = coroutine.send(value) if error is None else coroutine.throw(error)
            except StopIteration as end:
                return end.value
            self._pass("suspend")
            if self._commit == "announced":
                self._pass("in_commit")
                self._commit = "sent"
            value, error = None, None
            try:
                value = yield awaited
            except BaseException as thrown:  # noqa: BLE001 -- goes into the coroutine, cancellation included
                error = thrown
            if self._commit == "sent":
                self._pass("after_commit")
                self._commit = "none"
            self._pass("resume")

    def _on_commit(self, _connection: object) -> None:
        self._pass("before_commit")
        self._commit = "announced"

    def _pass(self, kind: Kind) -> None:
        self.passed[kind] += 1
        if self._moment == Moment(kind=kind, number=self.passed[kind]):
            os.kill(os.getpid(), signal.SIGKILL)


class SplitJournal(PostgresJournal):
    """Broken on purpose: a tool's effect commits before its result does, as in most agent loops."""

    @asynccontextmanager
    async def tool_commit(self, claim: Claim, *, permit: Permit | None = None) -> AsyncGenerator[ToolCommit]:
        """Commit the effect, then record it."""
        async with self._database.begin(claim.user_id) as db:
            effect = ToolCommit(db)
            yield effect
        async with super().tool_commit(claim, permit=permit) as record:
            record.settled, record.facts, record.audits = effect.settled, effect.facts, effect.audits
        effect.signals = record.signals


def answer(request: ModelRequest) -> ModelReplied:
    """Put a card on the board and say so; then end. What it says follows from the request alone, as after a crash."""
    last: Any = request.messages[-1]["content"]
    if any(block["type"] == "tool_result" for block in last if isinstance(last, list)):
        return text_reply("told them")
    return call_reply(("create_task", {"title": CARD}), ("reply", {"text": ANSWER}))


def make_driver(database: Database, user_id: int, *, splits: bool = False) -> Driver:
    """Return a worker's driver with a model that answers as often as it is asked."""
    system = system_on(database, user_id, ScriptedModel(*[answer] * 10))
    if not splits:
        return system.driver
    return system.driver.varied(journal=SplitJournal(database, "split"))


async def obey(order: Order) -> dict[Kind, int]:
    """Drive the execution of an order and return what was passed; does not return when the order names a moment."""
    database = Database(Address(dsn=order.dsn, direct_dsn=order.dsn, pooled=False), pool_size=1)
    driver = make_driver(database, order.user_id, splits=order.splits)
    killer = Killer(order.moment)
    killer.install(database)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(driver.run, order.user_id, order.execution_id)
    passed = dict(killer.passed)
    await database.close()
    return passed


def _in_a_fork(order: Order) -> Report:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(anyio.run(obey, order)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Report(killed=True, passed={})
    assert os.waitstatus_to_exitcode(status) == 0, "the worker failed; its traceback is above"
    return Report(killed=False, passed=json.loads(said))


def main() -> None:
    """Obey orders until stdin ends."""
    for line in sys.stdin:
        words = json.loads(line)
        moment = words.pop("moment")
        report = _in_a_fork(Order(**words, moment=Moment(**moment) if moment else None))
        sys.stdout.write(json.dumps(asdict(report)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
