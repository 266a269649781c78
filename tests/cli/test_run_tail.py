"""`agency run tail`: watching an execution from another process than the one that drives it."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import Process

from runtime.events import ModelReplied
from runtime.local import open_local
from runtime.settings import RuntimeSettings
from storage.settings import StorageSettings
from tests.runtime.stage import WISH, Stage, queued_stage
from tests.user import PATIENCE_S, Agency, assert_one_line

REPLY = ModelReplied(
    content=(
        {"type": "text", "text": "Once upon a time."},
        {"type": "tool_use", "id": "toolu_1", "name": "remember", "input": {"key": "story"}},
    ),
    stop_reason="tool_use",
    model="any",
)


@pytest.fixture
async def stage(environment: Mapping[str, str]) -> AsyncGenerator[Stage]:
    """An execution of the user whose commands run here, claimed and with its first step."""
    settings = StorageSettings(data_dir=environment["AGENCY_DATA_DIR"])  # pyright: ignore[reportArgumentType] -- pydantic parses
    async with open_local(settings, RuntimeSettings(model="offline")) as local:
        prepared = await queued_stage(local.database, local.user_id)
        await prepared.claim()
        await prepared.record(WISH)
        await prepared.set_execution(status="executing")
        yield prepared


class Tail:
    """A running `agency run tail`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.shown = ""

    async def shows(self, words: str) -> None:
        """Wait until it has printed this."""
        assert self._process.stdout is not None
        with anyio.fail_after(PATIENCE_S):
            while words not in self.shown:
                self.shown += (await self._process.stdout.receive()).decode()

    async def end(self) -> tuple[int, str]:
        """Wait for its end, and return its exit code and what it said on stderr."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with anyio.fail_after(PATIENCE_S):
            async for printed in self._process.stdout:
                self.shown += printed.decode()
            said = b"".join([part async for part in self._process.stderr])
            return await self._process.wait(), said.decode()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)


@asynccontextmanager
async def tailing(environment: Mapping[str, str], *arguments: str) -> AsyncGenerator[Tail]:
    command = [sys.executable, "-m", "gateway.cli", "run", "tail", *arguments]
    async with await anyio.open_process(command, env=environment, stdin=subprocess.DEVNULL) as process:
        try:
            yield Tail(process)
        finally:
            if process.returncode is None:
                process.kill()


async def test_tail_completes_the_line_of_a_reply_with_its_step(environment: Mapping[str, str], stage: Stage) -> None:
    async with tailing(environment, str(stage.execution_id)) as tail:
        await tail.shows("   1  user         Tell me a story.\n")
        async with stage.saying(epoch=1, seq=2) as feed:
            feed("Long ago")
            await tail.shows("   2  assistant    Long ago")
        async with stage.saying(epoch=await stage.claim(), seq=2) as feed:
            feed("Once upon")
            await tail.shows("Once upon")
        await stage.record(REPLY)
        await stage.end("Once upon a time.")
        assert await tail.end() == (0, "")
    assert tail.shown.splitlines() == [
        "   1  user         Tell me a story.",
        "   2  assistant    Long ago",
        "                   (cut off; it is being said anew)",
        "   2  assistant    Once upon a time.",
        "remember(key='story')",
        "   3  control      completed: Once upon a time.",
    ]


async def test_tail_prints_one_json_object_a_line(environment: Mapping[str, str], stage: Stage) -> None:
    async with tailing(environment, str(stage.execution_id), "--json") as tail:
        await tail.shows('"committed"')
        async with stage.saying(epoch=1, seq=2) as feed:
            feed("Once upon")
            await tail.shows('"delta"')
        await stage.record(REPLY)
        await stage.end("Once upon a time.")
        assert await tail.end() == (0, "")
    items = [json.loads(line) for line in tail.shown.splitlines()]
    assert [(item["kind"], item.get("seq")) for item in items] == [
        *(("committed", 1), ("delta", 2), ("committed", 2), ("committed", 3), ("ended", None))
    ]
    assert items[1]["text"] == "Once upon"
    assert items[2]["event"]["content"] == list(REPLY.content)


async def test_an_interrupted_tail_ends_its_line_and_leaves_without_a_word(
    environment: Mapping[str, str], stage: Stage
) -> None:
    async with tailing(environment, str(stage.execution_id)) as tail, stage.saying(epoch=1, seq=2) as feed:
        await tail.shows("Tell me a story.")
        feed("Once upon")
        await tail.shows("Once upon")
        tail.interrupt()
        assert await tail.end() == (130, "")
    assert tail.shown.endswith("Once upon\n")


def test_tail_of_what_is_not_there_is_one_line_that_says_so(agency: Agency) -> None:
    assert_one_line(agency("run", "tail", "987654"), code=3, complaint="no agentExecutions row 987654")
