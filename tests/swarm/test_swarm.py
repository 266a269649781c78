"""A swarm at work: order, results, retries, failures, cancelling, the blackboard."""

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import swarm as package
from runtime.local import Local
from storage.errors import VersionConflictError
from storage.memory import MemoryStore
from storage.models.swarm import SwarmPriority
from storage.namespaces import swarm_namespace
from swarm import Agent, AttemptError, Ctx, TaskCancelled, TaskFailed, agent, swarm


@agent(capabilities={"work"}, instances=3)
async def worker(name: str, *before: str) -> str:
    return "".join(before) + name


def failing(*, times: int, instances: int = 2, message: str = "no luck") -> tuple[Agent[[str], str], list[Ctx]]:
    """Return an agent whose first runs fail, and the contexts of its runs."""
    runs: list[Ctx] = []

    @agent(capabilities={"try"}, instances=instances)
    async def unlucky(ctx: Ctx, text: str) -> str:
        runs.append(ctx)
        if len(runs) <= times:
            raise ValueError(message)
        return f"{text} by {ctx.agent}"

    return unlucky, runs


async def test_results_follow_the_text_in_the_order_of_after(local: Local) -> None:
    async with swarm(worker, local=local) as s:
        a, b = s.submit("a"), s.submit("b")
        c = s.submit("c", after=[b, a])
        d = s.submit("d", after=[c])
        assert await d == "bacd"
        assert (await a, await b, await c) == ("a", "b", "bac")


async def test_a_wide_fan_in_gets_every_result(local: Local) -> None:
    async with swarm(worker, local=local) as s:
        many = [s.submit(f"{number} ") for number in range(40)]
        assert await s.submit("end", after=many) == "".join(f"{number} " for number in range(40)) + "end"


async def test_a_result_may_be_wanted_twice_by_one_task(local: Local) -> None:
    async with swarm(worker, local=local) as s:
        a = s.submit("a")
        assert await s.submit("b", after=[a, a]) == "aab"


async def test_a_task_after_one_that_has_completed_runs_at_once(local: Local) -> None:
    async with swarm(worker, local=local) as s:
        a = s.submit("a")
        await a
        assert await s.submit("b", after=[a]) == "ab"


async def test_tasks_run_side_by_side_on_different_instances(local: Local) -> None:
    met: set[str] = set()
    all_here = anyio.Event()

    @agent(instances=3)
    async def meeting(ctx: Ctx, text: str) -> str:
        met.add(ctx.agent)
        if len(met) == 2:
            all_here.set()
        with anyio.fail_after(5):
            await all_here.wait()
        return text

    async with swarm(meeting, local=local) as s:
        for text in ("x", "y"):
            s.submit(text)
    # The first instance is the hub: it delegates.
    assert met == {"meeting-2", "meeting-3"}


async def test_the_urgent_task_overtakes_those_that_wait(local: Local) -> None:
    order: list[str] = []
    go = anyio.Event()

    @agent()
    async def only(text: str) -> None:
        order.append(text)
        await go.wait()

    async with swarm(only, local=local) as s:
        s.submit("first")
        while not order:
            await anyio.lowlevel.checkpoint()
        priorities: list[SwarmPriority] = ["low", "medium", "critical", "high"]
        for priority in priorities:
            s.submit(priority, priority=priority)
        go.set()
    assert order == ["first", "critical", "high", "medium", "low"]


async def test_the_end_of_the_block_waits_for_what_was_submitted(local: Local) -> None:
    async with swarm(worker, local=local) as s:
        task = s.submit("b", after=[s.submit("a")])
        assert task.status == "pending"
    assert task.status == "completed"
    assert await task == "ab"


async def test_a_failed_attempt_is_repeated_by_another_instance_under_the_same_key(local: Local) -> None:
    unlucky, runs = failing(times=1, instances=3)
    async with swarm(unlucky, local=local) as s:
        task = s.submit("x", needs={"try"})
        assert await task == "x by unlucky-3"
    assert [(ctx.agent, ctx.attempt) for ctx in runs] == [("unlucky-2", 1), ("unlucky-3", 2)]
    assert len({ctx.key for ctx in runs}) == 1
    assert {ctx.task_id for ctx in runs} == {task.id}


