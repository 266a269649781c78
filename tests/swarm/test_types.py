"""What a type checker knows of a swarm: this file is checked by pyright, and run."""

from typing import Any, assert_type

from runtime.local import Local
from swarm import Agent, Ctx, Task, agent, swarm


@agent()
async def writer(brief: str, *notes: str) -> str:
    return " ".join([brief, *notes])


@agent()
async def counter(ctx: Ctx, words: list[str]) -> int:
    return len(words) + ctx.attempt


helper = Agent("helper", "Help.")
adder = Agent("adder", "Add.", output=int)


async def test_submit_gives_tasks_of_the_type_that_the_agent_returns(local: Local) -> None:
    assert_type(helper, Agent[[str], str])
    assert_type(adder, Agent[[str], int])
    async with swarm(writer, counter, helper, local=local) as s:
        written = s.submit(writer, "x", "y")
        assert_type(written, Task[str])
        counted = s.submit(counter, ["a", "b"])
        assert_type(counted, Task[int])
        assert_type(await counted, int)
        free = s.submit("z", after=[written])
        assert_type(free, Task[Any])
        promised = s.submit("z", output=str)
        assert_type(promised, Task[str])
        s.submit(writer, "x", 1).cancel()  # pyright: ignore[reportArgumentType] -- that it is refused is what is tested
        assert (await written, await counted) == ("x y", 3)
        for task in (free, promised):
            task.cancel()
