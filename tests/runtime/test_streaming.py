"""What somebody who watches an execution sees: text while it is said, steps when they are recorded, and the end."""

import os
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest
from pydantic import JsonValue
from sqlalchemy import event, select, text

from runtime import Agent, Runtime
from runtime.errors import ModelUnavailableError
from runtime.events import ExecutionEnded, ModelReplied, UserSpoke
from runtime.ports import ModelRequest, OnText
from runtime.streaming import Committed, Delta, DeltaWriter, Ended, Reset, StreamItem, Waiting, follow
from runtime.testing import ScriptedModel, system_on, text_reply
from storage import migrate
from storage.embedded import EmbeddedServer
from storage.engine import Address
from storage.errors import EntityNotFoundError
from storage.models.agents import AgentSession, AgentStep
from storage.queries import executions
from storage.tenancy import Database
from storage.testing import add_user
from tests.runtime.stage import WISH, Stage, queued_stage
from tests.user import make_data_dir

PATIENCE_S = 30
"""How long a test waits for what must come; far beyond what it takes."""


@pytest.fixture
async def stage(database: Database, alice: int) -> Stage:
    """An execution whose first step is recorded, under lease 1."""
    return await begun(database, alice)


async def begun(database: Database, user_id: int) -> Stage:
    prepared = await queued_stage(database, user_id)
    await prepared.claim()
    await prepared.record(WISH)
    await prepared.set_execution(status="executing")
    return prepared


async def take(stream: AsyncGenerator[StreamItem]) -> StreamItem:
    """Return what comes next."""
    with anyio.fail_after(PATIENCE_S):
        return await anext(stream)


async def take_text(stream: AsyncGenerator[StreamItem], wanted: str) -> list[Delta]:
    """Return the next items, which must be pieces of `wanted`, until all of it has come."""
    pieces: list[Delta] = []
    while "".join(piece.text for piece in pieces) != wanted:
        piece = await take(stream)
        assert isinstance(piece, Delta), piece
        pieces.append(piece)
        assert wanted.startswith("".join(piece.text for piece in pieces))
    return pieces


