"""The Standard Webhooks channel: who is believed, what is poison, and what becomes of a reply."""

import base64
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import anyio.abc
import httpx2
import pytest
import time_machine
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.channels.errors import PoisonError, PoisonReason, SignatureError, SignatureReason, SigningError
from gateway.channels.messages import InboundMessage, Refused, Retry, SendOutcome, Sent
from gateway.channels.payload import MAX_DEPTH
from gateway.channels.standard_webhooks import (
    BODY_LIMIT_BYTES,
    MAX_RETRY_AFTER_S,
    RETRY_DELAYS_S,
    OutboundData,
    OutboundEvent,
    delay_before,
    new_secret,
    normalise,
    provider_message_id,
    send,
    sign,
    verify,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)
SECRET, OLD_SECRET, FOREIGN_SECRET = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3))
BODY = b'{"type":"message.inbound","data":{"from":"ann","body":"hi"}}'
EVENT = OutboundEvent(
    timestamp=NOW, data=OutboundData(id=5, conversation_id=9, to="ann", body="Grüße", in_reply_to="msg_1")
)


def signed(
    *, secret: str = SECRET, at: datetime = NOW, body: bytes = BODY, message_id: str = "msg_1"
) -> dict[str, str]:
    return sign(secret, message_id, at, body)


def signature_with(*secrets: str) -> str:
    return " ".join(signed(secret=secret)["webhook-signature"] for secret in secrets)


# --- who is believed ---


