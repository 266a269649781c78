"""What every `Model` does, whether it is scripted or the real adapter in front of a served Messages API."""

import copy
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from runtime.errors import ModelError, ModelReplyInvalidError, ModelRequestError, ModelUnavailableError
from runtime.events import ModelReplied
from runtime.models.anthropic import AnthropicModel, anthropic_client
from runtime.ports import Json, Model, ModelRequest, ToolSpec
from runtime.testing import (
    Cut,
    FakeMessagesAPI,
    Fault,
    HttpFault,
    ScriptedModel,
    call_reply,
    in_order,
    serve_loopback,
    text_reply,
)

Answer = ModelReplied | ModelError
OpenModel = Callable[..., AbstractAsyncContextManager[Model]]

TOOL = ToolSpec(name="create_task", description="Create a task.", input_schema={"type": "object", "properties": {}})
TROUBLES: list[tuple[ModelError, Fault]] = [
    (
        ModelUnavailableError("busy", retry_after_s=7.0),
        HttpFault(status=429, kind="rate_limit_error", headers={"retry-after": "7"}),
    ),
    (ModelReplyInvalidError("cut"), Cut(reply=text_reply("Hello"), size_bytes=40)),
    (ModelRequestError("no", status=400), HttpFault(status=400, kind="invalid_request_error", message="no")),
]


@asynccontextmanager
async def scripted(*answers: Answer) -> AsyncGenerator[Model]:
    async with ScriptedModel(*answers) as model:
        yield model


def anthropic_over_http(*, stream: bool) -> OpenModel:
    @asynccontextmanager
    async def opened(*answers: Answer) -> AsyncGenerator[Model]:
        faults = {str(error): fault for error, fault in TROUBLES}
        api = FakeMessagesAPI(in_order(*(faults[str(one)] if isinstance(one, ModelError) else one for one in answers)))
        async with serve_loopback(api.app) as url, anthropic_client(api_key="test-key", base_url=url) as client:
            yield AnthropicModel(client, model="claude-sonnet-5-5", deadline_s=30, stream=stream)

    return opened


@pytest.fixture(
    params=[scripted, anthropic_over_http(stream=False), anthropic_over_http(stream=True)],
    ids=["scripted", "anthropic-json", "anthropic-sse"],
)
def open_model(request: pytest.FixtureRequest) -> OpenModel:
    return request.param


def asking(*messages: Json) -> ModelRequest:
    return ModelRequest(system="You help.", messages=messages or [{"role": "user", "content": "Hello"}], tools=[TOOL])


async def test_a_reply_carries_the_words_and_why_it_stopped(open_model: OpenModel) -> None:
    async with open_model(text_reply("Good morning.")) as model:
        reply = await model.reply(asking())
    assert (reply.text, reply.calls, reply.stop_reason) == ("Good morning.", (), "end_turn")


async def test_a_reply_carries_its_calls_in_order_with_their_arguments(open_model: OpenModel) -> None:
    scripted_reply = call_reply(("create_task", {"title": 'é "x"', "n": [1, 2.5, None]}), ("wait", {}), text="On it.")
    async with open_model(scripted_reply) as model:
        reply = await model.reply(asking())
    assert reply.content == scripted_reply.content
    assert [call.name for call in reply.calls] == ["create_task", "wait"]
    assert reply.stop_reason == "tool_use"


async def test_blocks_arrive_as_the_provider_wrote_them_whatever_their_kind(open_model: OpenModel) -> None:
    content = (
        {"type": "thinking", "thinking": "Let me see.\n\nYes.", "signature": "c2lnbmVk=="},
        {"type": "redacted_thinking", "data": "b3BhcXVl"},
        {"type": "not_invented_yet", "payload": {"z": 1, "a": [True]}},
        {"type": "text", "text": "Yes.", "citations": [{"type": "char_location", "start_char_index": 0}]},
    )
    async with open_model(ModelReplied(content=content, stop_reason="end_turn", model="any")) as model:
        reply = await model.reply(asking())
    assert reply.content == content
    assert [list(block) for block in reply.content] == [list(block) for block in content]


async def test_a_reply_can_go_back_as_history_together_with_the_results(open_model: OpenModel) -> None:
    first = call_reply(("create_task", {"title": "x"}))
    async with open_model(first, text_reply("Done.")) as model:
        reply = await model.reply(asking())
        result = {"type": "tool_result", "tool_use_id": reply.calls[0].id, "content": "created"}
        last = await model.reply(
            asking(
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": list(reply.content)},
                {"role": "user", "content": [result]},
            )
        )
    assert last.text == "Done."


async def test_a_call_leaves_the_request_as_it_was(open_model: OpenModel) -> None:
    request = asking({"role": "user", "content": [{"type": "text", "text": "Hello"}]})
    before = copy.deepcopy(request)
    async with open_model(text_reply("Hi.")) as model:
        await model.reply(request)
    assert request == before


@pytest.mark.parametrize("error", [error for error, _ in TROUBLES], ids=lambda error: type(error).__name__)
async def test_trouble_arrives_as_the_same_error_and_the_next_call_works(
    open_model: OpenModel, error: ModelError
) -> None:
    async with open_model(error, text_reply("Back again.")) as model:
        with pytest.raises(type(error)) as caught:
            await model.reply(asking())
        assert vars(caught.value).get("retry_after_s") == vars(error).get("retry_after_s")
        assert vars(caught.value).get("status") == vars(error).get("status")
        assert (await model.reply(asking())).text == "Back again."


async def test_the_words_of_a_reply_are_told_piece_by_piece(open_model: OpenModel) -> None:
    content = ({"type": "text", "text": "Good morning, "}, *call_reply(("wait", {}), text="Ann.").content)
    told: list[str] = []
    async with open_model(ModelReplied(content=content, stop_reason="tool_use", model="any")) as model:
        reply = await model.reply(asking(), on_text=told.append)
    assert "".join(told) == reply.text == "Good morning, Ann."
    assert len(told) > 1


@pytest.mark.parametrize("error", [error for error, _ in TROUBLES], ids=lambda error: type(error).__name__)
async def test_of_a_reply_that_fails_no_more_than_its_beginning_is_told(
    open_model: OpenModel, error: ModelError
) -> None:
    told: list[str] = []
    async with open_model(error) as model:
        with pytest.raises(type(error)):
            await model.reply(asking(), on_text=told.append)
    assert "Hello".startswith("".join(told))


async def test_a_model_has_a_name_to_show(open_model: OpenModel) -> None:
    async with open_model() as model:
        assert model.name
