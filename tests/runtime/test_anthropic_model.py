"""The Anthropic adapter in front of a served Messages API: what counts, what every fault becomes, what is cached."""

import copy
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest
from anthropic import AsyncAnthropic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from runtime.errors import ModelError, ModelReplyInvalidError, ModelRequestError, ModelUnavailableError
from runtime.events import ModelReplied, ToolCall, Usage
from runtime.local import open_model
from runtime.models.anthropic import AnthropicModel, anthropic_client
from runtime.ports import CountsTokens, Json, ModelRequest, ToolSpec
from runtime.settings import RuntimeSettings
from runtime.testing import (
    Cut,
    FakeMessagesAPI,
    Fault,
    HtmlPage,
    HttpFault,
    PingForever,
    Stall,
    StreamError,
    api_message,
    call_reply,
    in_order,
    serve_loopback,
    text_reply,
)

MODEL = "claude-sonnet-5-5"
CALL = call_reply(("create_task", {"title": 'Über "x" \\ 😀', "points": [1, 2.5, -3e-7], "due": None}), text="On it.")
CREATE_TASK = ToolSpec(
    name="create_task", description="Create a task.", input_schema={"type": "object", "properties": {}}
)


@asynccontextmanager
async def connected(api: FakeMessagesAPI, **options: Any) -> AsyncGenerator[AnthropicModel]:
    async with serve_loopback(api.app) as url, anthropic_client(api_key="test-key", base_url=url) as client:
        yield AnthropicModel(client, model=MODEL, **options)