@pytest.mark.parametrize(
    ("headers", "secrets"),
    [
        pytest.param(signed(), [SECRET], id="signed with the secret"),
        pytest.param(signed(), [SECRET.removeprefix("whsec_")], id="secret without its prefix"),
        pytest.param(signed(), [SECRET.rstrip("=")], id="secret without padding"),
        pytest.param(signed(), [OLD_SECRET, SECRET], id="one of several secrets"),
        pytest.param(signed() | {"webhook-signature": signature_with(FOREIGN_SECRET, SECRET)}, [SECRET], id="second"),
        pytest.param(signed() | {"webhook-signature": f"v1a,AAAA {signature_with(SECRET)}"}, [SECRET], id="after v1a"),
        pytest.param(
            signed() | {"webhook-signature": f"junk  , v1 {signature_with(SECRET)}"}, [SECRET], id="after junk"
        ),
        pytest.param({name.title(): value for name, value in signed().items()}, [SECRET], id="names in other case"),
        pytest.param(Headers(signed()), [SECRET], id="starlette's headers"),
        pytest.param(signed(at=NOW - timedelta(seconds=299)), [SECRET], id="299 s old"),
        pytest.param(signed(at=NOW + timedelta(seconds=299)), [SECRET], id="299 s ahead"),
        pytest.param(signed(message_id="x" * 255), [SECRET], id="longest id"),
    ],
)
def test_a_request_signed_with_a_secret_in_force_is_believed(headers: dict[str, str], secrets: list[str]) -> None:
    verify(headers, BODY, secrets, NOW)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing_header"),
        *[({k: v for k, v in signed().items() if k != name}, "missing_header") for name in signed()],
        (signed() | {"webhook-id": ""}, "malformed_header"),
        (signed() | {"webhook-id": "msg_2"}, "no_match"),
        (signed() | {"webhook-id": "msg.1"}, "malformed_header"),
        (signed() | {"webhook-id": "msg 1"}, "malformed_header"),
        (signed() | {"webhook-id": "msg_1\n"}, "malformed_header"),
        (signed() | {"webhook-id": "msg_ü"}, "malformed_header"),
        (signed() | {"webhook-id": "x" * 256}, "malformed_header"),
        (signed() | {"webhook-timestamp": str(int(NOW.timestamp()) + 1)}, "no_match"),
        (signed() | {"webhook-timestamp": f"0{int(NOW.timestamp())}"}, "no_match"),
        *[
            (signed() | {"webhook-timestamp": text}, "malformed_header")
            for text in ("", "noon", "-1", "1.7e9", "1772366400.0", " 1772366400", "1_772_366_400", "nan", "9" * 400)
        ],
        (signed() | {"webhook-timestamp": "١٧٧٢٣٦٦٤٠٠"}, "malformed_header"),
        (signed(at=NOW - timedelta(seconds=301)), "timestamp_too_old"),
        (signed(at=NOW + timedelta(seconds=302)), "timestamp_too_new"),
        (signed(secret=FOREIGN_SECRET), "no_match"),
        (signed(body=BODY + b" "), "no_match"),
        *[
            (signed() | {"webhook-signature": text}, "no_match")
            for text in (
                "",
                "v1",
                "v1,",
                signature_with(SECRET).removeprefix("v1,"),
                signature_with(SECRET).replace("v1,", "v2,"),
                signature_with(SECRET).replace("v1,", "v1a,"),
                signature_with(SECRET)[:-1],
                signature_with(SECRET) + "=",
                signature_with(SECRET).swapcase(),
                "v1,ü\udc80",
            )
        ],
    ],
)
def test_any_other_request_is_refused(headers: dict[str, str], reason: SignatureReason) -> None:
    with pytest.raises(SignatureError) as caught:
        verify(headers, BODY, [SECRET, OLD_SECRET], NOW)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("secrets", "reason"),
    [
        ([], "no_secret"),
        ([""], "unusable_secret"),
        (["whsec_"], "unusable_secret"),
        (["whsec_" + base64.b64encode(b"x" * 23).decode()], "unusable_secret"),
        (["whsec_not base64!"], "unusable_secret"),
        (["whsec_ü"], "unusable_secret"),
        ([SECRET, ""], "unusable_secret"),
    ],
)
def test_without_a_usable_secret_nobody_is_believed(secrets: list[str], reason: SignatureReason) -> None:
    with pytest.raises(SignatureError) as caught:
        verify(signed(), BODY, secrets, NOW)
    assert caught.value.reason == reason
    assert not any(secret and secret in str(caught.value) for secret in secrets)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_header_given_twice_is_refused(name: str) -> None:
    pairs = [*signed().items(), (name, "other")]
    headers = Headers(raw=[(key.encode(), value.encode()) for key, value in pairs])
    with pytest.raises(SignatureError) as caught:
        verify(headers, BODY, [SECRET], NOW)
    assert caught.value.reason == "repeated_header"


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_signature_covers_every_byte_of_the_body(body: bytes, other: bytes) -> None:
    headers = signed(body=body)
    verify(headers, body, [SECRET], NOW)
    if other != body:
        with pytest.raises(SignatureError):
            verify(headers, other, [SECRET], NOW)


def test_the_message_id_is_the_header_that_was_signed() -> None:
    assert provider_message_id(signed(message_id="msg_77")) == "msg_77"


def test_a_new_secret_signs_what_it_verifies() -> None:
    secret = new_secret()
    verify(signed(secret=secret), BODY, [secret], NOW)
    assert secret != new_secret()


# --- the independent library agrees ---


@given(st.text(st.characters(codec="utf-8"), max_size=50))
def test_the_reference_library_believes_what_we_sign(text: str) -> None:
    with time_machine.travel(NOW, tick=False):
        Webhook(SECRET).verify(text, signed(body=text.encode()), json_parse=False)


@given(st.text(st.characters(codec="utf-8"), max_size=50))
def test_we_believe_what_the_reference_library_signs(text: str) -> None:
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(NOW.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("msg_1", NOW, text),
    }
    verify(headers, text.encode(), [SECRET], NOW)


@pytest.mark.parametrize("age_s", [-302, -299, 0, 299, 301])
def test_both_draw_the_line_at_five_minutes(age_s: int) -> None:
    headers = signed(at=NOW - timedelta(seconds=age_s))
    ours = theirs = True
    try:
        verify(headers, BODY, [SECRET], NOW)
    except SignatureError:
        ours = False
    try:
        with time_machine.travel(NOW, tick=False):
            Webhook(SECRET).verify(BODY, headers)
    except WebhookVerificationError:
        theirs = False
    assert ours == theirs == (abs(age_s) <= 300)


