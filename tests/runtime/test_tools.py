"""Tools of one's own: what each kind promises, and that nothing a tool does leaves a call without its result."""

from typing import Any

import anyio
import pytest
from sqlalchemy import select, text, update

from runtime import Agent, Context, ExternalContext, Runtime, StillRunningError, tool
from runtime.errors import ModelUnavailableError, ToolError
from runtime.events import ModelReplied, ToolReturned
from runtime.operation import Operation
from runtime.ports import ModelRequest
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from runtime.tools import LARGEST_BLOB, SHOWN_TO_MODEL, ToolDefinitionError
from storage.models.agents import AgentExecution, AgentSession, ToolExecution
from storage.models.crm import ClientProfile
from storage.tenancy import Database


async def ran(database: Database, user_id: int, used: Operation, arguments: dict[str, Any]) -> ToolExecution:
    """Let an agent call the tool once, and return the row of that call."""
    agent = Agent(name="tester", instructions="Test.", tools=(used,))
    model = ScriptedModel(call_reply((used.name, arguments)), text_reply("done"))
    async with Runtime(agent, local=system_on(database, user_id, model)) as runtime:
        run = await runtime.run(agent, "try it")
    assert (run.status, run.text) == ("completed", "done")
    async with database.begin(user_id) as db:
        return (await db.scalars(select(ToolExecution))).one()


async def test_a_function_becomes_a_tool_with_its_signature(database: Database, alice: int) -> None:
    @tool(effect="none")
    async def opening_hours(day: str, holiday: bool = False) -> str:  # noqa: FBT001, FBT002 -- an argument of the model
        """Tell when the shop is open."""
        return f"{day}: {'closed' if holiday else '9 to 17'}"

    assert opening_hours.spec.description == "Tell when the shop is open."
    assert opening_hours.spec.input_schema["required"] == ["day"]
    row = await ran(database, alice, opening_hours, {"day": "Monday"})
    assert (row.state, row.result) == ("done", {"result": "Monday: 9 to 17"})


async def test_a_db_tool_commits_with_its_record_or_not_at_all(database: Database, alice: int) -> None:
    @tool(effect="db")
    async def add_client(ctx: Context, name: str) -> dict[str, Any]:
        """Add a client, then refuse odd names."""
        ctx.db.add(ClientProfile(user_id=ctx.user_id, name=name))
        await ctx.db.flush()
        if name == "odd":
            message = "no odd names"
            raise ToolError(message)
        return {"name": name}

    assert "ctx" not in add_client.spec.input_schema["properties"]
    row = await ran(database, alice, add_client, {"name": "Acme"})
    assert row.state == "done"
    async with database.begin(alice) as db:
        await db.execute(text('DELETE FROM "toolExecutions"'))
    row = await ran(database, alice, add_client, {"name": "odd"})
    assert (row.state, row.error) == ("error", "no odd names")
    async with database.begin(alice) as db:
        assert [client.name for client in await db.scalars(select(ClientProfile))] == ["Acme"]


@tool()
async def raises() -> str:
    """Raise."""
    message = "boom"
    raise ZeroDivisionError(message)


@tool(timeout_s=0.05)
async def hangs() -> str:
    """Hang."""
    await anyio.sleep_forever()
    return ""


@tool(effect="db", timeout_s=0.05)
async def hangs_inside(ctx: Context) -> str:
    """Hang in a transaction."""
    await ctx.db.execute(text("SELECT pg_sleep(60)"))
    return ""


@tool(effect="db", timeout_s=0.05)
async def dawdles_inside(_ctx: Context) -> str:
    """Hang in a transaction without a statement."""
    await anyio.sleep_forever()
    return ""


@tool()
async def gives_nan() -> dict[str, float]:
    """Return what JSON has no word for."""
    return {"value": float("nan")}


@tool()
async def gives_nul() -> str:
    """Return what Postgres cannot store."""
    return "a\x00b"


@tool()
async def gives_an_object() -> object:
    """Return what is no data."""
    return object()


@tool(effect="db")
async def gives_too_much(_ctx: Context) -> str:
    """Return more than a blob keeps."""
    return "x" * (LARGEST_BLOB + 1)


@pytest.mark.parametrize(
    ("used", "state", "complaint"),
    [
        (raises, "error", "ZeroDivisionError: boom"),
        (hangs, "unknown", "did not return within 0.05 s"),
        (hangs_inside, "error", "did not return within 0.05 s"),
        (dawdles_inside, "error", "did not return within 0.05 s"),
        (gives_nan, "error", "cannot be stored"),
        (gives_nul, "error", "cannot be stored"),
        (gives_an_object, "error", "PydanticSerializationError"),
        (gives_too_much, "error", "ask for less"),
    ],
    ids=lambda value: value.name if isinstance(value, Operation) else "",
)
async def test_whatever_a_tool_does_ends_in_a_recorded_result(
    database: Database, alice: int, used: Operation, state: str, complaint: str
) -> None:
    row = await ran(database, alice, used, {})
    assert row.state == state
    assert row.error is not None
    assert complaint in row.error