@asynccontextmanager
async def in_process(api: FakeMessagesAPI, **options: Any) -> AsyncGenerator[AnthropicModel]:
    """Like `connected`, but without a socket: for whole bodies."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(api.app)) as transport:
        client = AsyncAnthropic(api_key="test-key", base_url="http://api.test", http_client=transport)
        yield AnthropicModel(client, model=MODEL, **options)


def answering(handler: Callable[[httpx2.Request], httpx2.Response]) -> AsyncAnthropic:
    """Return a client whose server is this function, without a socket."""
    transport = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    return AsyncAnthropic(api_key="test-key", base_url="http://api.test", http_client=transport)


def streaming(body: bytes) -> AsyncAnthropic:
    return answering_with(body, "text/event-stream")


def answering_with(body: bytes, content_type: str) -> AsyncAnthropic:
    return answering(lambda _: httpx2.Response(200, headers={"content-type": content_type}, content=body))


def asking(*messages: Json, system: str = "You help.", tools: tuple[ToolSpec, ...] = (CREATE_TASK,)) -> ModelRequest:
    return ModelRequest(system=system, messages=messages or [{"role": "user", "content": "Hello"}], tools=tools)


async def recorded(reply: ModelReplied | Json, *, stream: bool = True) -> bytes:
    """Return the body that the fake API sends for this reply."""
    api = FakeMessagesAPI(in_order(reply))
    body = {"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(api.app), base_url="http://api.test") as client:
        return (await client.post("/v1/messages", json=body)).content


# The fault table


def http(status: int, kind: str = "api_error", **headers: str) -> HttpFault:
    return HttpFault(status=status, kind=kind, headers={name.replace("_", "-"): text for name, text in headers.items()})


HTTP_FAULTS: list[tuple[HttpFault, type[ModelError], dict[str, Any]]] = [
    (http(429, "rate_limit_error", retry_after="90"), ModelUnavailableError, {"retry_after_s": 90.0}),
    (
        http(429, "rate_limit_error", retry_after_ms="1500", retry_after="2"),
        ModelUnavailableError,
        {"retry_after_s": 1.5},
    ),
    (http(429, "rate_limit_error", retry_after="soon"), ModelUnavailableError, {"retry_after_s": None}),
    (http(429, "rate_limit_error", retry_after="-5"), ModelUnavailableError, {"retry_after_s": None}),
    (http(429, "rate_limit_error", retry_after="inf"), ModelUnavailableError, {"retry_after_s": None}),
    (http(429, "rate_limit_error"), ModelUnavailableError, {"retry_after_s": None}),
    (http(529, "overloaded_error"), ModelUnavailableError, {"retry_after_s": None}),
    (http(503, retry_after="3"), ModelUnavailableError, {"retry_after_s": 3.0}),
    (http(500), ModelUnavailableError, {"retry_after_s": None}),
    (http(504, "timeout_error"), ModelUnavailableError, {"retry_after_s": None}),
    (http(408), ModelUnavailableError, {"retry_after_s": None}),
    (http(409), ModelUnavailableError, {"retry_after_s": None}),
    (http(400, "invalid_request_error"), ModelRequestError, {"status": 400}),
    (http(401, "authentication_error"), ModelRequestError, {"status": 401}),
    (http(402, "billing_error"), ModelRequestError, {"status": 402}),
    (http(403, "permission_error"), ModelRequestError, {"status": 403}),
    (http(404, "not_found_error"), ModelRequestError, {"status": 404}),
    (http(413, "request_too_large"), ModelRequestError, {"status": 413}),
    (http(422, "invalid_request_error"), ModelRequestError, {"status": 422}),
]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_every_error_status_becomes_the_error_that_says_whether_to_ask_again(stream: bool) -> None:  # noqa: FBT001 -- a parameter of pytest
    api = FakeMessagesAPI(in_order(*(fault for fault, _, _ in HTTP_FAULTS)))
    async with connected(api, stream=stream) as model:
        for fault, expected, attributes in HTTP_FAULTS:
            with pytest.raises(expected) as caught:
                await model.reply(asking())
            assert {name: vars(caught.value)[name] for name in attributes} == attributes, fault
    assert len(api.requests) == len(HTTP_FAULTS), "the SDK asked again by itself"


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "ANTHROPIC_API_KEY"), (403, MODEL), (404, MODEL), (404, "base URL")]
)
async def test_a_refused_key_or_model_is_named_in_the_error(status: int, hint: str) -> None:
    async with in_process(FakeMessagesAPI(in_order(http(status)))) as model:
        with pytest.raises(ModelRequestError) as caught:
            await model.reply(asking())
    assert hint in caught.value.reason


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"date": "Sun, 06 Nov 1994 08:49:37 GMT", "retry-after": "Sun, 06 Nov 1994 08:51:07 GMT"}, 90.0),
        ({"date": "Sun, 06 Nov 1994 08:49:37 GMT", "retry-after": "Sun, 06 Nov 1994 08:00:00 GMT"}, 0.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:51:07 GMT"}, None),
        ({"date": "Sun, 06 Nov 1994 08:49:37 GMT", "retry-after": "Sun, 06 Nov 1994 08:51:07"}, None),
    ],
)
async def test_a_retry_date_counts_from_the_date_of_the_response(headers: dict[str, str], seconds: float) -> None:
    client = answering(lambda _: httpx2.Response(429, headers=headers, json={}))
    with pytest.raises(ModelUnavailableError) as caught:
        await AnthropicModel(client, model=MODEL).reply(asking())
    assert caught.value.retry_after_s == seconds


BODY_FAULTS: dict[str, tuple[Fault, type[ModelError]]] = {
    "html-page": (HtmlPage(), ModelReplyInvalidError),
    "html-error-page": (HtmlPage(status=502), ModelUnavailableError),
    "cut-cleanly": (Cut(reply=CALL, size_bytes=300), ModelReplyInvalidError),
    "connection-dropped": (Cut(reply=CALL, size_bytes=300, is_clean=False), ModelReplyInvalidError),
    "connection-dropped-before-the-first-byte": (
        Cut(reply=CALL, size_bytes=0, is_clean=False),
        ModelReplyInvalidError,
    ),
    "overloaded-in-mid-stream": (StreamError(reply=CALL, events=4), ModelUnavailableError),
    "refused-in-mid-stream": (
        StreamError(reply=CALL, events=4, kind="invalid_request_error"),
        ModelRequestError,
    ),
    "no-stop-reason": (Cut(reply={"content": [], "stop_reason": None}, size_bytes=10**6), ModelReplyInvalidError),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize(("fault", "expected"), BODY_FAULTS.values(), ids=BODY_FAULTS.keys())
async def test_a_body_that_is_no_reply_becomes_an_error(
    fault: Fault,
    expected: type[ModelError],
    stream: bool,  # noqa: FBT001 -- a parameter of pytest
) -> None:
    async with connected(FakeMessagesAPI(in_order(fault)), stream=stream) as model:
        with pytest.raises(expected):
            await model.reply(asking())


SILENCES: dict[str, Fault] = {
    "no-head": Stall(),
    "stalled-at-the-start": Stall(reply=CALL, size_bytes=0),
    "stalled-in-mid-reply": Stall(reply=CALL, size_bytes=500),
    "pings-for-ever": PingForever(),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("fault", SILENCES.values(), ids=SILENCES.keys())
async def test_a_reply_that_does_not_end_is_given_up_at_the_deadline(
    fault: Fault,
    stream: bool,  # noqa: FBT001 -- a parameter of pytest
) -> None:
    async with connected(FakeMessagesAPI(in_order(fault)), stream=stream, deadline_s=0.2) as model:
        with anyio.fail_after(5), pytest.raises(ModelUnavailableError):
            await model.reply(asking())


async def test_a_silent_stream_is_given_up_at_the_read_timeout_long_before_the_deadline() -> None:
    api = FakeMessagesAPI(in_order(Stall(reply=CALL, size_bytes=500)))
    async with (
        serve_loopback(api.app) as url,
        anthropic_client(api_key="test-key", base_url=url, read_timeout_s=0.1) as client,
    ):
        with anyio.fail_after(5), pytest.raises(ModelUnavailableError):
            await AnthropicModel(client, model=MODEL, deadline_s=600).reply(asking())


async def test_cancelling_the_caller_is_not_mistaken_for_the_deadline() -> None:
    asked = anyio.Event()

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            asked.set()
            while (await receive())["type"] != "http.disconnect":
                pass

    async with serve_loopback(silent) as url, anthropic_client(api_key="test-key", base_url=url) as client:
        model = AnthropicModel(client, model=MODEL)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(model.reply, asking())
                await asked.wait()
                tasks.cancel_scope.cancel()
    assert tasks.cancel_scope.cancelled_caught


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    async with anthropic_client(api_key="test-key", base_url=f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ModelUnavailableError):
            await AnthropicModel(client, model=MODEL).reply(asking())


async def test_a_base_url_that_is_none_is_refused_rather_than_retried() -> None:
    async with anthropic_client(api_key="test-key", base_url="localhost:8000") as client:
        with pytest.raises(ModelRequestError):
            await AnthropicModel(client, model=MODEL).reply(asking())


@pytest.mark.parametrize("api_key", ["", "sk-ant-1\n", "sk ant", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(api_key: str) -> None:
    with pytest.raises(ModelRequestError) as caught:
        anthropic_client(api_key=api_key)
    assert not api_key or api_key not in str(caught.value)


async def test_a_history_that_json_cannot_carry_is_refused_rather_than_retried() -> None:
    broken: Json = {"role": "user", "content": "half of a pair: \ud83d"}
    async with connected(FakeMessagesAPI(in_order(text_reply("never")))) as model:
        with pytest.raises(ModelRequestError):
            await model.reply(asking(broken))


async def test_the_retries_of_the_callers_client_are_not_used() -> None:
    api = FakeMessagesAPI(in_order(http(500), text_reply("A second request came.")))
    async with serve_loopback(api.app) as url, AsyncAnthropic(api_key="k", base_url=url, max_retries=5) as client:
        with pytest.raises(ModelUnavailableError):
            await AnthropicModel(client, model=MODEL).reply(asking())
    assert len(api.requests) == 1


# What counts as a reply


async def test_a_tool_use_stream_cut_after_any_byte_never_yields_a_call() -> None:
    body = await recorded(CALL)
    for size in range(len(body)):
        model = AnthropicModel(streaming(body[:size]), model=MODEL)
        with pytest.raises(ModelReplyInvalidError):
            await model.reply(asking())
    assert (await AnthropicModel(streaming(body), model=MODEL).reply(asking())).calls == CALL.calls


async def test_a_tool_use_body_cut_after_any_byte_never_yields_a_call() -> None:
    body = await recorded(CALL, stream=False)

    for size in range(len(body)):
        with pytest.raises(ModelReplyInvalidError):
            await AnthropicModel(answering_with(body[:size], "application/json"), model=MODEL, stream=False).reply(
                asking()
            )
    assert (
        await AnthropicModel(answering_with(body, "application/json"), model=MODEL).reply(asking())
    ).calls == CALL.calls


@pytest.mark.parametrize("is_clean", [True, False], ids=["clean-end", "dropped"])
async def test_a_stream_cut_on_the_wire_inside_or_between_its_events_never_counts(is_clean: bool) -> None:  # noqa: FBT001 -- a parameter of pytest
    body = await recorded(CALL)
    sizes = [place for place in range(len(body)) if body[place - 1 : place] in {b"\n", b"}", b'"'}][::6]
    api = FakeMessagesAPI(in_order(*(Cut(reply=CALL, size_bytes=size, is_clean=is_clean) for size in sizes)))
    async with connected(api) as model:
        for _ in sizes:
            with pytest.raises(ModelReplyInvalidError):
                await model.reply(asking())


def writing(*inputs: str) -> Json:
    """Return a message whose calls have these raw inputs."""
    blocks = [{"type": "tool_use", "id": f"t{n}", "name": "create_task", "input": raw} for n, raw in enumerate(inputs)]
    return api_message(blocks, "tool_use")


@pytest.mark.parametrize(
    "raw",
    [
        '{"n": NaN}',
        '{"n": -Infinity}',
        '{"n": 1e999}',
        '{"to": "a", "to": "b"}',
        '{"title": "\\ud83d"}',
        '["not", "an", "object"]',
        '"text"',
        "null",
        '{"title": "x"',
        '{"title": "x"} {}',
        "{'title': 'x'}",
        '{"title": "x",}',
        "[" * 100_000,
    ],
)
async def test_a_call_whose_input_is_not_strictly_a_json_object_makes_the_whole_reply_invalid(raw: str) -> None:
    model = AnthropicModel(streaming(await recorded(writing('{"title": "fine"}', raw))), model=MODEL)
    with pytest.raises(ModelReplyInvalidError):
        await model.reply(asking())


@pytest.mark.parametrize("raw", ['{"n": NaN}', '{"to": "a", "to": "b"}', '{"n": 1e999}', "[]", "null"])
async def test_a_json_body_is_parsed_as_strictly_as_a_stream(raw: str) -> None:
    body = (await recorded(writing('{"mark": 1}'), stream=False)).replace(b'{"mark": 1}', raw.encode())
    client = answering_with(body, "application/json")
    with pytest.raises(ModelReplyInvalidError):
        await AnthropicModel(client, model=MODEL, stream=False).reply(asking())


async def test_a_call_without_arguments_has_an_empty_object() -> None:
    model = AnthropicModel(streaming(await recorded(writing("{}"))), model=MODEL)
    assert (await model.reply(asking())).calls == (ToolCall(id="t0", name="create_task", arguments={}),)


MALFORMED: dict[str, Json] = {
    "a call without a name": api_message([{"type": "tool_use", "id": "t", "input": {}}], "tool_use"),
    "a call without an id": api_message([{"type": "tool_use", "id": "", "name": "x", "input": {}}], "tool_use"),
    "two calls with one id": api_message([{"type": "tool_use", "id": "t", "name": "x", "input": "{}"}] * 2, "tool_use"),
    "tool_use without a call": api_message([{"type": "text", "text": "Calling."}], "tool_use"),
    "a text block without text": api_message([{"type": "text"}]),
    "a block without a type": api_message([{"text": "x"}]),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_block_makes_the_reply_invalid(
    message: Json,
    stream: bool,  # noqa: FBT001 -- a parameter of pytest
) -> None:
    async with in_process(FakeMessagesAPI(in_order(message)), stream=stream) as model:
        with pytest.raises(ModelReplyInvalidError):
            await model.reply(asking())


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


HEAD: Json = {"type": "message", "role": "assistant", "model": MODEL, "content": [], "stop_reason": None, "usage": {}}
START = event("message_start", message=HEAD)
TEXT = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
PIECE = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"})
CLOSE = event("content_block_stop", index=0)
END = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1})
STOP = event("message_stop")

STRANGE_STREAMS: dict[str, bytes] = {
    "empty": b"",
    "no beginning": TEXT + PIECE + CLOSE + END + STOP,
    "two beginnings": START + START + END + STOP,
    "a piece before its block": START + PIECE + TEXT + CLOSE + END + STOP,
    "a piece after its block": START + TEXT + CLOSE + PIECE + END + STOP,
    "a block that never ends": START + TEXT + PIECE + END + STOP,
    "a block out of order": START + TEXT.replace(b'"index": 0', b'"index": 1') + END + STOP,
    "no stop reason": START + TEXT + PIECE + CLOSE + STOP,
    "a piece of the wrong kind": START + TEXT + PIECE.replace(b"text_delta", b"thinking_delta") + CLOSE + END + STOP,
    "a piece of an unknown kind": START + TEXT + PIECE.replace(b"text_delta", b"song_delta") + CLOSE + END + STOP,
    "an input for words": START
    + TEXT
    + event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": "{}"})
    + CLOSE
    + END
    + STOP,
    "an event without a name": START + TEXT + PIECE.partition(b"\n")[2] + PIECE + CLOSE + END + STOP,
    "an event with a wrong name": START
    + TEXT
    + PIECE.replace(b"event: content_block_delta", b"event: message_delta")
    + CLOSE
    + END
    + STOP,
    "data that is not JSON": START + b"event: message_delta\ndata: oops\n\n" + STOP,
    "data that is not an object": START + b"event: message_delta\ndata: []\n\n" + STOP,
    "bytes that are not UTF-8": START + TEXT + PIECE.replace(b"Hi", b"\xff") + CLOSE + END + STOP,
}


@pytest.mark.parametrize("body", STRANGE_STREAMS.values(), ids=STRANGE_STREAMS.keys())
async def test_a_stream_that_breaks_the_protocol_does_not_count(body: bytes) -> None:
    with pytest.raises(ModelReplyInvalidError):
        await AnthropicModel(streaming(body), model=MODEL).reply(asking())


async def test_pings_and_events_of_later_versions_change_nothing() -> None:
    news = event("ping") + event("news", anything=1) + b": a comment\n\n"
    body = START + news + TEXT + PIECE + news + CLOSE + END + STOP + news + b"event: rubbish after the end"
    reply = await AnthropicModel(streaming(body), model=MODEL).reply(asking())
    assert (reply.text, reply.usage) == ("Hi", Usage(output_tokens=1))


async def test_what_breaks_after_the_last_event_does_not_take_the_reply_back() -> None:
    async def breaking() -> AsyncGenerator[bytes]:
        yield START + TEXT + PIECE + CLOSE + END + STOP
        message = "the connection broke"
        raise httpx2.ReadError(message)

    headers = {"content-type": "text/event-stream"}
    client = answering(lambda _: httpx2.Response(200, headers=headers, content=breaking()))
    assert (await AnthropicModel(client, model=MODEL).reply(asking())).text == "Hi"


async def test_a_stream_is_read_even_where_one_body_was_asked_for_and_the_reverse() -> None:
    as_json = await recorded(text_reply("Good morning."), stream=False)
    as_stream = await recorded(text_reply("Good morning."))
    for model in (
        AnthropicModel(answering_with(as_json, "application/json"), model=MODEL, stream=True),
        AnthropicModel(streaming(as_stream), model=MODEL, stream=False),
    ):
        assert (await model.reply(asking())).text == "Good morning."


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded", "refusal"])
@pytest.mark.parametrize("raw", ['{"title": "half of a lo', '{"title": "looks whole"}'])
async def test_a_cut_reply_loses_its_last_call_but_says_why_it_stopped(
    reason: str,
    raw: str,
    stream: bool,  # noqa: FBT001 -- a parameter of pytest
) -> None:
    message = api_message([{"type": "text", "text": "First."}, *writing('{"title": "whole"}', raw)["content"]], reason)
    async with in_process(FakeMessagesAPI(in_order(message)), stream=stream) as model:
        reply = await model.reply(asking())
    assert reply.stop_reason == reason
    assert [block["type"] for block in reply.content] == ["text", "tool_use"]
    assert reply.calls == (ToolCall(id="t0", name="create_task", arguments={"title": "whole"}),)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("reason", ["pause_turn", "refusal", "end_turn", "max_tokens"])
async def test_the_stop_reason_arrives_whatever_it_is(
    reason: str,
    stream: bool,  # noqa: FBT001 -- a parameter of pytest
) -> None:
    async with in_process(FakeMessagesAPI(in_order(api_message([], reason))), stream=stream) as model:
        assert (await model.reply(asking())).stop_reason == reason


# What is sent


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_thinking_goes_back_unchanged_and_an_altered_signature_is_refused(
    stream: bool,  # noqa: FBT001 -- a parameter of pytest
) -> None:
    content: list[Json] = [
        {"type": "thinking", "thinking": "Two steps:\n1. é 2. 😀"},
        {"type": "redacted_thinking", "data": "b3BhcXVl"},
        *CALL.content,
    ]
    script = in_order(api_message(content, "tool_use"), text_reply("Done."))
    result = {"type": "tool_result", "tool_use_id": CALL.calls[0].id, "content": "created"}
    api = FakeMessagesAPI(script)
    async with connected(api, stream=stream, thinking=True) as model:
        reply = await model.reply(asking())
        stored = ModelReplied.model_validate_json(reply.model_dump_json())
        history: list[Json] = [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": list(stored.content)},
            {"role": "user", "content": [result]},
        ]
        assert (await model.reply(asking(*history))).text == "Done."
        assert api.requests[-1]["messages"][1]["content"] == list(reply.content)

        altered = copy.deepcopy(history)
        altered[1]["content"][0]["signature"] += "x"
        with pytest.raises(ModelRequestError) as caught:
            await model.reply(asking(*altered))
    assert "signature" in caught.value.reason


async def test_a_cut_reply_does_not_brick_its_session() -> None:
    content: list[Json] = [
        {"type": "thinking", "thinking": "I was about to", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "text", "text": " \n"},
    ]
    api = FakeMessagesAPI(in_order(api_message(content, "max_tokens"), text_reply("Hello again.")))
    async with connected(api) as model:
        cut = await model.reply(asking())
        hello: Json = {"role": "user", "content": "Hello"}
        reply = await model.reply(asking(hello, {"role": "assistant", "content": list(cut.content)}, hello))
    assert list(cut.content) == content, "the journal keeps what was said"
    assert reply.text == "Hello again."
    assert [message["role"] for message in api.requests[-1]["messages"]] == ["user", "user"]


async def test_options_reach_the_provider_and_defaults_do_not() -> None:
    api = FakeMessagesAPI(lambda _, __: text_reply("Hi."))
    request = replace(asking(), max_tokens=5000)
    async with serve_loopback(api.app) as url, anthropic_client(api_key="test-key", base_url=url) as client:
        await AnthropicModel(client, model=MODEL, stream=False).reply(request)
        rich = AnthropicModel(client, model=MODEL, max_tokens=100, thinking=True, effort="low")
        await rich.reply(replace(request, model="claude-other", system=""))
    plain, chosen = api.requests
    assert plain.keys() == {"model", "max_tokens", "messages", "system", "tools", "stream"}
    assert (plain["model"], plain["max_tokens"], plain["stream"]) == (MODEL, 5000, False)
    assert (chosen["model"], chosen["max_tokens"], chosen["stream"]) == ("claude-other", 100, True)
    assert (chosen["thinking"], chosen["output_config"]) == ({"type": "adaptive"}, {"effort": "low"})
    assert "system" not in chosen


async def test_a_long_single_body_is_not_refused_by_the_sdk_for_its_size() -> None:
    api = FakeMessagesAPI(in_order(text_reply("Hi.")))
    async with serve_loopback(api.app) as url, AsyncAnthropic(api_key="test-key", base_url=url) as client:
        model = AnthropicModel(client, model=MODEL, stream=False)
        assert (await model.reply(replace(asking(), max_tokens=128_000))).text == "Hi."


@pytest.mark.parametrize(("stream", "read_timeout_s"), [(True, 7.0), (False, None)])
async def test_only_a_stream_has_a_read_timeout_because_one_body_is_silent_until_it_is_whole(
    stream: bool,  # noqa: FBT001 -- a parameter of pytest
    read_timeout_s: float | None,
) -> None:
    seen: list[float | None] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.extensions["timeout"]["read"])
        return httpx2.Response(500)

    client = answering(answer).with_options(timeout=7.0)
    with pytest.raises(ModelUnavailableError):
        await AnthropicModel(client, model=MODEL, stream=stream).reply(asking())
    assert seen == [read_timeout_s]


async def test_consecutive_calls_use_one_connection() -> None:
    ports: set[int] = set()
    body = await recorded(text_reply("Hi."))

    async def answer(request: Request) -> Response:
        assert request.client is not None
        ports.add(request.client.port)
        return Response(body, media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/messages", answer, methods=["POST"])])
    async with serve_loopback(app) as url, anthropic_client(api_key="test-key", base_url=url) as client:
        model = AnthropicModel(client, model=MODEL)
        for _ in range(3):
            await model.reply(asking())
    assert len(ports) == 1


# What is cached

LONG = ToolSpec(
    name="search", description="Search the knowledge base. " * 300, input_schema={"type": "object", "properties": {}}
)
RULES = "You help people with their tasks. " * 200


async def cache_reads(*requests: ModelRequest) -> list[int]:
    """Return how many tokens each of these calls, made in this order, read from the provider's cache."""
    async with in_process(FakeMessagesAPI(lambda _, __: text_reply("Hi."))) as model:
        return [(await model.reply(request)).usage.cache_read_input_tokens for request in requests]