@pytest.mark.parametrize("message_id", ["", "msg.1", "msg 1", "msg\r\nx: y", "ü", "x" * 256])
def test_an_id_that_receivers_could_misread_is_not_signed(message_id: str) -> None:
    with pytest.raises(SigningError):
        signed(message_id=message_id)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "no base64"])
def test_an_unusable_secret_signs_nothing_and_is_not_quoted(secret: str) -> None:
    with pytest.raises(SigningError) as caught:
        signed(secret=secret)
    assert secret in {"", "whsec_"} or secret not in str(caught.value)


# --- what a body says ---


def body_with(**data: Any) -> bytes:
    return json.dumps({"type": "message.inbound", "data": {"from": "ann", **data}}).encode()


def test_a_full_message_is_read() -> None:
    media = ["https://cdn.example/a.png", "HTTP://cdn.example/b"]
    body = body_with(to="shop", body="Grüße 👋", mediaUrls=media, extra={"a": [1, None]})
    assert normalise(body, provider_message_id="msg_1") == InboundMessage(
        provider_message_id="msg_1",
        sender="ann",
        to="shop",
        body="Grüße 👋",
        media_urls=tuple(media),
        thread_key="",
        raw_payload=json.loads(body),
    )


@pytest.mark.parametrize("data", [{}, {"to": None, "body": None, "mediaUrls": None}, {"from": "  ann\n"}])
def test_only_the_sender_is_needed(data: dict[str, Any]) -> None:
    message = normalise(body_with(**data), provider_message_id="msg_1")
    assert (message.sender, message.to, message.body, message.media_urls) == ("ann", "", "", ())


