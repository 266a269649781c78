"""What a program is to the workers: which agents and tools it has, and what each is called wherever it is used."""

import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime import Agent, Runtime, tool
from runtime.agents import ASSISTANT, UnknownAgentError
from runtime.apps import load_apps, module_names
from runtime.errors import AppError, DuplicateNameError, UnknownToolError
from runtime.registry import NOTHING, name_in_module
from runtime.testing import ScriptedModel, call_reply, system_on, text_reply
from storage.models.agents import AgentExecution
from storage.queries import executions
from storage.tenancy import Database
from tests.runtime import shop_app
from tests.runtime.shop_app import concierge

APP = "tests.runtime.shop_app"

HEAD = "from runtime import Agent, tool\n"
AGENT = HEAD + 'helper = Agent(name="helper", instructions="Help.", tools=({tools}))\n'
TOOL = '@tool(effect="none")\nasync def lookup(word: str) -> str:\n    "Look a word up."\n    return word\n'


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A directory of modules of the test's own, forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("app_"):
            del sys.modules[name]


def test_an_app_has_the_agents_and_tools_of_its_module_under_the_names_of_their_definitions() -> None:
    found = load_apps([APP])
    assert set(found.agents) == {f"{APP}:concierge"}
    assert set(found.tools) == {f"{APP}:opening_hours"}
    assert found.agent_named(f"{APP}:concierge").tools == (f"{APP}:opening_hours", "remember")
    assert found.tool_named(f"{APP}:opening_hours") is shop_app.opening_hours


def test_built_in_agents_and_tools_are_there_beside_them_and_cannot_be_replaced() -> None:
    found = load_apps([APP])
    assert found.agent_named("assistant") is ASSISTANT
    assert found.tool_named("remember") is NOTHING.tool_named("remember")
    with pytest.raises(UnknownToolError, match="opening_hours"):
        found.tool_named("opening_hours")
    with pytest.raises(UnknownAgentError, match="concierge"):
        found.agent_named("concierge")


def test_what_a_module_imports_keeps_the_name_of_where_it_is_defined(modules: Path) -> None:
    (modules / "app_front.py").write_text(f"from {APP} import concierge, opening_hours\n", encoding="utf-8")
    found = load_apps(["app_front", APP])
    assert set(found.agents) == {f"{APP}:concierge"}
    assert set(found.tools) == {f"{APP}:opening_hours"}


def test_two_modules_may_give_the_same_names(modules: Path) -> None:
    for name in ("app_one", "app_two"):
        (modules / f"{name}.py").write_text(TOOL.join([HEAD, AGENT.format(tools="lookup,")]), encoding="utf-8")
    found = load_apps(["app_one", "app_two"])
    assert set(found.agents) == {"app_one:helper", "app_two:helper"}
    assert set(found.tools) == {"app_one:lookup", "app_two:lookup"}


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (None, "there is no module 'app_x'"),
        ("import app_missing_thing", "'app_missing_thing', which is not installed"),
        ("1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("x = 1", "neither an Agent nor a @tool"),
        ("from runtime.operations.memory import remember", "neither an Agent nor a @tool"),
    ],
    ids=["absent", "its import", "its code", "its syntax", "empty", "built in"],
)
def test_a_module_that_is_no_app_is_refused_by_name(modules: Path, source: str | None, complaint: str) -> None:
    if source is not None:
        (modules / "app_x.py").write_text(source, encoding="utf-8")
    with pytest.raises(AppError) as caught:
        load_apps(["app_x"])
    assert caught.value.module == "app_x"
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", ["__main__", "python", "agent.x"])
def test_a_module_cannot_take_the_name_of_what_belongs_to_one_process(name: str) -> None:
    with pytest.raises(AppError, match="name is taken"):
        load_apps([name])


def test_a_tool_made_twice_under_one_name_is_refused_with_both(modules: Path) -> None:
    factory = "def make():\n" + "".join(f"    {line}\n" for line in TOOL.splitlines()) + "    return lookup\n"
    source = f"{HEAD}{factory}one = make()\ntwo = make()\n"
    (modules / "app_x.py").write_text(source, encoding="utf-8")
    with pytest.raises(DuplicateNameError) as caught:
        load_apps(["app_x"])
    assert "app_x:make.<locals>.lookup" in caught.value.definitions


def test_an_agent_with_two_tools_of_one_name_is_refused_with_both() -> None:
    @tool(effect="none")
    async def remember(word: str) -> str:
        """Remember a word."""
        return word

    with pytest.raises(DuplicateNameError) as caught:
        Runtime(Agent(name="a", instructions="a", tools=("remember", remember)))
    assert caught.value.definitions[0] == "remember"
    assert caught.value.definitions[1].startswith(f"{__name__}:")


def test_two_agents_of_one_process_with_one_name_are_refused() -> None:
    with pytest.raises(DuplicateNameError, match="two agents are named 'a'"):
        Runtime(Agent(name="a", instructions="one"), Agent(name="a", instructions="two"))


@pytest.mark.parametrize(
    ("text", "names"), [(None, []), ("", []), ("a", ["a"]), (" a , b.c,, a ", ["a", "b.c"])], ids=str
)
def test_a_list_of_modules_is_read(text: str | None, names: list[str]) -> None:
    assert module_names(text) == names


def test_an_agent_knows_where_it_is_defined_and_a_copy_is_none_of_the_module() -> None:
    assert concierge.module == APP
    assert name_in_module(concierge, concierge.module) == f"{APP}:concierge"
    polite = replace(concierge, instructions="Answer politely.")
    assert name_in_module(polite, polite.module) is None


async def ran(database: Database, user_id: int, agent: Agent) -> AgentExecution:
    model = ScriptedModel(call_reply(("opening_hours", {"day": "Monday"})), text_reply("9 to 17"))
    async with Runtime(agent, local=system_on(database, user_id, model)) as runtime:
        run = await runtime.run(agent, "when?")
    async with database.begin(user_id) as db:
        return await executions.execution(db, run.execution_id)


async def test_a_script_runs_an_agent_of_a_module_under_its_name_and_one_of_its_own_under_the_process_s(
    database: Database, alice: int
) -> None:
    shared = await ran(database, alice, concierge)
    own = await ran(database, alice, replace(concierge, name="own"))
    assert (shared.agent_name, own.agent_name) == (f"{APP}:concierge", "python:own")
    assert shared.definition_hash == own.definition_hash
    async with database.begin(alice) as db:
        calls = await executions.tool_executions(db, shared.id)
    assert [(call.tool_name, call.state) for call in calls] == [("opening_hours", "done")]


async def test_worker_and_script_agree_what_an_agent_is(database: Database, alice: int) -> None:
    shared = await ran(database, alice, concierge)
    model = ScriptedModel(call_reply(("opening_hours", {"day": "Monday"})), text_reply("9 to 17"))
    worker = system_on(database, alice, model, registry=load_apps([APP]))
    async with database.begin(alice) as db:
        session_id = await executions.create_session(db, alice)
        execution_id = await executions.queue_execution(
            db, user_id=alice, session_id=session_id, agent_name=f"{APP}:concierge", task="when?"
        )
    await worker.driver.run(alice, execution_id)
    async with database.begin(alice) as db:
        row = await executions.execution(db, execution_id)
    assert (row.status, row.definition_hash) == ("completed", shared.definition_hash)
