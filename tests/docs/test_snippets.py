"""Every block that a new user may copy works: commands, programs and settings of README.md, CONTRIBUTING.md and docs/.

A block is covered by one of the rules in `rule_of`; one that no rule covers fails. Some words are replaced, because
tests run side by side: `--port N` by a free port, the receiver's address by one that listens, `agency` by its path.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import typer.main
from mcp import Client, StdioServerParameters
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.cli.parser import app
from mcp_server.surface import TABLE
from runtime.testing import serve_loopback
from tests.docs.pages import PAGES, ROOT, Block, blocks, fence_lines, inline_commands, relative_links
from tests.user import PATIENCE_S, Agency, Running, Started

pytestmark = pytest.mark.usefixtures("kept_running")

CHECKED_ELSEWHERE = {
    "make demo": "tests/demo runs what it runs",
    "make test": "is this run",
    "make setup": "made the environment of this run; tests/packaging checks the lock",
    "make check": "the other half of .ci/run",
    "make fix": "ruff's own; `make check` fails on what it would mend",
    "pip install --require-hashes -r requirements.lock": "what `make setup` does; tests/packaging checks the lock",
    "pip install --no-deps --no-build-isolation -e .": "what `make setup` does",
}
"""Lines that no test of this file runs, and who does."""

BLOCKS = blocks()
FOREGROUND_ENDS = {"serve": "serving on ", "worker": "working with "}
"""What a command that goes on says when it is ready."""


def rule_of(block: Block) -> str:
    """Return how a block is checked."""
    match block.language:
        case "text":
            return "picture"
        case "bash" if any(words[0] == "agency" for words in block.commands):
            return "commands"
        case "bash" if all(" ".join(words) in CHECKED_ELSEWHERE for words in block.commands):
            return "elsewhere"
        case "python" if "webhook-signature" in block.text:
            return "webhook"
        case "python":
            return "program"
        case "json" if "mcpServers" in block.text:
            return "desktop"
        case _:
            return "none"


def under(rule: str) -> list[Block]:
    return [block for block in BLOCKS if rule_of(block) == rule]


def the(rule: str) -> Block:
    (block,) = under(rule)
    return block


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_rule_covers_the_block(block: Block) -> None:
    assert rule_of(block) != "none"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_of_the_page_is_overlooked(page: Path) -> None:
    name = page.relative_to(ROOT).as_posix()
    assert fence_lines(page) == 2 * sum(block.page == name for block in BLOCKS)


def test_what_is_checked_elsewhere_is_what_the_makefile_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    recipe = makefile.replace("--quiet --disable-pip-version-check ", "")
    for line in CHECKED_ELSEWHERE:
        program, _, rest = line.partition(" ")
        assert rest in targets if program == "make" else f"-m {line}\n" in recipe
    used = {" ".join(words) for block in under("elsewhere") for words in block.commands}
    assert used == CHECKED_ELSEWHERE.keys(), "a line that no page has any more"


@pytest.mark.parametrize("block", under("commands"), ids=str)
def test_the_commands_work(block: Block, agency: Agency, started: Started) -> None:
    for program, *arguments in block.commands:
        assert program == "agency", f"no rule for {program!r} beside commands of ours"
        if arguments[0] in FOREGROUND_ENDS:
            with started(*with_free_port(arguments)) as running:
                running.wait_for(FOREGROUND_ENDS[arguments[0]])
                assert running.stop().returncode == 0
            continue
        ran = agency(*arguments)
        assert ran.returncode == 0, ran.stderr
        if "--json" in arguments:
            json.loads(ran.stdout)


def with_free_port(arguments: list[str]) -> list[str]:
    return re.sub(r"--port\0\d+", "--port\0" + "0", "\0".join(arguments)).split("\0")


def programs() -> dict[str, str]:
    """Return the name of every program by its text: one that two pages print runs once."""
    examples = {path.read_text(encoding="utf-8"): path.name for path in sorted((ROOT / "examples").glob("*.py"))}
    return examples | {block.text: str(block) for block in under("program")}


@pytest.mark.parametrize("text", programs(), ids=programs().values())
def test_the_program_runs_as_it_is_written(text: str, environment: Mapping[str, str], tmp_path: Path) -> None:
    ran = run_program(text, environment, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout.strip()


def run_program(
    text: str, environment: Mapping[str, str], directory: Path, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run a program from a directory in which nothing of the repository lies."""
    file = directory / "program.py"
    file.write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(file), *arguments],
        env=dict(environment),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_the_swarm_of_the_readme_is_the_example() -> None:
    (block,) = [block for block in under("program") if block.page == "README.md"]
    assert block.text == (ROOT / "examples" / "hello_swarm.py").read_text(encoding="utf-8")


