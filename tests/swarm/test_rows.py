"""The rows of a swarm tell its tale, whole and to nobody else; and only the process that holds it may write them."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from dirty_equals import IsDatetime, IsFloat, IsInt, IsPartialDict, IsPositiveInt, IsStr
from sqlalchemy import text

import storage.queries.swarm as rows
from runtime.local import Local
from storage.errors import EntityConflictError, EntityNotFoundError
from storage.tenancy import Database
from swarm import SchedulerLostError, Task, TaskCancelled, agent, swarm

Row = dict[str, Any]


@agent(capabilities={"research"}, instances=2)
async def researcher(topic: str) -> str:
    return f"notes on {topic}"


@agent(capabilities={"write"})
async def writer(brief: str, *notes: str) -> dict[str, Any]:
    if not notes:
        raise ValueError("nothing to write about")
    return {brief: notes}


async def table(database: Database, user_id: int, query: str) -> list[Row]:
    async with database.begin(user_id) as db:
        return [dict(row) for row in (await db.execute(text(query))).mappings()]


async def test_the_rows_of_a_finished_swarm_tell_the_whole_tale(local: Local, database: Database, alice: int) -> None:
    async with swarm(researcher, writer, local=local, name="market", strategy="balanced") as s:
        cost = s.submit("cost", needs={"research"})
        report = s.submit("report", needs={"write"}, after=[cost], priority="high")
        empty = s.submit("empty", needs={"write"}, max_attempts=1)
        lost = s.submit("lost", needs={"write"}, after=[empty])
        await report
        await lost.ended()
        hub, spoke, scribe = (one.id for one in (await s.status()).agents)

    assert await table(database, alice, "SELECT * FROM cf_swarms") == [
        {
            "id": s.id,
            "user_id": alice,
            "name": "market",
            "topology": "star",
            "queen_mode": "centralized",
            "max_agents": 8,
            "strategy": "balanced",
            "status": "destroyed",
            "config": {"model": "offline"},
            "queen_agent_id": hub,
            "scheduler_owner": None,
            "scheduler_epoch": 1,
            "scheduler_until": None,
            "created_at": IsDatetime(),
        }
    ]
    agents = await table(database, alice, "SELECT * FROM cf_agents ORDER BY id")
    common = {"user_id": alice, "swarm_id": s.id, "status": "terminated", "current_task_id": None}
    assert agents == [
        common
        | {"id": hub, "type": "researcher", "name": "researcher-1", "capabilities": ["research"]}
        | {"message_count": 0, "success_count": 0, "error_count": 0, "agent_session_id": None},
        common
        | {"id": spoke, "type": "researcher", "name": "researcher-2", "capabilities": ["research"]}
        | {"message_count": 1, "success_count": 1, "error_count": 0, "agent_session_id": IsPositiveInt()},
        common
        | {"id": scribe, "type": "writer", "name": "writer-1", "capabilities": ["write"]}
        | {"message_count": 2, "success_count": 1, "error_count": 1, "agent_session_id": IsPositiveInt()},
    ]
    fault = {"attempt": 1, "agent": "writer-1", "error": "ValueError: nothing to write about"}
    tasks = "SELECT id, description, priority, pri, kind, status, progress, deps_left, attempts, max_attempts, "
    tasks += "assigned_agents, result FROM cf_tasks ORDER BY seq"
    names = [
        "id",
        "description",
        "priority",
        "pri",
        "kind",
        "status",
        "progress",
        "deps_left",
        "attempts",
        "max_attempts",
        "assigned_agents",
        "result",
    ]
    done: Row
    written: Row
    done = {"output": "notes on cost", "attempts": []}
    unrun = {"reason": "dependency_failed", "chain": [empty.id]}
    gone_wrong = {"reason": "agent_fault", "attempts": [fault]}
    written = {"output": {"report": ["notes on cost"]}, "attempts": []}
    assert [tuple(row[name] for name in names) for row in await table(database, alice, tasks)] == [
        (cost.id, "cost", "medium", 1, "research", "completed", 100, 0, 1, 3, [spoke], done),
        (report.id, "report", "high", 2, "write", "completed", 100, 0, 1, 3, [scribe], written),
        (empty.id, "empty", "medium", 1, "write", "failed", 0, 0, 1, 1, [scribe], gone_wrong),
        (lost.id, "lost", "medium", 1, "write", "failed", 0, 1, 0, 3, [], unrun),
    ]
    assert await table(
        database, alice, "SELECT task_id, depends_on, dependency_type, status FROM cf_task_dependencies ORDER BY id"
    ) == [
        {"task_id": report.id, "depends_on": cost.id, "dependency_type": "blocking", "status": "satisfied"},
        {"task_id": lost.id, "depends_on": empty.id, "dependency_type": "blocking", "status": "failed"},
    ]
    history = await table(database, alice, "SELECT * FROM cf_session_history")
    assert history == [
        {
            "id": IsStr(regex="his_.*"),
            "user_id": alice,
            "swarm_id": s.id,
            "started_at": IsDatetime(),
            "ended_at": IsDatetime(ge=history[0]["started_at"]),
            "tasks_completed": 2,
            "tasks_failed": 2,
            "total_messages": 3,
            "avg_task_duration": history[0]["avg_task_duration"],
            "session_data": {"tokensIn": 0, "tokensOut": 0, "costMicros": 0},
        }
    ]
    assert float(history[0]["avg_task_duration"]) == IsFloat(ge=0, lt=60)


async def test_every_attempt_is_one_session_with_one_execution(local: Local, database: Database, alice: int) -> None:
    async with swarm(writer, researcher, local=local) as s:
        s.submit("empty", needs={"write"}, max_attempts=2)
        await s.submit("report", needs={"write"}, after=[s.submit("cost", needs={"research"})])
    found = await table(
        database,
        alice,
        """
        SELECT t.description, a.attempt, a.status, a.error, a.started_at <= a.completed_at AS ordered,
               e.status AS execution, e."agentName", e."taskDescription", e.result, e.error AS reason,
               e."durationMs", e.attempt AS taken, s.status AS session, s."leaseOwner", s.context
        FROM cf_task_assignments a JOIN cf_tasks t ON t.id = a.task_id
        JOIN "agentExecutions" e ON e.id = a.execution_id JOIN "agentSessions" s ON s.id = e."sessionId"
        ORDER BY t.seq, a.attempt
        """,
    )
    error = "ValueError: nothing to write about"
    common = {"ordered": True, "durationMs": IsInt(ge=0), "taken": 1, "leaseOwner": None}
    common |= {
        "context": {"oneTask": True, "swarm": s.id},
        "agentName": IsStr(regex=r".*test_rows:(writer|researcher)"),
    }
    bad = common | {"status": "failed", "error": error, "execution": "failed", "reason": error, "session": "error"}
    good = common | {"status": "completed", "error": None, "execution": "completed", "reason": None}
    assert found == [
        bad | {"description": "empty", "attempt": 1, "result": None, "taskDescription": '{"brief": "empty"}'},
        bad | {"description": "empty", "attempt": 2, "result": None, "taskDescription": '{"brief": "empty"}'},
        good
        | {"description": "cost", "attempt": 1, "session": "complete"}
        | {"result": "notes on cost", "taskDescription": '{"topic": "cost"}'},
        good
        | {"description": "report", "attempt": 1, "session": "complete", "result": {"report": ["notes on cost"]}}
        | {"taskDescription": '{"brief": "report", "notes": ["notes on cost"]}'},
    ]
    async with database.begin(alice) as db:
        sessions = (await db.execute(text('SELECT count(*) FROM "agentSessions"'))).scalar_one()
    assert sessions == 4


async def test_the_rows_show_what_is_under_way(local: Local, database: Database, alice: int) -> None:
    running, go = anyio.Event(), anyio.Event()

    @agent()
    async def waiting(text: str, *before: str) -> str:
        running.set()
        await go.wait()
        return text

    async with swarm(waiting, local=local) as s:
        task = s.submit("x")
        behind = s.submit("y", after=[task])
        await running.wait()
        while task.status != "running":
            await anyio.lowlevel.checkpoint()
        view = await s.status()
        assert (view.status, view.tasks) == ("active", {"running": 1, "pending": 1})
        assert [(one.status, one.current_task_id) for one in view.agents] == [("busy", task.id)]
        assert await table(
            database,
            alice,
            """
            SELECT a.status, e.status AS execution, s.status AS session FROM cf_task_assignments a
            JOIN "agentExecutions" e ON e.id = a.execution_id JOIN "agentSessions" s ON s.id = e."sessionId"
            """,
        ) == [{"status": "active", "execution": "executing", "session": "executing"}]
        held = await table(database, alice, "SELECT scheduler_until > now() AS held, scheduler_owner FROM cf_swarms")
        assert held == [{"held": True, "scheduler_owner": IsStr(min_length=10)}]
        behind.cancel()
        go.set()


async def test_another_tenant_sees_nothing_of_a_swarm(local: Local, database: Database, alice: int, bob: int) -> None:
    async with swarm(researcher, local=local) as s:
        await s.submit("cost")
    for name in ("cf_swarms", "cf_agents", "cf_tasks", "cf_task_assignments", "cf_session_history"):
        assert await table(database, bob, f"SELECT 1 FROM {name}") == []  # noqa: S608 -- names from the line above
    async with database.begin(bob) as db:
        with pytest.raises(EntityNotFoundError):
            await rows.overview(db, s.id)


TAKE_OVER = "UPDATE cf_swarms SET scheduler_epoch = scheduler_epoch + 1, scheduler_owner = 'another'"


async def test_a_scheduler_that_was_replaced_writes_nothing_more(local: Local, database: Database, alice: int) -> None:
    running, go = anyio.Event(), anyio.Event()

    @agent(instances=2)
    async def waiting(text: str) -> str:
        running.set()
        await go.wait()
        return text

    async def snapshot() -> list[list[Row]]:
        names = ("cf_swarms", "cf_agents", "cf_tasks", "cf_task_assignments", "cf_session_history", '"agentExecutions"')
        return [await table(database, alice, f"SELECT * FROM {name} ORDER BY id") for name in names]  # noqa: S608 -- constants

    tasks: list[Task[Any]] = []
    before: list[list[Row]] = []

    async def block() -> None:
        async with swarm(waiting, local=local) as s:
            tasks.append(s.submit("x"))
            await running.wait()
            while tasks[0].status != "running":
                await anyio.lowlevel.checkpoint()
            async with database.begin(alice) as db:
                await db.execute(text(TAKE_OVER))
            before.extend(await snapshot())
            go.set()
            tasks.append(s.submit("y"))
            await tasks[1]

    with pytest.raises(SchedulerLostError) as caught:
        await block()
    assert (caught.value.swarm_id, caught.value.epoch) == (before[0][0]["id"], 1)
    assert before[2] == [IsPartialDict(id=tasks[0].id, status="running")]
    assert await snapshot() == before
    for task in tasks:
        with pytest.raises(TaskCancelled):
            await task


async def test_a_row_that_somebody_else_has_changed_ends_the_swarm_instead_of_being_overwritten(
    local: Local, database: Database, alice: int
) -> None:
    running, go = anyio.Event(), anyio.Event()

    @agent()
    async def waiting(text: str) -> str:
        running.set()
        await go.wait()
        return text

    async def block() -> None:
        async with swarm(waiting, local=local) as s:
            task = s.submit("x")
            await running.wait()
            while task.status != "running":
                await anyio.lowlevel.checkpoint()
            async with database.begin(alice) as db:
                await db.execute(text("UPDATE cf_tasks SET status = 'cancelled'"))
            go.set()
            await task

    with pytest.raises(EntityConflictError) as caught:
        await block()
    assert caught.value.entity == "cf_tasks"
    assert await table(database, alice, "SELECT status, progress FROM cf_tasks") == [
        {"status": "cancelled", "progress": 0}
    ]
    assert await table(database, alice, "SELECT status FROM cf_swarms") == [{"status": "destroyed"}]
    assert await table(database, alice, "SELECT status FROM cf_task_assignments") == [{"status": "cancelled"}]


async def test_what_builds_on_a_rolled_back_round_does_not_keep_the_swarm_from_ending(
    local: Local, database: Database, alice: int
) -> None:
    async def block() -> None:
        async with swarm(researcher, local=local) as s:
            async with database.begin(alice) as db:
                await db.execute(text("UPDATE cf_agents SET status = 'error'"))
            task = s.submit("cost")
            try:
                await task
            finally:
                s.submit("risk", output=str)
                task.cancel()

    with pytest.raises(EntityConflictError) as caught:
        await block()
    assert caught.value.entity == "cf_agents"
    assert await table(database, alice, "SELECT description FROM cf_tasks") == []
    assert await table(database, alice, "SELECT status FROM cf_swarms") == [{"status": "destroyed"}]


async def test_a_lease_is_renewed_only_by_who_holds_it(local: Local, database: Database, alice: int) -> None:
    async with swarm(researcher, local=local) as s:
        found = await table(database, alice, "SELECT scheduler_owner FROM cf_swarms")
        fence = rows.Fence(user_id=alice, swarm_id=s.id, owner=found[0]["scheduler_owner"], epoch=1)
        stale = rows.Fence(user_id=alice, swarm_id=s.id, owner=fence.owner, epoch=0)
        other = rows.Fence(user_id=alice, swarm_id=s.id, owner="another", epoch=1)
        async with database.begin(alice) as db:
            await db.execute(text("UPDATE cf_swarms SET scheduler_until = now()"))
        async with database.begin(alice) as db:
            assert [await rows.renew(db, one) for one in (fence, stale, other)] == [True, False, False]
            assert [await rows.hold(db, one) for one in (fence, stale, other)] == [True, False, False]
        held = await table(database, alice, "SELECT scheduler_until - now() > '10 s' AS held FROM cf_swarms")
        assert held == [{"held": True}]


async def test_a_task_that_is_not_ready_cannot_be_claimed(local: Local, database: Database, alice: int) -> None:
    async with swarm(researcher, local=local) as s:
        found = await table(database, alice, "SELECT scheduler_owner FROM cf_swarms")
        fence = rows.Fence(user_id=alice, swarm_id=s.id, owner=found[0]["scheduler_owner"], epoch=1)
        first, second = await s.status(), s.submit("x", needs={"research"})
        await second
        attempt = rows.NewAttempt(
            id="asg_x",
            task_id=second.id,
            agent_id=first.agents[0].id,
            attempt=2,
            agent_name="x",
            task="x",
            max_iterations=1,
        )
        with pytest.raises(EntityConflictError) as caught:
            async with database.begin(alice) as db:
                await rows.claim(db, fence, [attempt])
    assert caught.value.entity == "cf_tasks"
    assert await table(database, alice, "SELECT count(*) AS n FROM cf_task_assignments") == [{"n": 1}]