async def test_a_second_call_with_the_same_prefix_reads_it_from_the_cache() -> None:
    async with in_process(FakeMessagesAPI(lambda _, __: text_reply("Hi."))) as model:
        first = (await model.reply(asking(system=RULES, tools=(LONG, CREATE_TASK)))).usage
        second = (await model.reply(asking(system=RULES, tools=(LONG, CREATE_TASK)))).usage
    assert (first.cache_read_input_tokens, second.cache_creation_input_tokens) == (0, 0)
    assert second.cache_read_input_tokens == first.cache_creation_input_tokens > 1024


async def test_a_new_question_still_reads_tools_and_system_from_the_cache() -> None:
    question: Json = {"role": "user", "content": "Something else?"}
    first, second = asking(system=RULES, tools=(LONG,)), asking(question, system=RULES, tools=(LONG,))
    assert (await cache_reads(first, second))[1] > 1024


BROKEN_PREFIXES: dict[str, tuple[ModelRequest, ModelRequest]] = {
    "a changed tool": (
        asking(system=RULES, tools=(LONG, CREATE_TASK)),
        asking(system=RULES, tools=(replace(LONG, description=LONG.description + "!"), CREATE_TASK)),
    ),
    "tools in another order": (
        asking(system=RULES, tools=(LONG, CREATE_TASK)),
        asking(system=RULES, tools=(CREATE_TASK, LONG)),
    ),
    "a clock in the system prompt": (
        asking(system="It is 12:00:01. " + RULES),
        asking(system="It is 12:00:02. " + RULES),
    ),
}


