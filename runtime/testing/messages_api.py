"""A fake of the Messages API, so that the real SDK is tested over a real connection.

Owns the two routes, numbering and signatures. What it refuses is in `messages_rules`, what it counts in `prompt_cache`,
how it streams in `messages_stream`, what it can do wrong in `faults`.
"""

import copy
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, assert_never

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from runtime.events import ModelReplied
from runtime.ports import Json
from runtime.testing.faults import Cut, Fault, HtmlPage, HttpFault, Paced, PingForever, Stall, StreamError
from runtime.testing.messages_rules import IssuedBlocks, first_counting_problem, first_problem
from runtime.testing.messages_stream import event_frame, message_frames
from runtime.testing.prompt_cache import PromptCache, input_tokens

Answer = ModelReplied | Json | Fault
"""A reply, a message as the API words it (see `api_message`), or something that goes wrong."""

Script = Callable[[Json, int], Answer]
"""Gets the request's body and how many requests the script has answered before."""

_STATUS_OF = {"rate_limit_error": 429, "overloaded_error": 529, "timeout_error": 504, "invalid_request_error": 400}
_HTML = "<html><body><h1>Please sign in to the network</h1></body></html>"


def api_message(content: Iterable[Json], stop_reason: str = "end_turn") -> Json:
    """Return what a script answers when it wants to word the blocks itself.

    Thinking blocks may leave out the signature; the API signs them. The `input` of a call may be a string, the raw JSON
    text that the model wrote.
    """
    return {"content": list(content), "stop_reason": stop_reason}


def in_order(*answers: Answer) -> Script:
    """Return a script that gives these answers one by one, and has none beyond them."""

    def script(_: Json, index: int) -> Answer:
        if index >= len(answers):
            message = f"the script has {len(answers)} answers and was asked for one more"
            return HttpFault(status=400, kind="invalid_request_error", message=message)
        return answers[index]

    return script