async def test_fifty_megabytes_from_outside_are_cut_and_said_to_be(database: Database, alice: int) -> None:
    @tool()
    async def floods() -> str:
        """Return 50 MB."""
        return "x" * 50_000_000

    row = await ran(database, alice, floods, {})
    assert row.state == "done"
    assert row.result is not None
    assert (row.result["truncated"], len(row.result["preview"])) == (True, SHOWN_TO_MODEL)


def crashing(database: Database, user_id: int, attempts: list[str], *, honours_key: bool) -> tuple[Agent, Operation]:
    """A tool during whose first attempt the worker dies, as far as anybody can see."""

    @tool(honours_key=honours_key)
    async def charge(ctx: ExternalContext, amount: int) -> str:
        """Charge a card."""
        attempts.append(ctx.key)
        if len(attempts) == 1:
            async with database.begin(user_id) as db:
                lapsed = {
                    AgentSession.lease_owner: "the dead",
                    AgentSession.lease_epoch: AgentSession.lease_epoch + 1,
                    AgentSession.lease_until: text("now() - interval '1 second'"),
                }
                await db.execute(update(AgentSession).values(lapsed))
        return f"charged {amount}"

    return Agent(name="cashier", instructions="Charge.", tools=(charge,)), charge


@pytest.mark.parametrize(("honours_key", "state", "times"), [(False, "unknown", 1), (True, "done", 2)])
async def test_a_crash_during_an_external_call_is_told_or_repeated_under_the_same_key(
    database: Database,
    alice: int,
    honours_key: bool,  # noqa: FBT001 -- a parameter of the test
    state: str,
    times: int,
) -> None:
    attempts: list[str] = []
    agent, charge = crashing(database, alice, attempts, honours_key=honours_key)
    first = system_on(database, alice, ScriptedModel(call_reply((charge.name, {"amount": 5}))))
    async with Runtime(agent, local=first) as runtime:
        with pytest.raises(StillRunningError) as lost:
            await runtime.run(agent, "charge 5")
    second = system_on(database, alice, ScriptedModel(text_reply("done")))

    async with Runtime(agent, local=second) as runtime:
        run = await runtime.resume(lost.value.execution_id)
        events = [event for _, event in await runtime.events(run.execution_id)]

    assert run.status == "completed"
    assert len(attempts) == times
    assert len(set(attempts)) == 1
    async with database.begin(alice) as db:
        row = (await db.scalars(select(ToolExecution))).one()
    assert (row.state, row.idempotency_key) == (state, attempts[0])
    (returned,) = [event for event in events if isinstance(event, ToolReturned)]
    assert returned.is_error is (state == "unknown")


async def test_a_session_goes_on_and_an_ended_execution_is_returned_as_it_was(database: Database, alice: int) -> None:
    def second(request: ModelRequest) -> ModelReplied:
        assert [message["role"] for message in request.messages] == ["user", "assistant", "user"]
        return text_reply("two")

    agent = Agent(name="talker", instructions="Talk.", tools=("remember",))
    async with Runtime(agent, local=system_on(database, alice, ScriptedModel(text_reply("one"), second))) as runtime:
        one = await runtime.run(agent, "first")
        two = await runtime.run(agent, "second", session_id=one.session_id)
        assert (one.text, two.text, two.session_id) == ("one", "two", one.session_id)
        assert await runtime.resume(one.execution_id) == one


async def test_an_unavailable_model_is_told_and_the_execution_can_be_resumed(database: Database, alice: int) -> None:
    agent = Agent(name="patient", instructions="Wait.")
    model = ScriptedModel(ModelUnavailableError("overloaded", retry_after_s=7), text_reply("at last"))
    async with Runtime(agent, local=system_on(database, alice, model)) as runtime:
        with pytest.raises(ModelUnavailableError) as told:
            await runtime.run(agent, "answer")
        assert told.value.retry_after_s == 7
        async with database.begin(alice) as db:
            await db.execute(update(AgentExecution).values({AgentExecution.run_after: text("now()")}))
            execution_id = (await db.scalars(select(AgentExecution.id))).one()
        assert (await runtime.resume(execution_id)).text == "at last"


def test_a_function_that_cannot_be_a_tool_is_refused_where_it_is_defined() -> None:
    with pytest.raises(ToolDefinitionError, match="async"):

        @tool()  # pyright: ignore[reportArgumentType] -- that is what is refused
        def not_async() -> str:  # pyright: ignore[reportUnusedFunction] -- refused
            """Be quick."""
            return ""

    with pytest.raises(ToolDefinitionError, match="docstring"):

        @tool()
        async def unexplained() -> str:  # pyright: ignore[reportUnusedFunction] -- refused
            return ""

    with pytest.raises(ToolDefinitionError, match="ExternalContext"):

        @tool()
        async def greedy(ctx: Context) -> str:  # pyright: ignore[reportUnusedFunction] -- refused
            """Want a transaction outside."""
            return str(ctx.user_id)
