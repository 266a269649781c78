"""The scripted model fails a test whose script and calls do not match."""

import pytest

from runtime.errors import ModelUnavailableError
from runtime.ports import Json, ModelRequest
from runtime.testing import ScriptedModel, call_reply, text_reply


def asking(*messages: Json) -> ModelRequest:
    return ModelRequest(system="", messages=list(messages))


async def test_a_call_beyond_the_script_fails_and_shows_the_last_message() -> None:
    model = ScriptedModel(text_reply("Only one."))
    await model.reply(asking())
    with pytest.raises(AssertionError) as caught:
        await model.reply(asking({"role": "user", "content": "One more?"}))
    assert "One more?" in str(caught.value)


async def test_an_unused_reply_fails_when_the_script_is_closed() -> None:
    with pytest.raises(AssertionError) as caught:
        async with ScriptedModel(text_reply("Used."), text_reply("Never asked for.")) as model:
            await model.reply(asking())
    assert "Never asked for." in str(caught.value)


async def test_an_error_inside_the_block_is_not_hidden_by_unused_replies() -> None:
    with pytest.raises(LookupError):
        async with ScriptedModel(text_reply("Never asked for.")):
            raise LookupError


async def test_a_reply_may_be_computed_from_the_request() -> None:
    model = ScriptedModel(lambda request: text_reply(request.messages[0]["content"].upper()))
    assert (await model.reply(asking({"role": "user", "content": "echo"}))).text == "ECHO"


async def test_an_error_in_the_script_is_raised_and_counts_as_used() -> None:
    error = ModelUnavailableError("busy", retry_after_s=3)
    async with ScriptedModel(error, text_reply("Back.")) as model:
        with pytest.raises(ModelUnavailableError) as caught:
            await model.reply(asking())
        assert caught.value is error
        assert (await model.reply(asking())).text == "Back."


async def test_requests_are_recorded_as_they_were_even_if_the_caller_goes_on_writing() -> None:
    message: Json = {"role": "user", "content": [{"type": "text", "text": "before"}]}
    async with ScriptedModel(text_reply("Hi.")) as model:
        await model.reply(asking(message))
    message["content"][0]["text"] = "after"
    assert model.requests[0].messages[0]["content"][0]["text"] == "before"


def test_ids_of_calls_are_the_same_in_every_run_and_differ_within_a_script() -> None:
    replies = [
        call_reply(("wait", {}), ("wait", {})),
        call_reply(("wait", {"s": 1})),
        call_reply(("wait", {}), tag="again"),
    ]
    ids = [call.id for reply in replies for call in reply.calls]
    assert len(set(ids)) == 4
    assert call_reply(("wait", {"s": 1})) == replies[1]
