"""The same demo with the real Anthropic client against a loopback Messages API; the offline model finds the words."""

import json
from typing import Any

import anyio.to_thread
import pytest

from runtime.events import ModelReplied
from runtime.models.offline import OfflineModel
from runtime.ports import ModelRequest, ToolSpec
from runtime.testing import FakeMessagesAPI, serve_loopback
from tests.user import Agency


class Brain:
    """Answers the API's requests as the offline model would, and counts them."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, request: dict[str, Any], index: int) -> ModelReplied:
        """Answer one request."""
        del index
        self.calls += 1
        tools = [
            ToolSpec(name=tool["name"], description=tool["description"], input_schema=tool["input_schema"])
            for tool in request.get("tools", [])
        ]
        return OfflineModel().answer(ModelRequest(system="", messages=request["messages"], tools=tools))


@pytest.mark.parametrize("stream", ["true", "false"], ids=["sse", "json"])
async def test_the_demo_runs_on_the_messages_api(agency: Agency, stream: str) -> None:
    brain = Brain()
    api = FakeMessagesAPI(brain)
    async with serve_loopback(api.app) as url:
        settings = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": url, "AGENCY_MODEL_STREAM": stream}
        ran = await anyio.to_thread.run_sync(lambda: agency("demo", "--json", **settings))

    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["model"] == "claude-sonnet-5-5"
    assert brain.calls == sum(message["execution"]["iterations"] for message in report["messages"])
    assert all(request.get("stream", False) is (stream == "true") for request in api.requests)
    card = report["messages"][0]["cards"][-1]
    assert (card["title"], card["client"]) == ("Fix the landing page", "Acme Dental")
