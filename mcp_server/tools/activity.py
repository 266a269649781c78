"""What has happened in the account."""

import re
from datetime import datetime, timedelta
from typing import Annotated

from mcp_types import CallToolResult
from pydantic import Field

from mcp_server.app import CurrentApp
from mcp_server.errors import BadArgumentsError
from mcp_server.results import Page, page_result
from storage.queries.activity import activity_since
from storage.values import instant

_SPAN = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


async def activity_report(
    app: CurrentApp,
    since: Annotated[
        str, Field(max_length=40, description="A span such as 24h or 7d, or a time with its zone.")
    ] = "24h",
) -> Annotated[CallToolResult, Page]:
    """Count what has happened since a moment: messages, executions, cards, memories, changes.

    Each by state, with the time of the latest. Use it for "what is going on"; then entity_find for the rows. Fails on a
    time without zone.
    """
    start = _start(since, app.clock.now())
    async with app.reading() as db:
        found = await activity_since(db, start)
    rows = [
        {"what": line.what, "state": line.state, "count": line.count, "latest": instant(line.latest)} for line in found
    ]
    hint = f"Since {instant(start)}." if rows else f"Nothing has happened since {instant(start)}."
    return page_result(rows, hint=hint)


def _start(since: str, now: datetime) -> datetime:
    if span := _SPAN.fullmatch(since.strip()):
        return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        start = datetime.fromisoformat(since.strip())
    except ValueError:
        start = None
    if start is None or start.tzinfo is None:
        raise BadArgumentsError(
            "activity_report",
            [f"since: expects a span such as 24h, or a time such as 2026-11-20T09:00:00Z, got {since!r}"],
        )
    return start