class FakeMessagesAPI:
    """POST /v1/messages (JSON and server-sent events) and /v1/messages/count_tokens, scripted.

    A request that the real API would refuse is answered with its 400 and never reaches the script. Usage is computed
    from the request, with a prompt cache that starts empty.
    """

    def __init__(self, script: Script, *, minimum_cache_tokens: int = 1024) -> None:
        self._script = script
        self._cache = PromptCache(minimum_cache_tokens)
        self._issued = IssuedBlocks()
        self._answered = 0
        self.requests: list[Json] = []
        """The body of every request to /v1/messages, refused ones included."""
        self.app = Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
            ]
        )

    async def _count_tokens(self, request: Request) -> Response:
        body: Json = await request.json()
        problem = first_counting_problem(body, self._issued)
        if problem is not None:
            return _error(400, "invalid_request_error", problem, request_id="req_fake_count")
        return JSONResponse({"input_tokens": input_tokens(body)})

    async def _messages(self, request: Request) -> Response:
        body: Json = await request.json()
        self.requests.append(body)
        request_id = f"req_fake_{len(self.requests):06d}"
        problem = first_problem(body, self._issued)
        if problem is not None:
            return _error(400, "invalid_request_error", problem, request_id=request_id)
        answer = self._script(copy.deepcopy(body), self._answered)
        self._answered += 1
        response = self._response(answer, body)
        response.headers["request-id"] = request_id
        return response

    def _response(self, answer: Answer, body: Json) -> Response:
        streams = bool(body.get("stream"))
        match answer:
            case HttpFault(status=status, kind=kind, message=message, headers=headers):
                response = _error(status, kind, message, request_id="req_fake")
                response.headers.update(headers)
                return response
            case HtmlPage(status=status):
                return HTMLResponse(_HTML, status_code=status)
            case Cut(reply=reply, size_bytes=size, is_clean=is_clean):
                whole = b"".join(self._frames(reply, body))
                return _Body([whole[:size]], is_stream=streams, ending="whole" if is_clean else "dropped")
            case Stall(reply=ModelReplied() | dict() as reply, size_bytes=size):
                whole = b"".join(self._frames(reply, body))
                return _Body([whole[:size]], is_stream=streams, ending="silent")
            case Stall():
                return _Silence()
            case Paced(reply=reply, interval_s=interval_s):
                return _Body(self._frames(reply, body), is_stream=streams, pause_s=interval_s)
            case PingForever(interval_s=interval_s):
                return self._pinging(body, interval_s)
            case StreamError():
                return self._broken_off(answer, body)
            case ModelReplied() | dict():
                return _Body(self._frames(answer, body), is_stream=streams)
            case _ as unreachable:
                assert_never(unreachable)

    def _broken_off(self, fault: StreamError, body: Json) -> Response:
        if not body.get("stream"):
            return _error(_STATUS_OF.get(fault.kind, 500), fault.kind, fault.message, request_id="req_fake")
        error = event_frame({"type": "error", "error": {"type": fault.kind, "message": fault.message}})
        return _Body([*self._frames(fault.reply, body)[: fault.events], error], is_stream=True)

    def _pinging(self, body: Json, interval_s: float) -> Response:
        if not body.get("stream"):
            # JSON may begin with blanks, and proxies use them to keep a connection.
            return _Body([], is_stream=False, beat=_Beat(b" ", interval_s))
        head = self._frames(api_message([]), body)[0]
        return _Body([head], is_stream=True, beat=_Beat(event_frame({"type": "ping"}), interval_s))

    def _frames(self, reply: ModelReplied | Json, body: Json) -> list[bytes]:
        """Return the body of the answer in the pieces it is sent in, and remember what they sign."""
        message = self._message(reply, body)
        self._issued.remember(message)
        if body.get("stream"):
            return list(message_frames(message))
        content = [_with_parsed_input(block) for block in message["content"]]
        return [json.dumps({**message, "content": content}).encode()]

    def _message(self, reply: ModelReplied | Json, body: Json) -> Json:
        worded = _worded(reply) if isinstance(reply, ModelReplied) else reply
        content = [_signed(block) for block in worded["content"]]
        output_tokens = max(1, len(json.dumps(content)) // 4)
        return {
            "id": f"msg_fake_{self._answered:06d}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": worded["stop_reason"],
            "stop_sequence": None,
            "usage": {**self._cache.usage(body), "output_tokens": output_tokens},
        }


def _worded(reply: ModelReplied) -> Json:
    return {"content": list(reply.content), "stop_reason": reply.stop_reason}


def _signed(block: Json) -> Json:
    if block.get("type") != "thinking" or "signature" in block:
        return block
    return {**block, "signature": f"sig_{hashlib.sha256(block['thinking'].encode()).hexdigest()}"}


def _with_parsed_input(block: Json) -> Json:
    raw = block.get("input")
    if not isinstance(raw, str):
        return block
    try:
        return {**block, "input": json.loads(raw)}
    except ValueError:
        # One JSON body cannot carry half a value; the API then answers with what it has: nothing.
        return {**block, "input": {}}


def _error(status: int, kind: str, message: str, *, request_id: str) -> Response:
    error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    return JSONResponse(error, status_code=status, headers={"request-id": request_id})


@dataclass(frozen=True, slots=True)
class _Beat:
    frame: bytes
    interval_s: float


class _Body(Response):
    """A body in pieces that ends whole, ends by dropping the connection, or does not end before the client leaves."""

    def __init__(
        self,
        pieces: Iterable[bytes],
        *,
        is_stream: bool,
        ending: Literal["whole", "dropped", "silent"] = "whole",
        beat: _Beat | None = None,
        pause_s: float = 0,
    ) -> None:
        super().__init__(media_type="text/event-stream" if is_stream else "application/json")
        del self.headers["content-length"]
        self._pieces = pieces
        self._ending = ending
        self._beat = beat
        self._pause_s = pause_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 -- Response's signature
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            if self._pause_s:
                await anyio.sleep(self._pause_s)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._beat is not None:
            async for frame in _beating(self._beat, receive):
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        elif self._ending == "silent":
            await _disconnected(receive)
        elif self._ending == "whole":
            await send({"type": "http.response.body", "body": b""})
        # Returning without a last piece makes the server close the connection.


class _Silence(Response):
    """Nothing at all, until the client leaves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 -- as above
        await _disconnected(receive)


async def _beating(beat: _Beat, receive: Receive) -> AsyncIterator[bytes]:
    while True:
        with anyio.move_on_after(beat.interval_s) as waiting:
            await _disconnected(receive)
        if not waiting.cancelled_caught:
            return
        yield beat.frame


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
