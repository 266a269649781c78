"""Agents: what can be one, and what is refused when it is defined or submitted."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from runtime.local import Local
from swarm import (
    Agent,
    Ctx,
    DefinitionError,
    NoCapableAgentError,
    SubmitError,
    Swarm,
    TopologyError,
    UnknownAgentTypeError,
    agent,
    swarm,
)


class Verdict(BaseModel):
    """What a reviewer says."""

    is_sound: bool
    reason: str


@agent(capabilities={"write"})
async def writer(brief: str, *notes: str) -> str:
    return f"{brief}: {'; '.join(notes)}"


@agent(capabilities={"count"})
async def counter(ctx: Ctx, text: str, /, times: int = 1) -> dict[str, int]:
    return {ctx.agent: len(text) * times}


reviewer = Agent("reviewer", "Reject claims without a source.", output=Verdict, capabilities={"review"})


def test_an_empty_body_makes_a_model_answer_and_any_other_body_runs() -> None:
    @agent()
    async def asked(topic: str) -> Verdict:
        """Find primary sources."""
        ...

    @agent()
    async def runs(topic: str) -> str:
        """Find primary sources."""
        return topic

    assert asked.definition.is_model
    assert asked.definition.instructions == "Find primary sources."
    assert "is_sound" in asked.definition.runtime_agent().instructions
    assert not runs.definition.is_model
    assert reviewer.definition.is_model
    assert Agent("helper", "Help.").definition.runtime_agent().instructions == "Help."


async def _without_words(topic: str) -> str: ...


def _not_async(topic: str) -> str:
    return topic


async def _twice(a: Ctx, b: Ctx) -> None:
    a.key.join(b.key)


class _Handle:
    """Something that lives in this process only."""


async def _returns_a_handle(topic: str) -> _Handle:
    return _Handle()


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        (_without_words, "docstring"),
        (_not_async, "async def"),
        (_twice, "once"),
        (_returns_a_handle, "plain data"),
    ],
)
def test_a_function_that_cannot_be_an_agent_is_refused_with_a_way_out(
    function: Callable[..., Awaitable[Any]], remedy: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        agent()(function)
    assert remedy in caught.value.remedy


def test_wrong_options_are_refused_where_they_are_written() -> None:
    with pytest.raises(DefinitionError, match=r"known: .*create_task"):
        Agent("helper", "Help.", tools=["no_such_tool"])
    with pytest.raises(DefinitionError, match="at least one"):
        Agent("helper", "Help.", instances=0)
    with pytest.raises(DefinitionError, match=r"capabilities={'write'}"):
        Agent("helper", "Help.", capabilities="write")
    with pytest.raises(DefinitionError, match="no instructions"):
        Agent("helper", " ")


async def test_two_agents_of_one_name_are_refused(local: Local) -> None:
    with pytest.raises(DefinitionError, match="instances=2"):
        async with swarm(writer, writer, local=local):
            pass


async def test_a_shape_that_contradicts_itself_leaves_no_row(local: Local) -> None:
    with pytest.raises(TopologyError):
        async with swarm(writer, topology="star", queen="distributed", local=local):
            pass


async def refused(s: Swarm, *args: Any, **kwargs: Any) -> SubmitError:
    submit: Any = s.submit  # what a type checker would refuse already
    with pytest.raises(SubmitError) as caught:
        submit(*args, **kwargs)
    return caught.value


async def test_what_fits_no_agent_is_refused_at_submit(local: Local) -> None:
    async with swarm(writer, counter, local=local) as s:
        error = await refused(s, "report", needs={"paint"})
        assert isinstance(error, NoCapableAgentError)
        assert (error.needs, error.capabilities) == (("paint",), ("count", "write"))
        assert "capabilities here: count, write" in str(error)

        error = await refused(s, reviewer, "this")
        assert isinstance(error, UnknownAgentTypeError)
        assert error.known == ("counter", "writer")

        assert "missing a required argument: 'brief'" in str(await refused(s, writer))
        assert "writer(brief: str, *notes: str) -> str" in str(await refused(s, writer, brief="x", other="y"))
        assert "JSON" in str(await refused(s, writer, object()))
        assert "JSON" in str(await refused(s, writer, "\0"))

        done = s.submit("report", needs={"write"})
        assert "3 positional arguments" in str(await refused(s, "x", needs={"count"}, after=[done, done]))
        assert "one text" in str(await refused(s, "x", "y"))
        assert "needs={'write'}" in str(await refused(s, "x", needs="write"))
        assert "legal: low, medium, high, critical" in str(await refused(s, "x", priority="urgent"))
        assert "empty" in str(await refused(s, " "))
        assert "@agent" in str(await refused(s, print))
        assert "at least 1" in str(await refused(s, "x", max_attempts=0))

        async with swarm(writer, local=local) as other:
            assert "no task of this swarm" in str(await refused(other, "x", after=[done]))
    assert "takes no tasks" in str(await refused(s, "too late"))
    assert (await s.status()).tasks == {"completed": 1}


async def test_the_context_is_given_to_the_function_and_not_asked_of_the_caller(local: Local) -> None:
    async with swarm(writer, counter, local=local) as s:
        assert await s.submit(counter, "word", times=2) == {"counter-1": 8}
        assert await s.submit("word", needs={"count"}) == {"counter-1": 4}
