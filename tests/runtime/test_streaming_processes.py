"""Worker and reader in two processes: a worker dies in mid-sentence, another takes over, nothing is told twice."""

import json
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import Process
from sqlalchemy import func, select, text

from runtime.agents import ASSISTANT
from runtime.events import ModelReplied
from runtime.ports import Json
from runtime.streaming import Committed, Delta, Ended, Reset, StreamItem, Waiting, follow
from runtime.testing import FakeMessagesAPI, Paced, Stall, serve_loopback, text_reply
from runtime.testing.messages_api import Answer
from storage.models.runtime import AgentDelta
from storage.queries import executions
from storage.tenancy import Database

STORY = (
    "Once upon a time there was a worker that died in mid-sentence, and nobody who listened to it heard a word twice."
)
PATIENCE_S = 60


def dying_then_well(_: Json, index: int) -> Answer:
    """First stop in mid-sentence for ever, then say all of it at the pace of a person."""
    return (
        Stall(reply=text_reply(STORY), size_bytes=1200)
        if index == 0
        else Paced(reply=text_reply(STORY), interval_s=0.05)
    )


@asynccontextmanager
async def working(database: Database, user_id: int, execution_id: int, url: str) -> AsyncGenerator[Process]:
    order = {"dsn": database.address.dsn, "user_id": user_id, "execution_id": execution_id, "url": url}
    command = [sys.executable, "-m", "tests.runtime.streaming_worker", json.dumps(order)]
    async with await anyio.open_process(command, stdout=None, stderr=None) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def let_the_lease_lapse(database: Database, user_id: int) -> None:
    async with database.begin(user_id) as db:
        await db.execute(text('UPDATE "agentSessions" SET "leaseUntil" = now() - interval \'1 second\''))


def told(items: Iterable[StreamItem]) -> str:
    """Return what somebody has on the screen who shows every piece, and forgets what does not count."""
    done, live = "", ""
    for item in items:
        match item:
            case Delta(text=piece):
                live += piece
            case Reset():
                live = ""
            case Committed(event=ModelReplied() as reply):
                assert reply.text.startswith(live), "what was shown is no beginning of what was said"
                done, live = done + reply.text, ""
            case Committed() | Waiting() | Ended():
                pass
    return done


async def test_a_worker_killed_in_mid_sentence_is_told_as_a_reset_and_the_story_is_told_once(
    database: Database, alice: int
) -> None:
    async with database.begin(alice) as db:
        session_id = await executions.create_session(db, alice)
        execution_id = await executions.queue_execution(
            db, user_id=alice, session_id=session_id, agent_name=ASSISTANT.name, task="Tell me a story."
        )
    items: list[StreamItem] = []
    stream = follow(database, alice, execution_id)
    async with serve_loopback(FakeMessagesAPI(dying_then_well).app) as url:
        with anyio.fail_after(PATIENCE_S):
            async with working(database, alice, execution_id, url) as first:
                while not any(isinstance(item, Delta) for item in items):
                    items.append(await anext(stream))
                first.kill()
                await first.wait()
            await let_the_lease_lapse(database, alice)
            async with working(database, alice, execution_id, url) as second:
                items += [item async for item in stream]
                assert await second.wait() == 0

    kinds = [item.kind for item in items]
    assert kinds.count("reset") == 1
    before, after = items[: kinds.index("reset")], items[kinds.index("reset") :]
    assert any(isinstance(item, Delta) for item in before)
    pieces = [item for item in after if isinstance(item, Delta)]
    assert len(pieces) > 1
    assert [piece.offset for piece in pieces] == [sum(len(p.text) for p in pieces[:n]) for n in range(len(pieces))]
    assert told(items) == STORY
    assert items[-1] == Ended(status="completed", text=STORY)
    async with database.begin(alice) as db:
        recorded = [step.seq for step in await executions.steps(db, execution_id)]
        left = await db.scalar(select(func.count()).select_from(AgentDelta))
    assert [item.seq for item in items if isinstance(item, Committed)] == recorded
    assert left == 0
