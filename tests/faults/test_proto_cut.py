"""The connection to Postgres is lost around any message of a turn: what has committed counts, the rest is done anew.

Above all the lost answer to a COMMIT, after which a worker cannot know whether it has committed.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import asyncpg
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import SQLAlchemyError

from storage.engine import Address, connect
from storage.errors import DatabaseUnavailableError
from storage.models.agents import AgentExecution, AgentSession
from storage.tenancy import Database
from tests.faults import ledger, three_turns
from tests.faults.pg_proxy import Fault, Message, Proxy, proxying
from tests.faults.receiver import Receiver, receiving
from tests.faults.three_turns import Story, Worker

TASKS = ("fax reply",)

LOSSES: tuple[Fault, ...] = ("cut_before", "swallow", "cut_after")

TROUBLE = (SQLAlchemyError, DatabaseUnavailableError, TimeoutError)
"""What a driver may raise when it loses its database, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A worker behind the proxy, and one that goes on, with a connection of its own."""

    proxy: Proxy
    behind: Worker
    worker: Worker
    webhook_id: int
    receiver: Receiver

    async def begin(self, name: str) -> list[int]:
        """Let a participant speak."""
        local = self.worker.local
        return await three_turns.begin(local.database, local.user_id, self.webhook_id, name, TASKS)

    async def lose(self, execution_ids: list[int]) -> None:
        """Let the worker behind the armed proxy go as far as it gets."""
        try:
            await self.behind.work(execution_ids)
        except TROUBLE:
            assert self.proxy.has_fired

    async def recover(self, execution_ids: list[int]) -> Story:
        """Let the other worker finish, and return the story."""
        await self.behind.local.database.close()  # every attempt begins with a connection of its own
        await three_turns.finish(self.worker, execution_ids)
        return await three_turns.story(self.worker.local.database, self.worker.local.user_id, execution_ids)

    async def attempt(self, name: str) -> Story:
        """Let the worker behind the armed proxy begin and the other one finish; return the story."""
        execution_ids = await self.begin(name)
        await self.lose(execution_ids)
        return await self.recover(execution_ids)

    async def undisturbed(self) -> tuple[Story, list[Message]]:
        """Return the story that every other one must equal, and the messages that a turn takes."""
        await self.attempt("first")  # an engine asks for the server's version once, on its first connection
        self.proxy.arm()
        told = await self.attempt("undisturbed")
        return told, self.proxy.messages

    async def broken(self) -> list[str]:
        """Return every promise that is broken, inside or outside."""
        local = self.worker.local
        return [
            *await ledger.check(local.database, local.user_id),
            *await three_turns.broken_outside(local.database, local.user_id, self.receiver),
        ]


@asynccontextmanager
async def bench(
    address: Address, database: Database, user_id: int, *, journal: str = "sound", command_timeout_s: float = 60
) -> AsyncGenerator[Bench]:
    """Yield a bench; `journal` is what both workers have."""
    async with proxying(address.dsn) as proxy, receiving() as receiver:
        dsn = proxy.dsn(address.dsn)
        cut_off = Database(replace(address, dsn=dsn, direct_dsn=dsn, command_timeout_s=command_timeout_s), pool_size=1)
        async with (
            three_turns.working_on(cut_off, user_id, receiver.url, journal=journal) as behind,
            three_turns.working_on(database, user_id, receiver.url, journal=journal) as worker,
        ):
            yield Bench(
                proxy=proxy,
                behind=behind,
                worker=worker,
                webhook_id=await three_turns.make_webhook(database, user_id, receiver.url),
                receiver=receiver,
            )


async def compare(on: Bench, losses: Sequence[tuple[Message, Fault]], expected: Story) -> None:
    """Lose the connection in each of these ways and demand the same story each time."""
    for message, fault in losses:
        # Half of the workers find the server again at once and give their lease back; the others do not.
        on.proxy.arm(fault, message.number, stays_down=message.number % 2 == 0)
        told = await on.attempt(f"{fault}-{message.number}")
        assert on.proxy.has_fired, (fault, message)
        assert three_turns.as_if_known(told) == expected, (fault, message)
    assert await on.broken() == []


async def test_a_turn_ends_as_if_no_connection_had_been_lost_around_any_of_its_commits(
    address: Address, database: Database, alice: int
) -> None:
    async with bench(address, database, alice) as on:
        expected, messages = await on.undisturbed()
        commits = [message for message in messages if message.is_commit]
        assert len(commits) >= 8
        await compare(on, [(message, fault) for message in commits for fault in LOSSES], expected)


async def test_a_turn_ends_as_if_no_connection_had_been_lost_around_any_of_its_messages(
    address: Address,
    database: Database,
    alice: int,
    every_moment: bool,  # noqa: FBT001 -- a fixture
) -> None:
    async with bench(address, database, alice) as on:
        expected, messages = await on.undisturbed()
        # The Terminate at the end of a connection is not always there to be lost.
        losses: list[tuple[Message, Fault]] = [
            (message, fault) for message in messages for fault in LOSSES if message.kind != "X"
        ]
        await compare(on, losses if every_moment else losses[::47], expected)
    assert len(losses) >= 300


@pytest.mark.parametrize("ordinal", [2, -1])
async def test_a_server_that_falls_silent_over_a_commit_is_given_up_and_the_turn_ends_elsewhere(
    address: Address, database: Database, alice: int, ordinal: int
) -> None:
    async with bench(address, database, alice, command_timeout_s=0.5) as on:
        expected, messages = await on.undisturbed()
        commit = [message for message in messages if message.is_commit][ordinal]
        on.proxy.arm("hang", commit.number, stays_down=True)
        told = await on.attempt("hang")
        assert on.proxy.has_fired
        assert three_turns.as_if_known(told) == expected
        assert await on.broken() == []


async def is_renewed(on: Bench, execution_id: int) -> bool:
    """Tell whether the process behind the proxy, which drives nothing, prolongs the lease of an execution."""
    local = on.worker.local
    leased = AgentSession.id == (
        select(AgentExecution.session_id).where(AgentExecution.id == execution_id).scalar_subquery()
    )
    soon = {AgentSession.lease_until: text("now() + interval '5 seconds'")}
    async with local.database.begin(local.user_id) as db:
        await db.execute(update(AgentSession).where(leased, AgentSession.lease_owner.is_not(None)).values(soon))
    on.proxy.arm()
    await on.behind.local.journal.renew_all()
    async with local.database.begin(local.user_id, read_only=True) as db:
        later = AgentSession.lease_until > text("now() + interval '8 seconds'")
        return await db.scalar(select(AgentSession.id).where(leased, later)) is not None


async def test_a_living_worker_does_not_renew_the_lease_of_a_run_that_it_has_left(
    address: Address, database: Database, alice: int
) -> None:
    async with bench(address, database, alice, command_timeout_s=0.3) as on:
        _, messages = await on.undisturbed()
        stuck: list[int] = []
        for index, message in enumerate(message for message in messages if message.is_commit):
            on.proxy.arm("hang", message.number)
            execution_ids = await on.begin(f"hang-{index}")
            await on.lose(execution_ids)
            stuck += [index] if await is_renewed(on, execution_ids[0]) else []
            await on.recover(execution_ids)
        assert stuck == [], "commits after which a lease is held that nobody uses and nobody else can get"


async def test_a_journal_that_commits_an_effect_before_its_record_is_found_out_by_a_lost_answer(
    address: Address, database: Database, alice: int
) -> None:
    async with bench(address, database, alice, journal="split") as on:
        _, messages = await on.undisturbed()
        for message in messages:
            if message.is_commit:
                on.proxy.arm("swallow", message.number)
                (told,) = await on.attempt(f"swallow-{message.number}")
                if len(told["replies"]) > 1:
                    break
        assert any("answered more than once" in line for line in await on.broken())


@pytest.mark.parametrize(("fault", "stored"), [("cut_before", 0), ("swallow", 1), ("cut_after", 1), ("hang", 1)])
async def test_the_proxy_loses_exactly_what_it_is_told_to(address: Address, fault: Fault, stored: int) -> None:
    async with proxying(address.dsn) as proxy:
        direct = await connect(address)
        await direct.execute("CREATE TABLE kept (number int)")
        dsn = proxy.dsn(address.dsn)
        through = await connect(replace(address, dsn=dsn, direct_dsn=dsn, command_timeout_s=0.5))
        proxy.arm(fault, 1)
        heard = True
        try:
            await through.execute("INSERT INTO kept VALUES (1)")
        except (asyncpg.PostgresConnectionError, TimeoutError):
            heard = False
        assert heard is (fault == "cut_after")
        assert proxy.messages[0] == Message(number=1, kind="Q", sql="INSERT INTO kept VALUES (1)")
        with anyio.fail_after(5):
            while await direct.fetchval("SELECT count(*) FROM kept") != stored:
                await anyio.lowlevel.checkpoint()
        through.terminate()
        await direct.close()
