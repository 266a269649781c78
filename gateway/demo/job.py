"""The steps of the demo, each of which does something and then reads in Postgres that it happened."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2

from gateway.app import make_app
from gateway.channels.standard_webhooks import new_secret
from gateway.demo import mcp_visit, team
from gateway.demo.receiver import Site
from gateway.demo.script import CLIENTS, Line
from gateway.errors import DemoFailedError
from gateway.http_server import listen, serving
from gateway.worker import working
from runtime.clock import SystemClock
from runtime.local import Local
from runtime.ports import Json
from runtime.webhooks import WebhookRequest, ensure_webhook
from storage.queries import demo as queries

ANSWER_TIMEOUT_S = 120.0
"""For all messages of a round; a real model takes its time."""

Tell = Callable[[str], None]
"""Shows progress to a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened, and where to look."""

    model: str
    messages: Sequence[Json]
    swarm: Json
    mcp: Json
    rows: Json
    seconds: float

    def as_json(self) -> Json:
        """Return the report for machines."""
        return {
            "ok": True,
            "model": self.model,
            "messages": list(self.messages),
            "swarm": self.swarm,
            "mcp": self.mcp,
            "rows": self.rows,
            "seconds": round(self.seconds, 2),
        }


async def run_demo(local: Local, lines: Sequence[Line], port: int, tell: Tell) -> Report:
    """Run the main job with everything in this process but the MCP server, which is a child as in Claude Desktop.

    Raises:
        PortTakenError: something else listens on `port`.
        DemoFailedError: a step was not found in Postgres.
    """
    began = time.monotonic()
    listener = listen("127.0.0.1", port)
    async with working(local), serving(make_app(local), listener) as url:
        messages = await _chat(local, url, lines, tell)
        tell("a swarm of three agents works a small plan")
        swarm = await team.work_together(local)
        tell("an MCP client connects over stdio, as Claude Desktop would")
        mcp = await mcp_visit.visit(local, [sys.executable, "-m", "gateway.cli"], messages)
    async with local.database.begin(local.user_id, read_only=True) as db:
        rows = await queries.row_counts(db)
    seconds = time.monotonic() - began
    return Report(model=local.model.name, messages=messages, swarm=swarm, mcp=mcp, rows=rows, seconds=seconds)


async def _chat(local: Local, url: str, lines: Sequence[Line], tell: Tell) -> list[Json]:
    """Send the lines as signed requests and return each one's story as Postgres tells it."""
    request = WebhookRequest(name="demo", signing_secret=new_secret(), reply_secret=new_secret())
    site_listener = listen("127.0.0.1", 0)
    reply_url = f"http://127.0.0.1:{site_listener.getsockname()[1]}/replies"
    async with local.database.begin(local.user_id) as db:
        await queries.ensure_clients(db, local.user_id, CLIENTS)
        webhook = await ensure_webhook(db, local.keyring, local.user_id, request, reply_url=reply_url)
    site = Site(reply_secret=webhook.reply_secret, now=SystemClock().now)
    stories: list[Json] = []
    async with serving(site.app, site_listener), httpx2.AsyncClient() as client:
        for round_ in rounds(lines):
            tell(
                f"{len(round_)} signed message(s) go in"
                if len(round_) > 1
                else f"a signed message goes in: {round_[0].text}"
            )
            ids = [
                await site.post(client, f"{url}/webhooks/{webhook.token}", webhook.signing_secret, line)
                for line in round_
            ]
            await _settled(local, ids)
            stories += [await _story(local, site, inbound_id, tell) for inbound_id in ids]
    return stories


def rounds(lines: Sequence[Line]) -> list[list[Line]]:
    """Split lines so that a participant's next message is sent after the answer to the one before."""
    split: list[list[Line]] = []
    for line in lines:
        if not split or any(other.sender == line.sender for other in split[-1]):
            split.append([])
        split[-1].append(line)
    return split


async def _settled(local: Local, inbound_ids: Sequence[int]) -> None:
    """Wait until every message has come to its end and every answer has been delivered."""
    with anyio.move_on_after(ANSWER_TIMEOUT_S):
        while True:
            async with local.database.begin(local.user_id, read_only=True) as db:
                open_ids = await queries.unsettled(db, inbound_ids)
            if not open_ids:
                return
            await anyio.sleep(0.05)
    raise DemoFailedError(
        f"messages {inbound_ids} were not answered within {ANSWER_TIMEOUT_S:g} s; see 'agency doctor'"
    )


async def _story(local: Local, site: Site, inbound_id: int, tell: Tell) -> Json:
    async with local.database.begin(local.user_id, read_only=True) as db:
        story = await queries.story_of(db, inbound_id)
    check(story["status"] == "processed", f"message {inbound_id} ended as {story['status']}: {story['error']}")
    for reply in story["replies"]:
        check(reply["status"] == "sent", f"reply {reply['id']} is {reply['status']}: {reply['error']}")
        delivered: Any = site.replies.get(f"out_{reply['id']}")
        check(delivered is not None, f"reply {reply['id']} did not reach the site")
        check(delivered["data"]["body"] == reply["body"], f"reply {reply['id']} reached the site altered")
        tell(f"  reply: {reply['body']}")
    if story["body"].strip():
        check(bool(story["replies"]), f"message {inbound_id} was not answered")
        check(story["execution"]["status"] == "completed", f"execution {story['execution']['id']} did not complete")
        check(bool(story["tools"]), f"execution {story['execution']['id']} called no tool")
    return story


def check(holds: bool, otherwise: str) -> None:  # noqa: FBT001 -- a claim, read as `check(claim, otherwise)`
    """Fail the demo when a claim does not hold.

    Raises:
        DemoFailedError: it does not hold; `otherwise` says what was found.
    """
    if not holds:
        raise DemoFailedError(otherwise)