@pytest.mark.parametrize(("before", "after"), BROKEN_PREFIXES.values(), ids=BROKEN_PREFIXES.keys())
async def test_what_changes_the_prefix_costs_the_whole_cache(before: ModelRequest, after: ModelRequest) -> None:
    assert await cache_reads(before, before, after) == [0, (await cache_reads(before, before))[1], 0]


async def test_a_turn_with_more_calls_than_the_provider_looks_back_still_reads_what_came_before_it() -> None:
    calls = call_reply(*[("create_task", {"n": number}) for number in range(30)])
    hello: Json = {"role": "user", "content": "Hello. " * 1000}
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "created"} for call in calls.calls]
    history: list[Json] = [
        hello,
        {"role": "assistant", "content": list(calls.content)},
        {"role": "user", "content": results},
    ]
    first, second = await cache_reads(asking(hello), asking(*history))
    assert (first, second > 1024) == (0, True)


async def test_the_cache_marks_are_at_most_four_and_leave_the_callers_data_alone() -> None:
    api = FakeMessagesAPI(lambda _, __: text_reply("Hi."))
    turn: list[Json] = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    request = asking(*turn * 5, {"role": "user", "content": [{"type": "text", "text": "Bye"}]})
    before = copy.deepcopy(request)
    async with in_process(api) as model:
        await model.reply(request)
    assert json.dumps(api.requests[0]).count("cache_control") == 4
    assert request == before


