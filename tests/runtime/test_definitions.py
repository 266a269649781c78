"""What an agent is, may change between two workers; what its answers have to look like is held to."""

import json
from dataclasses import replace
from typing import Any

import pytest

from runtime.agents import Agent
from runtime.data_agents import check_tools, parsed, remove, save
from runtime.events import DefinitionChanged, UserSpoke, event_adapter
from runtime.local import Local
from runtime.operation import Operation
from runtime.output import misfit
from runtime.registry import Registry
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from storage.errors import EntityNotFoundError, InvalidValueError
from storage.models.agents import AgentExecution
from storage.queries import executions
from storage.queries.agent_definitions import definitions
from storage.tenancy import Database
from tests.runtime.shop_app import opening_hours

HOURS = "tests.runtime.shop_app:opening_hours"
GUIDE = Agent(name="shop:guide", instructions="Be short.", tools=("recall",), model="model-one")
SCHEMA = {"type": "object", "properties": {"hours": {"type": "integer"}}, "required": ["hours"]}


def program(database: Database, user_id: int, model: ScriptedModel, agent: Agent) -> Local:
    tools: dict[str, Operation] = {HOURS: opening_hours}
    return system_on(database, user_id, model, registry=Registry(agents={agent.name: agent}, tools=tools))


async def queue(system: Local, agent: str) -> int:
    async with system.database.begin(system.user_id) as db:
        session_id = await executions.create_session(db, system.user_id)
        return await executions.queue_execution(
            db, user_id=system.user_id, session_id=session_id, agent_name=agent, task="go"
        )


async def told(system: Local, execution_id: int) -> tuple[AgentExecution, list[Any]]:
    async with system.database.begin(system.user_id) as db:
        steps = await executions.steps(db, execution_id)
        row = await executions.execution(db, execution_id)
    return row, [event_adapter.validate_python(step.body) for step in steps]


@pytest.mark.parametrize(
    ("second", "is_changed"),
    [
        (GUIDE, False),
        (replace(GUIDE, instructions="Be long."), True),
        (replace(GUIDE, model="model-two"), True),
        (replace(GUIDE, tools=("recall", HOURS)), True),
    ],
    ids=["the same", "instructions", "model", "tools"],
)
async def test_a_worker_with_another_definition_uses_it_and_says_so(
    database: Database, alice: int, *, second: Agent, is_changed: bool
) -> None:
    first = program(database, alice, ScriptedModel(call_reply(("recall", {"query": "x"})), ZeroDivisionError()), GUIDE)
    execution_id = await queue(first, GUIDE.name)
    with pytest.raises(ZeroDivisionError):
        await first.driver.run(alice, execution_id)
    before, _ = await told(first, execution_id)
    async with database.begin(alice) as db:
        (await executions.execution(db, execution_id)).run_after = None

    model = ScriptedModel(text_reply("done"))
    await program(database, alice, model, second).driver.run(alice, execution_id)

    after, events = await told(first, execution_id)
    changes = [event for event in events if isinstance(event, DefinitionChanged)]
    assert after.status == "completed"
    assert [change.definition_hash for change in changes] == ([after.definition_hash] if is_changed else [])
    assert (after.definition_hash != before.definition_hash) is is_changed
    (request,) = model.requests
    assert request.system.startswith(second.instructions)
    assert request.model == second.model
    assert [spec.name for spec in request.tools] == [name.rpartition(":")[2] for name in second.tools]


async def defined(system: Local, **given: Any) -> None:
    async with system.database.begin(system.user_id) as db:
        await save(db, system.user_id, "clerk", parsed("clerk", {"instructions": "Count.", **given}))


async def test_a_definition_that_is_a_row_is_used_as_it_is_by_then(database: Database, alice: int) -> None:
    model = ScriptedModel(call_reply(("recall", {"query": "x"})), ZeroDivisionError(), text_reply("done"))
    system = system_on(database, alice, model)
    await defined(system, tools=["recall"])
    execution_id = await queue(system, "clerk")
    with pytest.raises(ZeroDivisionError):
        await system.driver.run(alice, execution_id)
    await defined(system, tools=["recall"], instructions="Count twice.")
    async with database.begin(alice) as db:
        (await executions.execution(db, execution_id)).run_after = None
    await system.driver.run(alice, execution_id)
    _, events = await told(system, execution_id)
    assert sum(isinstance(event, DefinitionChanged) for event in events) == 1
    assert model.requests[-1].system.startswith("Count twice.")


