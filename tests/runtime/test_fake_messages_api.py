"""The fake Messages API refuses what the real one refuses, and the official SDK understands what it sends."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic

from runtime.ports import Json
from runtime.testing import FakeMessagesAPI, api_message, call_reply, in_order, text_reply

HELLO: Json = {"role": "user", "content": "Hello"}
CALLS = call_reply(("look", {"at": 1}), ("look", {"at": 2}))
CALLING: Json = {"role": "assistant", "content": list(CALLS.content)}
RESULTS: list[Json] = [
    {"type": "tool_result", "tool_use_id": call.id, "content": "seen", "is_error": False} for call in CALLS.calls
]
MARK = {"type": "ephemeral"}
LOOK: Json = {"name": "look", "description": "Look.", "input_schema": {"type": "object"}}


@asynccontextmanager
async def door(api: FakeMessagesAPI) -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(api.app), base_url="http://api.test") as client:
        yield client


def body(*messages: Json, **fields: Any) -> Json:
    return {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": list(messages) or [HELLO], **fields}


def user(*blocks: Json) -> Json:
    return {"role": "user", "content": list(blocks)}


def said(*blocks: Json) -> Json:
    return {"role": "assistant", "content": list(blocks)}


def words(text: str, **fields: Any) -> Json:
    return {"type": "text", "text": text, **fields}


def closed(**properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def several(count: int) -> Json:
    return {**closed(**{f"p{number}": {"type": "string"} for number in range(count)}), "required": list[str]()}


def strict(*schemas: Json) -> Json:
    """Return a request with a strict tool of each schema."""
    return body(
        tools=[{"name": f"t{number}", "input_schema": schema, "strict": True} for number, schema in enumerate(schemas)]
    )


REFUSED: dict[str, tuple[Json, str]] = {
    "unknown field": (body(top_q=1), "top_q: Extra inputs are not permitted"),
    "no model": ({"max_tokens": 1, "messages": [HELLO]}, "model: Field required"),
    "no max_tokens": ({"model": "m", "messages": [HELLO]}, "max_tokens: Field required"),
    "max_tokens too small": (body(max_tokens=0), "max_tokens"),
    "no messages": (body() | {"messages": []}, "at least one message"),
    "messages that are no list": (body() | {"messages": HELLO}, "valid list"),
    "a message that is no object": (body() | {"messages": ["Hello"]}, "Input should be an object"),
    "unknown role": (body({"role": "tool", "content": "x"}), "Unexpected role"),
    "unknown field of a message": (body({**HELLO, "name": "Ann"}), "messages.0.name"),
    "no content": (body({"role": "user"}), "messages.0.content"),
    "assistant first": (body(said(words("Hi")), HELLO), "first message must use"),
    "assistant last": (body(HELLO, said(words("Hi"))), "must end with a user message"),
    "empty message": (body(HELLO, said(), HELLO), "messages.1: all messages must have non-empty content"),
    "empty text": (body(user(words(""))), "text content blocks must be non-empty"),
    "empty string": (body({"role": "user", "content": ""}), "text content blocks must be non-empty"),
    "blank text": (body(HELLO, said(words(" \n")), HELLO), "must contain non-whitespace text"),
    "empty system block": (body(system=[words("")]), "system: text content blocks must be non-empty"),
    "block without a type": (body(user({"text": "x"})), "messages.0.content.0.type"),
    "calls without results": (body(HELLO, CALLING, HELLO), "without `tool_result` blocks immediately after"),
    "one result missing": (body(HELLO, CALLING, user(RESULTS[0])), "without `tool_result` blocks"),
    "results after words": (body(HELLO, CALLING, user(words("here"), *RESULTS)), "without `tool_result` blocks"),
    "results a turn late": (
        body(HELLO, CALLING, HELLO, said(words("Hm")), user(*RESULTS)),
        "without `tool_result` blocks",
    ),
    "result without a call": (body(user(RESULTS[0])), "unexpected `tool_use_id`"),
    "result twice": (body(HELLO, CALLING, user(*RESULTS, RESULTS[0])), "must have a single result"),
    "call ids twice": (
        body(HELLO, CALLING, user(*RESULTS), CALLING, user(*RESULTS)),
        "`tool_use` ids must be unique",
    ),
    "call by a user": (body(user(CALLS.content[0])), "can only be in `assistant`"),
    "result by the assistant": (body(HELLO, said(RESULTS[0]), HELLO), "can only be in `user`"),
    "result without an id": (body(user({"type": "tool_result", "content": "x"})), "tool_use_id: Field required"),
    "call without a name": (body(HELLO, said({"type": "tool_use", "id": "t", "input": {}}), HELLO), "name"),
    "call without an object": (
        body(HELLO, said({"type": "tool_use", "id": "t", "name": "x", "input": "{}"}), HELLO),
        "input: Input should be an object",
    ),
    "foreign thinking": (
        body(HELLO, said({"type": "thinking", "thinking": "Hm", "signature": "forged"}, words("Hi")), HELLO),
        "Invalid `signature` in `thinking` block",
    ),
    "foreign redacted thinking": (
        body(HELLO, said({"type": "redacted_thinking", "data": "forged"}, words("Hi")), HELLO),
        "Invalid `signature` in `redacted_thinking` block",
    ),
    "five marks": (body(user(*[words(str(n), cache_control=MARK) for n in range(5)])), "maximum of 4 blocks"),
    "tool name with a space": (body(tools=[{**LOOK, "name": "look at"}]), "should match pattern"),
    "tool without an object schema": (body(tools=[{**LOOK, "input_schema": {}}]), "should be 'object'"),
    "two tools of one name": (body(tools=[LOOK, LOOK]), "Tool names must be unique"),
    "unknown field of a tool": (body(tools=[{**LOOK, "effect": "db"}]), "tools.0.custom.effect: Extra inputs"),
    "unknown effort": (body(output_config={"effort": "extreme"}), "output_config.effort: Input should be 'low'"),
    "strict tool with open objects": (
        strict({"type": "object", "properties": {}}),
        "tools.0.custom: For 'object' type, 'additionalProperties' must be explicitly set to false",
    ),
    "strict tool with a bound": (
        strict(closed(at={"type": "integer", "minimum": 1})),
        "tools.0.custom: For 'integer' type, property 'minimum' is not supported",
    ),
    "strict tool with two bounds inside": (
        strict(closed(names={"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 9}})),
        "For 'string' type, properties maxLength, minLength are not supported",
    ),
    "strict tool with many items": (
        strict(closed(names={"type": "array", "items": {"type": "string"}, "minItems": 2})),
        "'minItems' values other than 0 or 1",
    ),
    "strict tool with an odd format": (
        strict(closed(at={"type": "string", "format": "binary"})),
        "String format 'binary' is not supported",
    ),
    "strict tool with anything": (strict(closed(value={})), "Schema must have a 'type'"),
    "strict tool with an enum of objects": (strict(closed(at={"enum": [{}]})), "Complex types in 'enum'"),
    "strict tool that contains itself": (
        strict(closed(node={"$ref": "#/$defs/node"}) | {"$defs": {"node": closed(node={"$ref": "#/$defs/node"})}}),
        "Circular reference detected in schema definitions: node -> node",
    ),
    "strict tool with a broken reference": (strict(closed(node={"$ref": "#/$defs/no"})), "cannot resolve"),
    "twenty-one strict tools": (strict(*[closed()] * 21), "Too many strict tools (21)"),
    "twenty-five optional parameters": (
        strict(*[{**closed(a={"type": "string"}), "required": list[str]()}] * 5, several(20)),
        "too many optional parameters (25)",
    ),
    "seventeen unions": (
        strict(closed(**{f"p{number}": {"anyOf": [{"type": "string"}, {"type": "null"}]} for number in range(17)})),
        "too many parameters with union types (17",
    ),
    "unknown tool of the provider": (
        body(tools=[{"type": "memory_19991231", "name": "memory"}]),
        "tools.0: Input tag 'memory_19991231' found using 'type' does not match",
    ),
    "tool of the provider by another name": (
        body(tools=[{"type": "memory_20250818", "name": "notes"}]),
        "tools.0.memory_20250818.name: Input should be 'memory'",
    ),
    "tool of the provider with a schema": (
        body(tools=[{**LOOK, "type": "memory_20250818", "name": "memory"}]),
        "tools.0.memory_20250818.description: Extra inputs are not permitted",
    ),
}


@pytest.mark.parametrize(("request_body", "says"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_wrong_request_gets_the_documented_400_and_never_reaches_the_script(
    request_body: Json, says: str
) -> None:
    asked: list[int] = []
    api = FakeMessagesAPI(lambda _, index: asked.append(index) or text_reply("never"))
    async with door(api) as client:
        response = await client.post("/v1/messages", json=request_body)
    assert response.status_code == 400
    error = response.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert says in error["error"]["message"]
    assert error["request_id"] == response.headers["request-id"]
    assert asked == []


ACCEPTED: dict[str, Json] = {
    "calls with their results": body(HELLO, CALLING, user(*RESULTS, words("Go on"))),
    "results in another order": body(HELLO, CALLING, user(*reversed(RESULTS))),
    "two messages of one role": body(HELLO, CALLING, user(RESULTS[0]), user(RESULTS[1]), HELLO),
    "strict tools up to every limit": strict(
        *[closed()] * 18,
        several(24),
        closed(**{f"p{number}": {"anyOf": [{"type": "string"}, {"type": "null"}]} for number in range(16)}),
    ),
    "a strict tool with all that compiles": strict(
        closed(
            kind={"enum": ["a", 1, None]},
            only={"const": "x"},
            at={"type": "string", "format": "date-time", "description": "When."},
            names={"type": "array", "items": {"$ref": "#/$defs/name"}, "minItems": 1},
        )
        | {"$defs": {"name": closed(first={"type": "string", "default": "?"})}}
    ),
    "a tool that is not strict may have any schema": body(
        tools=[{**LOOK, "input_schema": {"type": "object", "properties": {"n": {"minimum": 1}}}}]
    ),
    "a tool of the provider": body(tools=[{"type": "memory_20250818", "name": "memory", "cache_control": MARK}]),
    "everything else the adapter sends": body(
        system=[words("You help.", cache_control=MARK)],
        tools=[{**LOOK, "cache_control": MARK}],
        thinking={"type": "adaptive"},
        output_config={"effort": "low"},
        stream=False,
    ),
}


@pytest.mark.parametrize("request_body", ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_a_right_request_is_answered(request_body: Json) -> None:
    async with door(FakeMessagesAPI(in_order(text_reply("Hi.")))) as client:
        response = await client.post("/v1/messages", json=request_body)
    assert (response.status_code, response.json().get("content")) == (200, [words("Hi.")])


async def test_the_script_sees_the_request_and_how_many_it_has_answered() -> None:
    seen: list[tuple[str, int]] = []

    def script(request: Json, index: int) -> Json:
        seen.append((request["messages"][0]["content"], index))
        return api_message([words("Hi.")])

    async with door(FakeMessagesAPI(script)) as client:
        for text in ("one", "", "two"):
            await client.post("/v1/messages", json=body({"role": "user", "content": text}))
    assert seen == [("one", 0), ("two", 1)]


async def test_a_script_without_more_answers_says_so() -> None:
    async with door(FakeMessagesAPI(in_order())) as client:
        response = await client.post("/v1/messages", json=body())
    assert response.status_code == 400
    assert "script" in response.json()["error"]["message"]


async def test_a_paused_reply_may_be_sent_back_as_the_last_message() -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    api = FakeMessagesAPI(in_order(api_message([search], "pause_turn"), text_reply("Found.")))
    async with door(api) as client:
        paused = (await client.post("/v1/messages", json=body())).json()
        resumed = (await client.post("/v1/messages", json=body(HELLO, said(*paused["content"])))).json()
    assert (paused["stop_reason"], resumed["content"]) == ("pause_turn", [words("Found.")])


async def test_the_sdks_own_accumulator_rebuilds_the_message_from_the_stream() -> None:
    empty: Json = {"type": "tool_use", "id": "toolu_empty", "name": "look", "input": {}}
    content: list[Json] = [{"type": "thinking", "thinking": "Let me see: é😀"}, words("Über."), *CALLS.content, empty]
    script = in_order(*[api_message(content, "tool_use")] * 2)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(FakeMessagesAPI(script).app)) as transport:
        sdk = AsyncAnthropic(api_key="test-key", base_url="http://api.test", http_client=transport)
        whole = await sdk.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])
        async with sdk.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]) as stream:
            streamed = await stream.get_final_message()
    assert [block.to_dict() for block in streamed.content] == [block.to_dict() for block in whole.content]
    assert (streamed.stop_reason, streamed.usage) == (whole.stop_reason, whole.usage)


async def test_tokens_are_counted_without_asking_the_script() -> None:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(FakeMessagesAPI(in_order()).app)) as transport:
        sdk = AsyncAnthropic(api_key="test-key", base_url="http://api.test", http_client=transport)
        short = await sdk.messages.count_tokens(model="m", messages=[{"role": "user", "content": "x" * 400}])
        long = await sdk.messages.count_tokens(model="m", messages=[{"role": "user", "content": "x" * 800}])
    assert long.input_tokens - short.input_tokens == 100


async def test_counting_tokens_refuses_what_the_call_itself_would_refuse() -> None:
    request = {"model": "m", "messages": [HELLO, CALLING, HELLO]}
    async with door(FakeMessagesAPI(in_order())) as client:
        response = await client.post("/v1/messages/count_tokens", json=request)
    assert response.status_code == 400


@pytest.mark.parametrize("extra", [{"max_tokens": 9}, {"stream": True}], ids=["max_tokens", "stream"])
async def test_counting_tokens_refuses_what_only_a_call_takes(extra: Json) -> None:
    async with door(FakeMessagesAPI(in_order())) as client:
        response = await client.post("/v1/messages/count_tokens", json={"model": "m", "messages": [HELLO], **extra})
    assert response.status_code == 400
    assert "Extra inputs are not permitted" in response.json()["error"]["message"]


async def usages(*requests: Json, minimum_cache_tokens: int = 100) -> list[Json]:
    api = FakeMessagesAPI(lambda _, __: text_reply("Hi."), minimum_cache_tokens=minimum_cache_tokens)
    async with door(api) as client:
        return [(await client.post("/v1/messages", json=request)).json()["usage"] for request in requests]


SYSTEM = [words("Be kind. " * 100, cache_control=MARK)]


async def test_every_input_token_is_counted_once_as_new_as_written_or_as_read() -> None:
    tail = user(words("x" * 400))
    first, second = await usages(body(tail, system=SYSTEM), body(tail, system=SYSTEM))
    assert first["cache_creation_input_tokens"] == second["cache_read_input_tokens"] > 200
    assert first["input_tokens"] == second["input_tokens"] > 100
    assert first["cache_read_input_tokens"] == second["cache_creation_input_tokens"] == 0


async def test_a_prefix_shorter_than_the_minimum_is_not_cached() -> None:
    request = body(system=SYSTEM)
    assert [
        usage["cache_read_input_tokens"] for usage in await usages(request, request, minimum_cache_tokens=5000)
    ] == [
        0,
        0,
    ]


async def test_a_prefix_without_a_mark_is_not_cached() -> None:
    request = body(system=[words("Be kind. " * 100)])
    assert [usage["cache_read_input_tokens"] for usage in await usages(request, request)] == [0, 0]


async def test_only_what_changed_and_what_follows_it_is_written_anew() -> None:
    tools = [{**LOOK, "description": "Look. " * 100, "cache_control": MARK}]
    before = body(tools=tools, system=SYSTEM)
    after = body(tools=tools, system=[words("Be cruel. " * 100, cache_control=MARK)])
    first, second = await usages(before, after)
    assert 0 < second["cache_read_input_tokens"] < first["cache_creation_input_tokens"]
    assert second["cache_creation_input_tokens"] > 0


async def test_another_model_shares_no_cache() -> None:
    request = body(system=SYSTEM)
    assert (await usages(request, request | {"model": "claude-other"}))[1]["cache_read_input_tokens"] == 0


@pytest.mark.parametrize(("blocks_between", "is_read"), [(19, True), (20, False)])
async def test_a_mark_finds_an_older_prefix_up_to_twenty_blocks_back(blocks_between: int, *, is_read: bool) -> None:
    def conversation(extra: int) -> Json:
        last = words("end", cache_control=MARK)
        more = [words(f"word {number}") for number in range(extra)]
        return body(user(words("x" * 1000), *more[:-1], *([{**more[-1], **last}] if extra else [])))

    written = body(user(words("x" * 1000, cache_control=MARK)))
    usage = (await usages(written, conversation(blocks_between)))[1]
    assert (usage["cache_read_input_tokens"] > 0) == is_read