def nested(depth: int) -> bytes:
    """The whole body has `depth` levels: two of ours, the rest lists."""
    return b'{"data":{"from":"ann","x":' + b"[" * (depth - 2) + b"]" * (depth - 2) + b"}}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"hello", "not_json"),
        (b"{", "not_json"),
        (b"{'from': 'ann'}", "not_json"),
        (b'\xef\xbb\xbf{"data":{"from":"ann"}}', "not_json"),
        (b'{"data":{"from":"a\x00nn"}}', "not_json"),
        (b"\xff\xfe", "not_utf8"),
        (b'{"data":{"from":"\xc3("}}', "not_utf8"),
        ('{"data":{"from":"ann"}}'.encode("utf-16"), "not_utf8"),
        (b'{"data":{"from":"\xed\xa0\x80"}}', "not_utf8"),
        (b"[]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"1", "not_an_object"),
        (b"null", "not_an_object"),
        (rb'{"data":{"from":"a\u0000nn"}}', "nul"),
        (rb'{"data":{"from":"ann"},"\u0000":1}', "nul"),
        (rb'{"data":{"from":"ann","deep":[[{"a\u0000":1}]]}}', "nul"),
        (rb'{"data":{"from":"ann","body":"\ud800"}}', "surrogate"),
        (rb'{"data":{"from":"ann","body":"\udc00\ud800"}}', "surrogate"),
        (rb'{"data":{"from":"ann"},"\udfff":1}', "surrogate"),
        (b'{"data":{"from":"ann","x":NaN}}', "number"),
        (b'{"data":{"from":"ann","x":-Infinity}}', "number"),
        (b'{"data":{"from":"ann","x":1e400}}', "number"),
        (b'{"data":{"from":"ann","x":' + b"9" * 5_000 + b"}}", "number"),
        (nested(MAX_DEPTH + 1), "too_deep"),
        (nested(100), "too_deep"),
        (nested(BODY_LIMIT_BYTES // 2), "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
        (b"{}", "field"),
        (b'{"data":[]}', "field"),
        (b'{"data":{}}', "field"),
        (b'{"from":"ann","body":"hi"}', "field"),
        (body_with(**{"from": None}), "field"),
        (body_with(**{"from": ""}), "field"),
        (body_with(**{"from": " \t"}), "field"),
        (body_with(**{"from": 7}), "field"),
        (body_with(**{"from": "x" * 300}), "field"),
        (body_with(to="x" * 300), "field"),
        (body_with(to=["shop"]), "field"),
        (body_with(body={"text": "hi"}), "field"),
        (body_with(mediaUrls="https://cdn.example/a.png"), "field"),
        (body_with(mediaUrls=[7]), "field"),
        (body_with(mediaUrls=["file:///etc/passwd"]), "field"),
        (body_with(mediaUrls=["https://" + "x" * 3_000]), "field"),
        (body_with(mediaUrls=["https://cdn.example/a.png"] * 21), "field"),
    ],
)
def test_poison_is_named_by_a_text_that_can_be_stored(body: bytes, reason: PoisonReason) -> None:
    with pytest.raises(PoisonError) as caught:
        normalise(body, provider_message_id="msg_1")
    assert caught.value.reason == reason
    stored = str(caught.value)
    assert stored.encode()
    assert "\0" not in stored
    assert 0 < len(stored) < 300


def test_a_body_at_the_deepest_level_is_read() -> None:
    assert normalise(nested(MAX_DEPTH), provider_message_id="msg_1").sender == "ann"


@given(
    st.binary(max_size=200) | st.text().map(lambda text: json.dumps({"data": {"from": text, "body": text}}).encode())
)
def test_any_body_is_either_a_message_or_poison(body: bytes) -> None:
    try:
        message = normalise(body, provider_message_id="msg_1")
    except PoisonError:
        return
    assert "\0" not in json.dumps(message.raw_payload, allow_nan=False)
    assert json.dumps(message.raw_payload, ensure_ascii=False).encode()


# --- what a receiver gets ---


def test_an_event_has_the_names_of_the_columns() -> None:
    assert json.loads(EVENT.model_dump_json()) == {
        "type": "message.outbound",
        "timestamp": "2026-03-01T12:00:00.500000Z",
        "data": {
            "id": 5,
            "conversationId": 9,
            "to": "ann",
            "body": "Grüße",
            "mediaUrls": [],
            "inReplyTo": "msg_1",
        },
    }


def test_an_event_needs_a_time_zone() -> None:
    with pytest.raises(ValidationError):
        OutboundEvent(timestamp=NOW.replace(tzinfo=None), data=EVENT.data)


@dataclass(slots=True)
class Receiver:
    """A site's web server on a real socket; `answer` is what its replyUrl does."""

    url: str
    answer: Callable[[Request], Awaitable[Response]]
    requests: list[tuple[Headers, bytes]] = field(default_factory=list[tuple[Headers, bytes]])
    released: anyio.Event = field(default_factory=anyio.Event)
    """Set at the end of the test, so that an answer may wait for it instead of for a time."""

    async def reply(self, request: Request) -> Response:
        """Record the request, then do as the test says."""
        self.requests.append((request.headers, await request.body()))
        return await self.answer(request)


async def ok(_: Request) -> Response:
    return Response(status_code=200)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # Listening before the server runs: an early connection waits in the queue instead of being refused.
        listener.listen()
        site = Receiver(url=f"http://127.0.0.1:{listener.getsockname()[1]}/reply", answer=ok)
        app = Starlette(
            routes=[Route("/reply", site.reply, methods=["POST"]), Route("/moved", site.reply, methods=["POST"])]
        )
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_level="error"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            yield site
            site.released.set()
            server.should_exit = True


async def deliver(url: str, *, timeout_s: float = 10, secret: str = SECRET, event_id: str = "out_5") -> SendOutcome:
    async with httpx2.AsyncClient(trust_env=False) as client:
        with anyio.fail_after(30):
            return await send(
                client, url=url, secret=secret, event_id=event_id, payload=EVENT, timeout_s=timeout_s, now=NOW
            )


def answering(status: int, headers: dict[str, str] | None = None) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(status_code=status, headers=headers)

    return answer


async def test_the_receiver_can_prove_the_event_with_the_reference_library(receiver: Receiver) -> None:
    assert await deliver(receiver.url) == Sent(external_id=None)
    [(headers, body)] = receiver.requests
    with time_machine.travel(NOW, tick=False):
        proven = Webhook(SECRET).verify(body, dict(headers))
    assert proven == json.loads(EVENT.model_dump_json())
    assert headers["webhook-id"] == "out_5"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("answer", "external_id"),
    [
        ({"id": "abc", "ok": True}, "abc"),
        ({"id": 7}, None),
        ({"id": ""}, None),
        ({"id": "x" * 256}, None),
        ({"id": "nul\0"}, None),
        ({}, None),
        (["abc"], None),
    ],
)
async def test_the_receivers_own_id_is_kept_if_it_gives_one(
    receiver: Receiver, answer: object, external_id: str | None
) -> None:
    async def reply(_: Request) -> Response:
        return JSONResponse(answer, status_code=201)

    receiver.answer = reply
    assert await deliver(receiver.url) == Sent(external_id=external_id)