async def test_who_has_failed_a_task_is_not_asked_again_even_if_others_have_done_more(local: Local) -> None:
    go = anyio.Event()

    @agent(instances=3)
    async def one(ctx: Ctx, text: str) -> str:
        if text == "hold":
            await go.wait()
        if text == "hard" and ctx.attempt == 1:
            raise ValueError(text)
        return ctx.agent

    async with swarm(one, local=local) as s:
        held = s.submit("hold")
        assert [await s.submit("quick") for _ in range(3)] == ["one-3"] * 3
        go.set()
        assert await held == "one-2"
        assert await s.submit("hard") == "one-3"


async def test_two_tasks_have_different_keys(local: Local) -> None:
    unlucky, runs = failing(times=0)
    async with swarm(unlucky, local=local) as s:
        s.submit("x")
        s.submit("x")
    assert len({ctx.key for ctx in runs}) == 2


async def test_a_task_whose_attempts_all_fail_tells_of_each(local: Local) -> None:
    unlucky, _ = failing(times=3, message="no \0 luck")
    async with swarm(unlucky, local=local) as s:
        task = s.submit("x", needs={"try"})
        with pytest.raises(TaskFailed) as caught:
            await task
    assert caught.value.attempts == tuple(
        AttemptError(attempt=number, agent="unlucky-2", error="ValueError: no � luck") for number in (1, 2, 3)
    )
    assert (caught.value.task_id, caught.value.chain, task.status) == (task.id, (), "failed")


async def test_max_attempts_is_obeyed(local: Local) -> None:
    unlucky, runs = failing(times=9)
    async with swarm(unlucky, local=local) as s:
        with pytest.raises(TaskFailed):
            await s.submit("x", max_attempts=1)
    assert len(runs) == 1


async def test_an_output_that_does_not_fit_is_the_agents_fault(local: Local) -> None:
    async with swarm(worker, local=local) as s:
        with pytest.raises(TaskFailed) as caught:
            await s.submit("seven", output=int, max_attempts=1)
        assert "invalid output" in caught.value.attempts[0].error
        assert await s.submit("7", output=int) == 7


async def test_an_attempt_that_takes_too_long_is_the_agents_fault(local: Local) -> None:
    @agent(limits=package.Limits(minutes=0.0001))
    async def slow(text: str) -> str:
        await anyio.sleep_forever()
        return text

    async with swarm(slow, local=local) as s:
        with pytest.raises(TaskFailed) as caught:
            await s.submit("x", max_attempts=1)
    assert caught.value.attempts[0].error == "took longer than 0.0001 minutes"


async def test_what_waits_for_a_failed_task_fails_with_the_chain(local: Local) -> None:
    unlucky, _ = failing(times=9)
    async with swarm(worker, unlucky, local=local) as s:
        bad = s.submit("bad", needs={"try"}, max_attempts=1)
        fine = s.submit("fine", needs={"work"})
        middle = s.submit("middle", needs={"work"}, after=[fine, bad])
        last = s.submit("last", needs={"work"}, after=[middle])
        with pytest.raises(TaskFailed):
            await bad
        late = s.submit("late", needs={"work"}, after=[bad])
        outcomes: list[tuple[str, ...]] = []
        for task in (middle, last, late):
            with pytest.raises(TaskFailed) as caught:
                await task
            outcomes.append(caught.value.chain)
        assert outcomes == [(bad.id,), (middle.id, bad.id), (bad.id,)]
        assert await fine == "fine"


async def test_two_failures_at_once_fail_a_common_dependent_once(local: Local) -> None:
    unlucky, _ = failing(times=9, instances=3)
    async with swarm(worker, unlucky, local=local) as s:
        bad = [s.submit("bad", needs={"try"}, max_attempts=1) for _ in range(2)]
        both = s.submit("both", needs={"work"}, after=bad)
        await both.ended()
        for task in bad:
            await task.ended()
    assert [task.status for task in (*bad, both)] == ["failed"] * 3


async def test_failures_that_nobody_asks_about_are_logged(local: Local, caplog: pytest.LogCaptureFixture) -> None:
    unlucky, _ = failing(times=9)
    with caplog.at_level(logging.WARNING, logger="swarm.scheduler"):
        async with swarm(unlucky, local=local) as s:
            task = s.submit("x", max_attempts=1)
    records: list[Any] = caplog.records
    assert [record.taskIds for record in records if record.name == "swarm.scheduler"] == [[task.id]]