async def test_an_answer_that_does_not_fit_is_asked_for_once_more(database: Database, alice: int) -> None:
    model = ScriptedModel(text_reply("from 9 to 17"), text_reply('{"hours": 8}'))
    system = system_on(database, alice, model)
    await defined(system, outputSchema=SCHEMA)
    execution_id = await queue(system, "clerk")
    await system.driver.run(alice, execution_id)
    row, events = await told(system, execution_id)
    assert (row.status, row.result) == ("completed", {"text": '{"hours": 8}'})
    (asked,) = [event for event in events if isinstance(event, UserSpoke) and event.origin == "system"]
    assert "no JSON" in asked.text
    assert json.dumps(SCHEMA, sort_keys=True) in model.requests[0].system
    assert asked.text in json.dumps(list(model.requests[1].messages))


async def test_an_answer_that_does_not_fit_twice_fails_with_the_reason(database: Database, alice: int) -> None:
    model = ScriptedModel(text_reply('{"hours": "8"}'), text_reply("{}"))
    system = system_on(database, alice, model)
    await defined(system, outputSchema=SCHEMA)
    execution_id = await queue(system, "clerk")
    await system.driver.run(alice, execution_id)
    row, _ = await told(system, execution_id)
    assert (row.status, row.result) == ("failed", None)
    assert "'hours' is a required property" in (row.error or "")


async def test_a_worker_that_dies_after_asking_once_more_does_not_ask_a_third_time(
    database: Database, alice: int
) -> None:
    model = ScriptedModel(text_reply("one"), ZeroDivisionError(), text_reply("two"))
    system = system_on(database, alice, model)
    await defined(system, outputSchema=SCHEMA)
    execution_id = await queue(system, "clerk")
    with pytest.raises(ZeroDivisionError):
        await system.driver.run(alice, execution_id)
    async with database.begin(alice) as db:
        (await executions.execution(db, execution_id)).run_after = None
    await system.driver.run(alice, execution_id)
    row, events = await told(system, execution_id)
    assert row.status == "failed"
    assert sum(isinstance(event, UserSpoke) for event in events) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"hours": 8}', None),
        (' \n{"hours": 8}\n', None),
        ('```json\n{"hours": 8}\n```', "no JSON"),
        ('{"hours": NaN}', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"hours": 8.5}', "hours: 8.5 is not of type 'integer'"),
        ("[]", "the value: [] is not of type 'object'"),
    ],
    ids=range(7),
)
def test_what_fits_a_schema(text: str, problem: str | None) -> None:
    found = misfit(SCHEMA, text)
    assert found is None if problem is None else problem in (found or "")


def test_without_a_schema_any_text_will_do() -> None:
    assert misfit(None, "anything") is None


@pytest.mark.parametrize(
    ("name", "given", "complaint"),
    [
        ("assistant", {}, "is built in"),
        ("shop:clerk", {}, "is no name"),
        ("Clerk", {}, "is no name"),
        ("clerk", {"instructions": " "}, "instructions"),
        ("clerk", {"model": "two words"}, "model"),
        ("clerk", {"tools": "remember"}, "tools"),
        ("clerk", {"limits": {"tokens": 0}}, "limits.tokens"),
        ("clerk", {"limits": {"coins": 1}}, "limits.coins"),
        ("clerk", {"outputSchema": {"type": "thing"}}, "no JSON Schema"),
        ("clerk", {"outputSchema": {"$ref": "https://example.com/x"}}, "refers"),
        ("clerk", {"outputSchema": "text"}, "outputSchema"),
        ("clerk", {"colour": "red"}, "legal: instructions, model, tools, limits, outputSchema"),
        ("clerk", {"instructions": "a\x00b"}, "U+0000"),
    ],
)
def test_a_definition_that_would_not_work_is_refused(name: str, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parsed(name, {"instructions": "Count.", **given})
    assert complaint in str(caught.value)


async def test_the_tools_of_a_definition_are_those_that_somebody_has(database: Database, alice: int) -> None:
    plain, shop = system_on(database, alice), program(database, alice, ScriptedModel(), GUIDE)
    await check_tools(plain, ["remember"])
    await check_tools(shop, [HOURS])
    for wrong in ("remembr", "opening_hours", HOURS):
        with pytest.raises(InvalidValueError, match="is not known"):
            await check_tools(plain, [wrong])


async def test_a_definition_is_one_tenant_s_own_and_is_replaced_and_forgotten(
    database: Database, alice: int, bob: int
) -> None:
    for user_id, instructions in ((alice, "one"), (bob, "two"), (alice, "three")):
        await defined(system_on(database, user_id), instructions=instructions)
    for user_id, instructions in ((alice, "three"), (bob, "two")):
        async with database.begin(user_id) as db:
            (row,) = await definitions(db)
            assert (row.instructions, row.output_schema, row.limits) == (instructions, None, {})
    async with database.begin(alice) as db:
        await remove(db, alice, "clerk")
        with pytest.raises(EntityNotFoundError):
            await remove(db, alice, "clerk")
    async with database.begin(bob) as db:
        assert len(await definitions(db)) == 1
