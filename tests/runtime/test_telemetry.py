"""What an OpenTelemetry SDK is told, and above all what it is not."""

import subprocess
import sys
from collections.abc import Generator, Sequence
from functools import cache

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from runtime import Agent, Runtime, tool
from runtime.errors import ModelRequestError
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from storage.tenancy import Database

CANARY = "canary-7f3a"
"""In every message, argument, result and error of these tests."""


@cache
def exporter() -> InMemorySpanExporter:
    """Set the SDK of this process, once: OpenTelemetry takes no second one."""
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    trace.set_tracer_provider(provider)
    return made


@pytest.fixture
def spans() -> Generator[InMemorySpanExporter]:
    found = exporter()
    found.clear()
    yield found
    found.clear()


@tool(effect="none")
async def look(word: str) -> str:
    """Look a word up."""
    return f"{word} {CANARY}"


@tool()
async def send(word: str) -> str:
    """Send a word."""
    message = f"{word} {CANARY} broke"
    raise ZeroDivisionError(message)


@tool(effect="db")
async def write(word: str) -> str:
    """Write a word."""
    message = f"{word} {CANARY} was refused"
    raise ValueError(message)


GUIDE = Agent(name="guide", instructions=f"Say {CANARY}.", tools=(look, send, write), model="claude-test")


def named(found: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    (span,) = [span for span in found if span.name == name]
    return span


async def run(database: Database, user_id: int, model: ScriptedModel, agent: Agent = GUIDE) -> int:
    async with Runtime(agent, local=system_on(database, user_id, model)) as runtime:
        return (await runtime.run(agent, f"wish {CANARY}")).execution_id


async def test_a_run_is_a_span_with_one_below_it_for_each_call(
    database: Database, alice: int, spans: InMemorySpanExporter
) -> None:
    model = ScriptedModel(call_reply(("look", {"word": CANARY})), text_reply(CANARY))
    execution_id = await run(database, alice, model)
    invoked = named(spans.get_finished_spans(), f"invoke_agent {__name__}:GUIDE")
    assert invoked.kind is SpanKind.INTERNAL
    assert invoked.parent is None
    assert dict(invoked.attributes or {}) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": f"{__name__}:GUIDE",
        "gen_ai.conversation.id": "1",
        "gen_ai.request.model": "claude-test",
        "gen_ai.provider.name": "anthropic",
        "agency.execution.id": execution_id,
        "agency.outcome": "completed",
    }
    assert invoked.status.status_code is StatusCode.UNSET
    called = named(spans.get_finished_spans(), "execute_tool look")
    assert called.kind is SpanKind.INTERNAL
    assert called.parent is not None
    assert invoked.context is not None
    assert called.parent.span_id == invoked.context.span_id
    attributes = dict(called.attributes or {})
    assert isinstance(attributes.pop("gen_ai.tool.call.id"), str)
    assert attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look",
        "gen_ai.tool.type": "function",
        "agency.tool.effect": "none",
        "agency.outcome": "done",
    }
    assert called.status.status_code is StatusCode.UNSET


async def test_calls_beside_each_other_are_siblings(
    database: Database, alice: int, spans: InMemorySpanExporter
) -> None:
    model = ScriptedModel(call_reply(("look", {"word": "a"}), ("look", {"word": "b"})), text_reply("done"))
    await run(database, alice, model)
    invoked = named(spans.get_finished_spans(), f"invoke_agent {__name__}:GUIDE")
    calls = [span for span in spans.get_finished_spans() if span.name == "execute_tool look"]
    assert invoked.context is not None
    assert [span.parent and span.parent.span_id for span in calls] == [invoked.context.span_id] * 2


@pytest.mark.parametrize("name", ["send", "write"])
async def test_a_tool_that_fails_is_an_error_of_its_span_and_not_of_the_run(
    database: Database, alice: int, spans: InMemorySpanExporter, name: str
) -> None:
    model = ScriptedModel(call_reply((name, {"word": CANARY})), text_reply("so be it"))
    await run(database, alice, model)
    called = named(spans.get_finished_spans(), f"execute_tool {name}")
    assert called.status.status_code is StatusCode.ERROR
    assert (called.attributes or {})["error.type"] == "error"
    invoked = named(spans.get_finished_spans(), f"invoke_agent {__name__}:GUIDE")
    assert invoked.status.status_code is StatusCode.UNSET


async def test_a_run_that_fails_is_an_error_without_its_words(
    database: Database, alice: int, spans: InMemorySpanExporter
) -> None:
    await run(database, alice, ScriptedModel(ModelRequestError(f"{CANARY} is refused")))
    (invoked,) = spans.get_finished_spans()
    assert (invoked.status.status_code, invoked.status.description) == (StatusCode.ERROR, "failed")
    assert (invoked.attributes or {})["error.type"] == "failed"
    assert CANARY not in invoked.to_json()


async def test_a_crash_is_told_by_its_kind_alone(database: Database, alice: int, spans: InMemorySpanExporter) -> None:
    with pytest.raises(ZeroDivisionError):
        await run(database, alice, ScriptedModel(ZeroDivisionError(CANARY)))
    (invoked,) = spans.get_finished_spans()
    assert (invoked.status.status_code, invoked.status.description) == (StatusCode.ERROR, "ZeroDivisionError")
    assert (invoked.attributes or {})["error.type"] == "ZeroDivisionError"
    assert not invoked.events, "the event of an exception quotes it"
    assert CANARY not in invoked.to_json()


async def test_no_span_holds_what_was_said_asked_or_answered(
    database: Database, alice: int, spans: InMemorySpanExporter
) -> None:
    calls = [(name, {"word": CANARY}) for name in ("look", "send", "write")]
    await run(database, alice, ScriptedModel(call_reply(*calls, text=CANARY), text_reply(CANARY)))
    found = spans.get_finished_spans()
    assert len(found) == 4
    assert [span.name for span in found if CANARY in span.to_json()] == []


def test_without_an_sdk_nothing_is_recorded_and_nothing_of_one_is_imported() -> None:
    program = """
import sys
from runtime import telemetry
with telemetry.invoking_agent("a", session_id=1, execution_id=2) as span:
    telemetry.tell_model("m")
    telemetry.mark(span, "failed", is_error=True)
assert not span.is_recording()
assert not any(name.startswith("opentelemetry.sdk") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