async def test_an_exception_in_the_block_cancels_the_tasks_and_comes_out_as_it_is(local: Local) -> None:
    running = anyio.Event()
    was_cancelled = False

    @agent(capabilities={"hang"})
    async def hanging(text: str) -> str:
        nonlocal was_cancelled
        running.set()
        try:
            await anyio.sleep_forever()
        finally:
            was_cancelled = True
        return text

    handles: list[package.Swarm] = []
    tasks: list[package.Task[Any]] = []

    async def block() -> None:
        async with swarm(hanging, worker, local=local) as s:
            handles.append(s)
            tasks.append(s.submit("x", needs={"hang"}))
            tasks.append(s.submit("y", needs={"work"}, after=tasks))
            await running.wait()
            tasks.append(s.submit("z", needs={"work"}))
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        await block()
    assert caught.value.__context__ is None
    assert was_cancelled
    for task in tasks:
        with pytest.raises(TaskCancelled):
            await task
    view = await handles[0].status()
    assert (view.status, view.tasks) == ("destroyed", {"cancelled": 3})
    assert {one.status for one in view.agents} == {"terminated"}


async def test_cancelling_from_outside_leaves_terminal_rows_too(local: Local) -> None:
    running = anyio.Event()

    @agent()
    async def hanging(text: str) -> str:
        running.set()
        await anyio.sleep_forever()
        return text

    handles: list[package.Swarm] = []

    async def block() -> None:
        async with swarm(hanging, local=local) as s:
            handles.append(s)
            await s.submit("x")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(block)
        await running.wait()
        tasks.cancel_scope.cancel()
    view = await handles[0].status()
    assert (view.status, view.tasks) == ("destroyed", {"cancelled": 1})


async def test_one_task_can_be_given_up_and_takes_what_waits_for_it_along(local: Local) -> None:
    running = anyio.Event()

    @agent(capabilities={"hang"})
    async def hanging(text: str) -> str:
        running.set()
        await anyio.sleep_forever()
        return text

    async with swarm(hanging, worker, local=local) as s:
        hangs = s.submit("x", needs={"hang"})
        queued = s.submit("y", needs={"hang"})
        waits = s.submit("z", needs={"work"}, after=[hangs])
        await running.wait()
        hangs.cancel()
        queued.cancel()
        with pytest.raises(TaskCancelled):
            await hangs
        with pytest.raises(TaskCancelled):
            await queued
        with pytest.raises(TaskFailed) as caught:
            await waits
        assert caught.value.chain == (hangs.id,)
        assert await s.submit("still here", needs={"work"}) == "still here"
        hangs.cancel()
    assert hangs.status == "cancelled"


async def test_the_blackboard_is_shared_and_goes_with_the_swarm(local: Local) -> None:
    @agent()
    async def scribe(ctx: Ctx, text: str) -> None:
        await ctx.memory["facts"].set("said", text)

    async with swarm(scribe, local=local) as s:
        await s.submit("hello")
        board = s.memory["facts"]
        assert await board.get("said") == "hello"
        item = await board.item("said")
        assert item is not None
        await board.cas("said", "bye", if_version=item.version, ttl=60)
        with pytest.raises(VersionConflictError):
            await board.cas("said", "late", if_version=item.version)
        assert await board.get("unsaid", default=0) == 0
        assert await board.delete("said")
        await board.set("kept", 1)
        async with local.database.begin(local.user_id) as db:
            await MemoryStore(db, local.user_id).set("user", "mine", 1)
    async with local.database.begin(local.user_id) as db:
        store = MemoryStore(db, local.user_id)
        assert (await store.list(swarm_namespace(s.id) + "/")).items == []
        assert [item.key for item in (await store.list("user")).items] == ["mine"]


async def test_two_swarms_of_one_process_do_not_mix(local: Local) -> None:
    async with swarm(worker, local=local, name="one") as one, swarm(worker, local=local, name="two") as two:
        assert await one.submit("a") + await two.submit("b") == "ab"
        assert (await one.status()).tasks == {"completed": 1}
        assert (await two.status()).name == "two"


def test_run_is_the_door_for_sync_code() -> None:
    async def main() -> int:
        return 7

    assert package.run(main) == 7
