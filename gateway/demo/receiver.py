"""The site that chats with us: posts signed messages, and takes our replies after checking our signature."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx2
import uuid_utils
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.channels import standard_webhooks
from gateway.channels.errors import SignatureError
from gateway.demo.script import Line


class Site:
    """A web chat of the demo: one URL of ours to post to, one of its own for replies."""

    def __init__(self, *, reply_secret: str, now: Callable[[], datetime]) -> None:
        self.replies: dict[str, Any] = {}
        """Our replies by the id they came under: a repeated delivery is one reply."""
        self._reply_secret = reply_secret
        self._now = now
        self.app = Starlette(routes=[Route("/replies", self._take_reply, methods=["POST"])])

    async def post(self, client: httpx2.AsyncClient, url: str, secret: str, line: Line) -> int:
        """Post one signed message and return the id that it is stored under."""
        now = self._now()
        event = {
            "type": "message.inbound",
            "timestamp": now.isoformat(),
            "data": {"from": line.sender, "to": "demo", "body": line.text},
        }
        body = json.dumps(event, ensure_ascii=False).encode()
        headers = standard_webhooks.sign(secret, f"msg_{uuid_utils.uuid7().hex}", now, body)
        response = await client.post(url, content=body, headers=headers, timeout=15)
        response.raise_for_status()
        return int(response.json()["id"])

    async def _take_reply(self, request: Request) -> Response:
        body = await request.body()
        try:
            standard_webhooks.verify(request.headers, body, [self._reply_secret], self._now())
        except SignatureError as error:
            return JSONResponse({"error": str(error)}, status_code=401)
        event_id = request.headers["webhook-id"]
        self.replies[event_id] = json.loads(body)
        return JSONResponse({"id": f"site_{event_id}"})