# What is said while it arrives


async def test_words_are_told_as_they_arrive_but_neither_thinking_nor_calls() -> None:
    content: list[Json] = [
        {"type": "thinking", "thinking": "Nobody needs to hear this, nor that it goes on."},
        {"type": "text", "text": " Es grünt so grün, 😀 und zwar "},
        {"type": "text", "text": "hier."},
        *CALL.content[1:],
    ]
    told: list[str] = []
    async with in_process(FakeMessagesAPI(in_order(api_message(content, "tool_use")))) as model:
        await model.reply(asking(), on_text=told.append)
    assert "".join(told) == " Es grünt so grün, 😀 und zwar hier."
    assert len(told) > 4


async def test_words_that_a_block_begins_with_are_told_too() -> None:
    body = (await recorded(text_reply("Hello there."))).replace(
        b'"type": "text", "text": ""', b'"type": "text", "text": "Oh. "'
    )
    told: list[str] = []
    reply = await AnthropicModel(streaming(body), model=MODEL).reply(asking(), on_text=told.append)
    assert reply.text == "".join(told) == "Oh. Hello there."


async def test_words_are_told_before_the_reply_is_whole() -> None:
    told: list[str] = []
    heard = anyio.Event()

    def hear(piece: str) -> None:
        told.append(piece)
        heard.set()

    api = FakeMessagesAPI(in_order(Stall(reply=text_reply("Once upon a time."), size_bytes=700)))
    async with connected(api) as model, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(model.reply, asking(), on_text=hear))
        with anyio.fail_after(30):
            await heard.wait()
        tasks.cancel_scope.cancel()
    assert "Once upon a time.".startswith("".join(told))