class Chat:
    """The other end of a webhook: takes replies, and keeps the raw bytes for the judge."""

    def __init__(self) -> None:
        self.arrived = anyio.Event()
        self.reply: tuple[bytes, dict[str, str]] = (b"", {})
        self.app = Starlette(routes=[Route("/replies", self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        self.reply = (await request.body(), dict(request.headers))
        self.arrived.set()
        return JSONResponse({})


async def test_the_signed_message_becomes_a_card_and_a_signed_reply(
    agency: Agency, started: Started, environment: Mapping[str, str], tmp_path: Path
) -> None:
    (wanted,) = [
        words for block in under("commands") for words in block.commands if words[:3] == ["agency", "webhook", "add"]
    ]
    chat = Chat()
    async with serve_loopback(chat.app) as url:
        words = [f"{url}/replies" if word.endswith("/replies") else word for word in wanted[1:]]
        webhook = json.loads((await in_thread(agency, *words, "--json")).stdout)
        with started("serve", "--port", "0") as serve:
            base = (await anyio.to_thread.run_sync(serve.wait_for, "serving on ")).split()[2]
            address = (base + webhook["path"], webhook["signingSecret"])
            ran = await in_thread(run_program, the("webhook").text, environment, tmp_path, *address)
            assert ran.returncode == 0, ran.stderr
            json.loads(ran.stdout)
            with anyio.fail_after(60):
                await chat.arrived.wait()
            await anyio.to_thread.run_sync(assert_stopped, serve)
    body, headers = chat.reply
    reply = Webhook(webhook["replySecret"]).verify(body, headers)
    assert "Fix the landing page" in reply["data"]["body"]
    listed = await in_thread(agency, "task", "list", "--text", "landing page", "--json")
    assert any(card["priority"] == "urgent" and card["dueDate"] for card in json.loads(listed.stdout)["items"])


def assert_stopped(serve: Running) -> None:
    ended = serve.stop()
    assert (ended.returncode, ended.stderr) == (0, "")


async def in_thread(call: Any, *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(partial(call, *arguments))


async def test_the_desktop_settings_start_a_server_with_a_board(environment: Mapping[str, str]) -> None:
    server = json.loads(the("desktop").text)["mcpServers"]["agency"]
    assert server["command"] == "agency"
    script = Path(sys.executable).with_name("agency")
    parameters = StdioServerParameters(command=str(script), args=server["args"], env=dict(environment))
    with anyio.fail_after(PATIENCE_S):
        async with Client(parameters) as client:
            assert len((await client.list_tools()).tools) == len(TABLE)
            assert not (await client.call_tool("task_board", {})).is_error


@pytest.mark.parametrize(("page", "words"), inline_commands(), ids=lambda value: str(value))
def test_a_command_in_a_sentence_exists(page: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    for word in words[1:]:
        if word.startswith("--"):
            assert any(word in parameter.opts for parameter in command.params), f"{page}: no option {word}"
        elif hasattr(command, "commands"):
            assert word in command.commands, f"{page}: no command {' '.join(words)!r}"
            command = command.commands[word]


@pytest.mark.parametrize(
    ("page", "target"), relative_links(), ids=lambda value: value.name if isinstance(value, Path) else value
)
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    assert (page.parent / target).exists()
