"""Spans for whoever runs an OpenTelemetry SDK: one per execution that is driven, one per tool call.

Names and attributes follow the semantic conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/). The provider's client emits the model calls
(`chat`). Without an SDK all of this does nothing. No content of messages, arguments or results is ever an attribute;
nor is what an exception says, because an error of the database quotes rows and one of a tool its arguments.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

_tracer = trace.get_tracer("agency.runtime")


@contextmanager
def invoking_agent(name: str, *, session_id: int, execution_id: int) -> Generator[Span]:
    """Span the driving of an execution, from a claim to its end or to where it is let go."""
    attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": name,
        "gen_ai.conversation.id": str(session_id),
        "agency.execution.id": execution_id,
    }
    with _spanning(f"invoke_agent {name}", attributes) as span:
        yield span


@contextmanager
def executing_tool(name: str, *, call_id: str, effect: str) -> Generator[Span]:
    """Span one tool call."""
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": call_id,
        "agency.tool.effect": effect,
    }
    with _spanning(f"execute_tool {name}", attributes) as span:
        yield span


def tell_model(name: str) -> None:
    """Say in the current span which model answers."""
    span = trace.get_current_span()
    span.set_attribute("gen_ai.request.model", name)
    span.set_attribute("gen_ai.provider.name", "anthropic" if name.startswith("claude") else name)


def mark(span: Span, outcome: str, *, is_error: bool = False) -> None:
    """Say how it ended."""
    span.set_attribute("agency.outcome", outcome)
    if is_error:
        span.set_attribute("error.type", outcome)
        span.set_status(Status(StatusCode.ERROR, outcome))


@contextmanager
def _spanning(name: str, attributes: Mapping[str, str | int]) -> Generator[Span]:
    with _tracer.start_as_current_span(
        name,
        kind=SpanKind.INTERNAL,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            mark(span, type(error).__name__, is_error=True)
            raise