# Tools that the provider checks, tools that it defines

PLAIN: Json = {
    "type": "object",
    "properties": {"at": {"type": "string"}},
    "required": ["at"],
    "additionalProperties": False,
}
NULLABLE: Json = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}


def with_property(schema: Json, *, required: bool = True) -> Json:
    return PLAIN | {"properties": {"at": schema}, "required": ["at"] if required else []}


def tool(name: str, schema: Json) -> ToolSpec:
    return ToolSpec(name=name, description="Look.", input_schema=schema)


async def strict_of(*specs: ToolSpec, **options: Any) -> list[bool]:
    """Return which of these tools are sent as strict ones, to an API that refuses what does not qualify."""
    api = FakeMessagesAPI(in_order(text_reply("Hi.")))
    async with in_process(api, **options) as model:
        await model.reply(asking(tools=specs))
    return [sent.get("strict", False) for sent in api.requests[0]["tools"]]


QUALIFYING: dict[str, Json] = {
    "plain": PLAIN,
    "no parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    "choice": with_property({"enum": ["a", "b"], "type": "string", "title": "At"}),
    "constant": with_property({"const": "a"}),
    "nullable": with_property(NULLABLE, required=False),
    "list": with_property({"type": "array", "items": {"type": "integer"}, "minItems": 1}),
    "date": with_property({"type": "string", "format": "date"}),
    "definition": with_property({"$ref": "#/$defs/place"}) | {"$defs": {"place": PLAIN}},
}
FAILING: dict[str, Json] = {
    "open": {"type": "object", "properties": {}},
    "bounded": with_property({"type": "integer", "minimum": 1}),
    "limited": with_property({"type": "string", "maxLength": 10}),
    "two at least": with_property({"type": "array", "items": {"type": "integer"}, "minItems": 2}),
    "list of anything": with_property({"type": "array"}),
    "anything": with_property({}),
    "several types": with_property({"type": ["string", "null"]}),
    "one of": with_property({"oneOf": [{"type": "string"}]}),
    "choice of objects": with_property({"enum": [{}]}),
    "odd format": with_property({"type": "string", "format": "binary"}),
    "open inside": with_property({"type": "object", "properties": {}}),
    "bounded within a choice": with_property({"anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}]}),
    "recursive": with_property({"$ref": "#/$defs/a"}) | {"$defs": {"a": with_property({"$ref": "#/$defs/a"})}},
    "elsewhere": with_property({"$ref": "https://schema.test/place"}),
}


@pytest.mark.parametrize("schema", QUALIFYING.values(), ids=QUALIFYING.keys())
async def test_a_tool_whose_schema_compiles_is_strict(schema: Json) -> None:
    assert await strict_of(tool("look", schema)) == [True]


@pytest.mark.parametrize("schema", FAILING.values(), ids=FAILING.keys())
async def test_a_tool_whose_schema_does_not_compile_is_sent_without_the_mark(schema: Json) -> None:
    assert await strict_of(tool("look", schema), tool("plain", PLAIN)) == [False, True]


async def test_strict_tools_stay_within_what_one_request_may_hold() -> None:
    many = [tool(f"t{number}", PLAIN) for number in range(25)]
    assert sum(await strict_of(*many)) == 20
    nullable = [tool(f"t{number}", with_property(NULLABLE)) for number in range(18)]
    assert sum(await strict_of(*nullable, tool("last", PLAIN))) == 17
    optional = PLAIN | {
        "properties": {f"p{number}": {"type": "string"} for number in range(10)},
        "required": list[str](),
    }
    assert await strict_of(*[tool(f"t{number}", optional) for number in range(3)]) == [True, True, False]


async def test_no_tool_is_strict_when_that_is_switched_off() -> None:
    assert await strict_of(tool("look", PLAIN), strict_tools=False) == [False]


async def test_tools_whose_grammar_is_too_large_are_asked_again_without_the_mark_and_from_then_on() -> None:
    refusal = HttpFault(
        status=400,
        kind="invalid_request_error",
        message="The compiled grammar is too large, which would cause performance issues. Simplify your tool schemas.",
    )
    api = FakeMessagesAPI(in_order(refusal, *[text_reply("Hi.")] * 3))
    async with in_process(api) as model:
        for specs in ((tool("look", PLAIN),), (tool("look", PLAIN),), (tool("other", PLAIN),)):
            assert (await model.reply(asking(tools=specs))).text == "Hi."
    assert [body["tools"][0].get("strict", False) for body in api.requests] == [True, False, False, True]


async def test_any_other_refusal_is_not_asked_again() -> None:
    api = FakeMessagesAPI(in_order(HttpFault(status=400, kind="invalid_request_error", message="prompt is too long")))
    async with in_process(api) as model:
        with pytest.raises(ModelRequestError):
            await model.reply(asking(tools=(tool("look", PLAIN),)))
    assert len(api.requests) == 1


async def test_a_tool_of_the_provider_is_sent_by_its_type_alone() -> None:
    api = FakeMessagesAPI(in_order(text_reply("Hi.")))
    memory = ToolSpec(name="memory", description="Notes.", input_schema=PLAIN, api_type="memory_20250818")
    async with in_process(api) as model:
        await model.reply(asking(tools=(memory, CREATE_TASK)))
    assert api.requests[0]["tools"][0] == {"type": "memory_20250818", "name": "memory"}


# Minor requests, and counting


async def test_a_minor_request_goes_to_the_small_model_without_the_options_of_the_large_one() -> None:
    api = FakeMessagesAPI(lambda _, __: text_reply("Hi."))
    minor = replace(asking(), is_minor=True)
    async with in_process(api, small_model="claude-small", thinking=False, effort="high") as model:
        for request in (asking(), minor, replace(minor, model="claude-other")):
            await model.reply(request)
    async with in_process(api) as model:
        await model.reply(minor)
    assert [(body["model"], "effort" in str(body)) for body in api.requests] == [
        (MODEL, True),
        ("claude-small", False),
        ("claude-other", True),
        (MODEL, False),
    ]
    assert api.requests[0]["thinking"] == {"type": "disabled"}


async def test_tokens_of_a_request_are_counted_without_asking_for_a_reply() -> None:
    api = FakeMessagesAPI(in_order())
    async with in_process(api, thinking=True, effort="low") as model:
        assert isinstance(model, CountsTokens)
        short = await model.count_tokens(asking({"role": "user", "content": "x" * 400}))
        long = await model.count_tokens(asking({"role": "user", "content": "x" * 800}))
    assert long - short == 100
    assert api.requests == []


async def test_what_goes_wrong_while_counting_is_told_as_with_a_reply() -> None:
    unpaired: list[Json] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": list(CALL.content)}]
    async with in_process(FakeMessagesAPI(in_order())) as model:
        with pytest.raises(ModelRequestError):
            await model.count_tokens(asking(*unpaired, {"role": "user", "content": "Hi"}))
    with pytest.raises(ModelUnavailableError):
        await AnthropicModel(answering(lambda _: httpx2.Response(529)), model=MODEL).count_tokens(asking())
    for said in (b"<html>", b"{}", b'{"input_tokens": "many"}'):
        with pytest.raises(ModelReplyInvalidError):
            await AnthropicModel(answering_with(said, "application/json"), model=MODEL).count_tokens(asking())
    silent = FakeMessagesAPI(in_order())
    async with in_process(silent, deadline_s=1e-9) as model:
        with pytest.raises(ModelUnavailableError):
            await model.count_tokens(asking())


async def test_settings_of_the_environment_reach_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeMessagesAPI(lambda _, __: text_reply("Hi."))
    async with serve_loopback(api.app) as url:
        for name, value in {
            "ANTHROPIC_API_KEY": "test-key",
            "ANTHROPIC_BASE_URL": url,
            "AGENCY_EFFORT": "low",
            "AGENCY_THINKING": "on",
            "AGENCY_SMALL_MODEL": "claude-small",
            "AGENCY_STRICT_TOOLS": "off",
        }.items():
            monkeypatch.setenv(name, value)
        async with open_model(RuntimeSettings()) as model:
            await model.reply(asking(tools=(tool("look", PLAIN),)))
            await model.reply(replace(asking(), is_minor=True))
    large, small = api.requests
    assert (large["output_config"], large["thinking"]) == ({"effort": "low"}, {"type": "adaptive"})
    assert "strict" not in large["tools"][0]
    assert small["model"] == "claude-small"
