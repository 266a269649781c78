"""Spans for whoever runs an OpenTelemetry SDK: one per execution that is driven, one per tool call.

Names and attributes follow the semantic conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/). The provider's client emits the model calls
(`chat`). Without an SDK all of this does nothing. No content of messages, arguments or results is ever an attribute.
"""

from collections.abc import Generator
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
    with _tracer.start_as_current_span(f"invoke_agent {name}", kind=SpanKind.INTERNAL, attributes=attributes) as span:
        yield span


@contextmanager
def executing_tool(name: str, *, call_id: str, effect: str) -> Generator[Span]:
    """Span one tool call."""
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.call.id": call_id,
        "agency.tool.effect": effect,
    }
    with _tracer.start_as_current_span(f"execute_tool {name}", kind=SpanKind.INTERNAL, attributes=attributes) as span:
        yield span


def mark(span: Span, outcome: str, *, is_error: bool = False) -> None:
    """Say how it ended."""
    span.set_attribute("agency.outcome", outcome)
    if is_error:
        span.set_status(Status(StatusCode.ERROR, outcome))