class Statements:
    """Counts what a pool sends, and wakes whoever waits for it."""

    def __init__(self, database: Database) -> None:
        self.inserts = 0
        self.all = 0
        self._news = anyio.Event()
        event.listen(database.engine.sync_engine, "after_cursor_execute", self._count)

    def _count(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.all += 1
        self.inserts += statement.startswith('INSERT INTO "agentDeltas"')
        self._news.set()

    async def inserted(self, count: int) -> None:
        """Wait until live text has been offered to the table so often."""
        with anyio.fail_after(PATIENCE_S):
            while self.inserts < count:
                self._news = anyio.Event()
                await self._news.wait()


# What is seen


async def test_text_is_seen_while_it_is_said_then_its_step_then_the_end(stage: Stage) -> None:
    stream = stage.follow()
    assert await take(stream) == Committed(seq=1, event=WISH)
    async with stage.saying(epoch=1, seq=2) as feed:
        feed("Once upon ")
        first = await take_text(stream, "Once upon ")
        feed("a ")
        feed("time, \x00 \ud83d")
        second = await take_text(stream, "a time, \ufffd ?")
    assert [(piece.seq, piece.offset, piece.epoch) for piece in (*first, *second)] == [(2, 0, 1000), (2, 10, 1000)]
    assert feed.written
    reply = text_reply("Once upon a time.")
    await stage.record(reply)
    assert await take(stream) == Committed(seq=2, event=reply)
    await stage.end("Once upon a time.")
    assert [item async for item in stream] == [
        Committed(seq=3, event=ExecutionEnded(status="completed", text="Once upon a time.")),
        Ended(status="completed", text="Once upon a time."),
    ]


async def test_a_reader_who_comes_in_mid_sentence_gets_its_beginning_too(stage: Stage) -> None:
    seen = Statements(stage.database)
    async with stage.saying(epoch=1, seq=2) as feed:
        feed("Once upon ")
        await seen.inserted(1)
        stream = stage.follow(after_seq=1)
        feed("a time")
        await take_text(stream, "Once upon a time")
        late = stage.follow(after_seq=1)
        await take_text(late, "Once upon a time")


async def test_a_reader_resumes_within_a_piece(stage: Stage) -> None:
    stream = stage.follow(after_seq=1)
    async with stage.saying(epoch=1, seq=2) as feed:
        feed("Once upon a time")
        (piece,) = await take_text(stream, "Once upon a time")
        resumed = stage.follow(after_seq=1, offset=5, epoch=piece.epoch)
        assert await take(resumed) == Delta(seq=2, offset=5, epoch=piece.epoch, text="upon a time")
        feed(".")
        assert await take(resumed) == Delta(seq=2, offset=16, epoch=piece.epoch, text=".")


async def test_a_take_over_resets_the_text_and_what_the_old_worker_still_says_is_not_shown(stage: Stage) -> None:
    stream = stage.follow(after_seq=1)
    async with stage.saying(epoch=1, seq=2) as old:
        old("Once upon")
        (piece,) = await take_text(stream, "Once upon")
        epoch = await stage.claim()
        assert await take(stream) == Reset(seq=2)
        await stage.set_execution(waiting_for={"kind": "answer", "id": 1})
        late = stage.follow(after_seq=1)
        assert isinstance(await take(late), Waiting)
        assert isinstance(await take(stream), Waiting)
        statements = Statements(stage.database)
        old(" a time that is over")
        await statements.inserted(1)
        async with stage.saying(epoch=epoch, seq=2) as new:
            new("Long ago")
            (told,) = await take_text(stream, "Long ago")
        resumed = stage.follow(after_seq=1, offset=9, epoch=piece.epoch)
        assert await take(resumed) == Reset(seq=2)
        assert await take(resumed) == told
    assert told.epoch > piece.epoch
    assert told.offset == 0


async def test_a_second_attempt_under_one_lease_resets_the_text_of_the_first(stage: Stage) -> None:
    stream = stage.follow(after_seq=1)
    async with stage.saying(epoch=1, seq=2) as feed:
        feed("A reply that is cut in the midd")
        await take_text(stream, "A reply that is cut in the midd")
    async with stage.saying(epoch=1, seq=2) as feed:
        feed("Whole.")
        assert await take(stream) == Reset(seq=2)
        await take_text(stream, "Whole.")


async def test_the_text_of_another_execution_of_the_session_is_not_shown(stage: Stage) -> None:
    second = await queued_stage(stage.database, stage.user_id, stage.session_id)
    first_stream, second_stream = stage.follow(after_seq=1), second.follow(after_seq=1)
    async with stage.saying(epoch=1, seq=2) as feed:
        feed("For the first.")
        await take_text(first_stream, "For the first.")
        await second.set_execution(waiting_for={"kind": "turn"})
        # A reader that has seen as much of the table as the other: the first thing that it tells is something else.
        assert await take(second_stream) == Waiting(waiting_for={"kind": "turn"})
    await stage.end("For the first.")
    assert [type(item) async for item in first_stream] == [Committed, Ended]
    await second.record(WISH)
    assert await take(second_stream) == Committed(seq=3, event=WISH)


async def test_a_tenant_cannot_follow_the_execution_of_another(stage: Stage, bob: int) -> None:
    with pytest.raises(EntityNotFoundError):
        await take(follow(stage.database, bob, stage.execution_id))


async def test_a_question_to_a_person_is_told_once_and_again_when_it_is_another(stage: Stage) -> None:
    stream = stage.follow(after_seq=1)
    for number in (1, 2):
        question: dict[str, JsonValue] = {"kind": "question", "id": number}
        await stage.set_execution(waiting_for=question)
        assert await take(stream) == Waiting(waiting_for=question)
    await stage.set_execution(waiting_for=None)
    await stage.record(UserSpoke(text="Blue."))
    assert await take(stream) == Committed(seq=2, event=UserSpoke(text="Blue."))


@pytest.mark.parametrize(
    ("row", "end"),
    [
        ({"status": "completed", "result": {"text": "Done."}}, Ended(status="completed", text="Done.")),
        ({"status": "failed", "error": "It broke."}, Ended(status="failed", text="It broke.")),
        ({"status": "cancelled", "error": None}, Ended(status="cancelled", text="")),
    ],
    ids=["completed", "failed", "cancelled"],
)
async def test_whoever_comes_after_the_last_step_is_told_how_it_ended(
    stage: Stage, row: dict[str, Any], end: Ended
) -> None:
    await stage.set_execution(**row)
    assert [item async for item in stage.follow(after_seq=1)] == [end]


async def test_a_long_journal_is_told_whole_and_in_order(stage: Stage) -> None:
    async with stage.database.begin(stage.user_id) as db:
        filler = {"user_id": stage.user_id, "session_id": stage.session_id, "execution_id": stage.execution_id}
        body = WISH.model_dump(mode="json")
        db.add_all(AgentStep(**filler, seq=seq, kind="user", body=body) for seq in range(2, 1502))
        session = await db.get_one(AgentSession, stage.session_id)
        session.next_seq = 1502
    await stage.end("Done.")
    items = [item async for item in stage.follow()]
    assert [item.seq for item in items if isinstance(item, Committed)] == list(range(1, 1503))
    assert items[-1] == Ended(status="completed", text="Done.")


# What it costs


async def test_a_reply_that_is_faster_than_a_flush_uses_no_database(stage: Stage) -> None:
    seen = Statements(stage.database)
    async with stage.saying(epoch=1, seq=2) as feed:
        feed("Quick.")
    assert (seen.all, feed.written) == (0, False)


async def test_nothing_is_written_while_nobody_watches(stage: Stage) -> None:
    seen = Statements(stage.database)
    async with stage.saying(epoch=1, seq=2) as feed:
        feed("Into the void")
        await seen.inserted(3)
    assert not feed.written
    assert await stage.live_rows() == 0


async def test_nothing_is_written_for_a_reader_who_has_left(stage: Stage) -> None:
    await take(stage.follow())
    async with stage.database.begin(stage.user_id) as db:
        await db.execute(text('UPDATE "agentReaders" SET "seenAt" = now() - interval \'11 seconds\''))
    seen = Statements(stage.database)
    async with stage.saying(epoch=1, seq=2) as feed:
        feed("Into the void")
        await seen.inserted(2)
    assert await stage.live_rows() == 0


# What goes wrong


async def test_a_database_that_cannot_be_reached_never_hurts_a_reply(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    database = Database(Address(dsn=nowhere, direct_dsn=nowhere, pooled=False, connect_timeout_s=1))
    tried = anyio.Event()
    event.listen(database.engine.sync_engine, "do_connect", lambda *_: tried.set())
    writer = DeltaWriter(database)
    async with writer.writing(user_id=1, session_id=1, epoch=1, seq=1) as feed:
        feed("Said anyway.")
        with anyio.fail_after(PATIENCE_S):
            while len(caplog.records) < 1:
                await anyio.lowlevel.checkpoint()
        assert tried.is_set()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await database.close()


async def test_an_error_of_the_block_arrives_as_it_is(stage: Stage) -> None:
    async def fail() -> None:
        async with stage.saying(epoch=1, seq=2) as feed:
            feed("Half a sent")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_when_the_table_is_lost_the_gap_is_not_shown_and_the_step_brings_everything(stage: Stage) -> None:
    stream, late = stage.follow(after_seq=1), stage.follow()
    async with stage.saying(epoch=1, seq=2) as feed:
        feed("Once upon ")
        await take_text(stream, "Once upon ")
        async with stage.database.begin(stage.user_id) as db:
            await db.execute(text('DELETE FROM "agentDeltas"'))
        feed("a time")
        assert "".join(piece.text for piece in await take_text(stream, "a time")) == "a time"
        assert await take(late) == Committed(seq=1, event=WISH)
    reply = text_reply("Once upon a time")
    await stage.record(reply)
    assert await take(late) == Committed(seq=2, event=reply)


async def test_a_reader_outlives_its_connections(stage: Stage) -> None:
    stream = stage.follow()
    await take(stream)
    async with stage.database.begin_admin() as db:
        await db.execute(text("RESET ROLE"))
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        await db.execute(text(f"{others} AND pid <> pg_backend_pid()"))
    await stage.end("Done.")
    assert [type(item) async for item in stream] == [Committed, Ended]


# From Python

TELLER = Agent(name="teller", instructions="Tell stories.")


async def test_a_program_streams_its_own_agent_to_the_end(database: Database, alice: int) -> None:
    model = ScriptedModel(text_reply("The end."))
    async with Runtime(TELLER, local=system_on(database, alice, model)) as runtime:
        items = [item async for item in runtime.stream(TELLER, "Tell me a story.")]
        assert [item.event.kind for item in items if isinstance(item, Committed)] == [
            *("user", "assistant", "plan", "control")
        ]
        assert items[-1] == Ended(status="completed", text="The end.")
        seqs = [item.seq for item in items if isinstance(item, Committed)]
        (execution_id,) = await execution_ids(database, alice)
        again = [item async for item in runtime.follow(execution_id, after_seq=seqs[1])]
    assert again == [item for item in items if not isinstance(item, Delta | Reset)][2:]


async def test_a_program_that_leaves_the_stream_stops_driving_and_can_resume(database: Database, alice: int) -> None:
    begun = anyio.Event()

    class Slow(ScriptedModel):
        async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
            if not begun.is_set():
                begun.set()
                await anyio.sleep_forever()
            return await super().reply(request, on_text=on_text)

    async with Runtime(TELLER, local=system_on(database, alice, Slow(text_reply("The end.")))) as runtime:
        stream = runtime.stream(TELLER, "Tell me a story.")
        async with aclosing(stream):
            await take(stream)
            with anyio.fail_after(PATIENCE_S):
                await begun.wait()
        (execution_id,) = await execution_ids(database, alice)
        with anyio.fail_after(PATIENCE_S):
            while await is_leased(database, alice):
                await anyio.lowlevel.checkpoint()
        assert (await runtime.resume(execution_id)).text == "The end."


async def test_a_model_that_cannot_answer_ends_the_stream_with_its_error(database: Database, alice: int) -> None:
    model = ScriptedModel(ModelUnavailableError("busy", retry_after_s=60))
    async with Runtime(TELLER, local=system_on(database, alice, model)) as runtime:
        with pytest.raises(ModelUnavailableError):
            _ = [item async for item in runtime.stream(TELLER, "Tell me a story.")]


async def execution_ids(database: Database, user_id: int) -> list[int]:
    async with database.begin(user_id) as db:
        return [row.id for row in await executions.newest(db, limit=10)]


async def is_leased(database: Database, user_id: int) -> bool:
    async with database.begin(user_id) as db:
        return await db.scalar(select(AgentSession.lease_owner)) is not None


@asynccontextmanager
async def own_server() -> AsyncGenerator[EmbeddedServer]:
    """A server that this test may kill."""
    base = make_data_dir()
    server = EmbeddedServer(base)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(base, ignore_errors=True)


async def crash(server: EmbeddedServer) -> None:
    """Kill the server without a shutdown, so that its recovery empties the unlogged tables."""
    (pid_file,) = server.home.rglob("postmaster.pid")
    postmaster = int(pid_file.read_text().split()[0])
    with os.fdopen(os.pidfd_open(postmaster)) as process:
        os.kill(postmaster, signal.SIGQUIT)
        await anyio.wait_readable(process)


async def test_reader_and_writer_go_on_after_a_crash_of_the_server_that_empties_the_table() -> None:
    async with own_server() as server:
        server.start()
        dsn = server.ensure_database()
        address = Address(dsn=dsn, direct_dsn=dsn, pooled=False)
        await migrate.upgrade(address)
        database = Database(address)
        try:
            stage = await begun(database, await add_user(database, "alice"))
            stream = stage.follow(after_seq=1)
            async with stage.saying(epoch=1, seq=2) as feed:
                feed("Once upon ")
                await take_text(stream, "Once upon ")
                await crash(server)
                feed("a time")
                await anyio.to_thread.run_sync(server.start)
                assert "".join(piece.text for piece in await take_text(stream, "a time")) == "a time"
                assert await stage.live_rows() == 1
            await stage.end("Once upon a time")
            assert [type(item) async for item in stream] == [Committed, Ended]
        finally:
            await database.close()