@pytest.mark.parametrize("status", [200, 202, 204, 299])
async def test_every_2xx_is_a_delivery(receiver: Receiver, status: int) -> None:
    receiver.answer = answering(status)
    assert await deliver(receiver.url) == Sent()


async def test_gone_disables_the_receiver(receiver: Receiver) -> None:
    receiver.answer = answering(410)
    outcome = await deliver(receiver.url)
    assert isinstance(outcome, Refused)
    assert outcome.gone
    assert outcome.status == 410


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refusal_is_final_and_disables_nothing(receiver: Receiver, status: int) -> None:
    receiver.answer = answering(status)
    outcome = await deliver(receiver.url)
    assert isinstance(outcome, Refused)
    assert (outcome.status, outcome.gone) == (status, False)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_an_overloaded_or_broken_receiver_is_tried_again(receiver: Receiver, status: int) -> None:
    receiver.answer = answering(status)
    outcome = await deliver(receiver.url)
    assert isinstance(outcome, Retry)
    assert (outcome.status, outcome.after_s) == (status, None)


@pytest.mark.parametrize(
    ("retry_after", "after_s"),
    [
        ("90", 90.0),
        ("0", 0.0),
        (format_datetime(NOW.replace(microsecond=0) + timedelta(seconds=61), usegmt=True), 60.5),
        ("Sun, 01 Mar 2026 12:00:30 -0000", 29.5),
        (format_datetime(NOW - timedelta(hours=1), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=400), usegmt=True), MAX_RETRY_AFTER_S),
        ("9" * 5_000, MAX_RETRY_AFTER_S),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("Sun, 99 Mar 2026 12:00:00 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_may_say_when_to_come_back(
    receiver: Receiver, status: int, retry_after: str, after_s: float | None
) -> None:
    receiver.answer = answering(status, {"retry-after": retry_after})
    outcome = await deliver(receiver.url)
    assert isinstance(outcome, Retry)
    assert outcome.after_s == after_s


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_refused_and_not_followed(receiver: Receiver, status: int) -> None:
    receiver.answer = answering(status, {"location": receiver.url.replace("/reply", "/moved")})
    outcome = await deliver(receiver.url)
    assert isinstance(outcome, Refused)
    assert outcome.status == status
    assert len(receiver.requests) == 1


async def test_a_redirect_is_not_followed_by_a_client_that_would(receiver: Receiver) -> None:
    receiver.answer = answering(307, {"location": receiver.url.replace("/reply", "/moved")})
    async with httpx2.AsyncClient(trust_env=False, follow_redirects=True) as client:
        outcome = await send(
            client, url=receiver.url, secret=SECRET, event_id="out_5", payload=EVENT, timeout_s=10, now=NOW
        )
    assert isinstance(outcome, Refused)
    assert len(receiver.requests) == 1


async def test_a_silent_receiver_is_tried_again(receiver: Receiver) -> None:
    async def never(_: Request) -> Response:
        await receiver.released.wait()
        return Response()

    receiver.answer = never
    outcome = await deliver(receiver.url, timeout_s=0.2)
    assert isinstance(outcome, Retry)
    assert outcome.status is None


async def test_an_endless_answer_is_read_only_in_part(receiver: Receiver) -> None:
    written = 0

    async def fifty_megabytes() -> AsyncIterator[bytes]:
        nonlocal written
        for _ in range(800):
            written += 65_536
            yield b"x" * 65_536

    async def flood(_: Request) -> Response:
        return StreamingResponse(fifty_megabytes())

    receiver.answer = flood
    assert await deliver(receiver.url) == Sent(external_id=None)
    assert written < 800 * 65_536


@pytest.mark.parametrize("status", [200, 410, 500])
async def test_the_status_counts_although_the_body_never_ends(receiver: Receiver, status: int) -> None:
    async def drip() -> AsyncIterator[bytes]:
        yield b"{"
        await receiver.released.wait()

    async def answer(_: Request) -> Response:
        return StreamingResponse(drip(), status_code=status)

    receiver.answer = answer
    outcome = await deliver(receiver.url, timeout_s=0.5)
    expected = {200: Sent, 410: Refused, 500: Retry}[status]
    assert isinstance(outcome, expected)
    assert isinstance(outcome, Sent) or outcome.status == status


@asynccontextmanager
async def raw_server(answer: bytes) -> AsyncGenerator[str]:
    """A server that reads a little, writes `answer` as it is and hangs up."""

    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if answer:
                await stream.send(answer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, hang_up)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 -- anyio's `extra`, not Django's
        yield f"http://127.0.0.1:{port}/reply"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 20", b"220 smtp.example ESMTP\r\n", b"HTTP/1.1 200 OK\r\nbroken"])
async def test_a_connection_that_ends_without_an_answer_is_tried_again(answer: bytes) -> None:
    async with raw_server(answer) as url:
        outcome = await deliver(url)
    assert isinstance(outcome, Retry)
    assert outcome.status is None


async def test_a_body_cut_short_after_a_2xx_cannot_unsend_the_message() -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{") as url:
        assert await deliver(url) == Sent(external_id=None)


async def test_a_port_where_nobody_listens_is_tried_again() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = await deliver(f"http://127.0.0.1:{unused.getsockname()[1]}/reply")
    assert isinstance(outcome, Retry)
    assert outcome.status is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/reply",
        "ftp://127.0.0.1/",
        "https://",
        "http:///reply",
        "http://[::1",
        "http://127.0.0.1:x/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:-1/",
        "http://127.0.0.1:1/\ud800",
        "http://127.0.0.1:1/\r\nx: y",
        "http://127.0.0.1:1/" + "a" * 70_000,
    ],
)
async def test_a_url_that_cannot_be_called_is_refused(url: str) -> None:
    outcome = await deliver(url)
    assert isinstance(outcome, Refused)
    assert outcome.status is None


async def test_nothing_is_sent_that_cannot_be_signed(receiver: Receiver) -> None:
    with pytest.raises(SigningError):
        await deliver(receiver.url, secret="")
    with pytest.raises(SigningError):
        await deliver(receiver.url, event_id="out.5")
    assert receiver.requests == []


# --- when to try again ---


def test_the_schedule_is_the_published_one() -> None:
    hour = 3600
    published = [0, 5, 300, 1800, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour]
    assert [delay_before(attempt, 0) for attempt in range(1, 11)] == published
    assert delay_before(11, 0) is None


@given(st.integers(1, len(RETRY_DELAYS_S)), st.floats(0, 1))
def test_jitter_only_ever_delays_by_up_to_a_fifth(attempt: int, jitter: float) -> None:
    delay = delay_before(attempt, jitter)
    assert delay is not None
    assert RETRY_DELAYS_S[attempt - 1] <= delay <= RETRY_DELAYS_S[attempt - 1] * 1.2
