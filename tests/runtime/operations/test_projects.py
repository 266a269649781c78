"""Saving files of a project: merged, kept inside, limited, and nothing lost between two who save at once."""

from typing import Any

import anyio
import pytest
from sqlalchemy import select, text

from runtime.errors import ToolArgumentsError, ToolError
from runtime.operations import projects
from runtime.operations.projects import save_project_files
from runtime.ports import Json
from storage.errors import InvalidValueError
from storage.models.knowledge import GeneratedProject
from storage.queries import executions
from storage.tenancy import Database
from tests.runtime.operations.performing import audit_rows, performed

PAGE = {"index.html": "<h1>Acme</h1>\n", "src/app.ts": "  let a = 1;\n"}


async def save(database: Database, user_id: int, **arguments: Any) -> Json:
    return await performed(database, user_id, save_project_files, {"name": "Acme site", **arguments})


async def saved(database: Database, user_id: int) -> list[GeneratedProject]:
    async with database.begin(user_id) as db:
        return list(await db.scalars(select(GeneratedProject).order_by(GeneratedProject.id)))


async def test_files_are_merged_into_the_project_of_that_name(database: Database, alice: int) -> None:
    first = await save(database, alice, files=PAGE, description="A site", tech_stack="vue")
    assert first == {
        "id": first["id"],
        "name": "Acme site",
        "created": True,
        "saved": ["index.html", "src/app.ts"],
        "removed": [],
        "files": 2,
        "bytes": sum(len(path) + len(content) for path, content in PAGE.items()),
    }
    second = await save(database, alice, files={"index.html": "new", "é.css": "x"}, remove=["src/app.ts"])
    assert (second["id"], second["created"], second["removed"], second["files"]) == (
        first["id"],
        False,
        ["src/app.ts"],
        2,
    )
    assert second["bytes"] == len("index.htmlnew") + len("é.cssx") + 1
    (project,) = await saved(database, alice)
    assert project.files_snapshot == {"index.html": "new", "é.css": "x"}
    assert (project.description, project.tech_stack, project.status) == ("A site", "vue", "active")
    assert await audit_rows(database, alice) == 2


async def test_contents_are_kept_to_the_last_space(database: Database, alice: int) -> None:
    await save(database, alice, files={"a": "  x \n\n", "empty": ""})
    assert (await saved(database, alice))[0].files_snapshot == {"a": "  x \n\n", "empty": ""}


async def test_a_project_belongs_to_the_execution_that_saved_last(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        session_id = await executions.create_session(db, alice)
        execution_id = await executions.queue_execution(
            db, user_id=alice, session_id=session_id, agent_name="x", task="t"
        )
    arguments = {"name": "Acme site", "files": PAGE}
    await performed(database, alice, save_project_files, arguments, execution_id=execution_id)
    await save(database, alice, description="by a person")
    assert (await saved(database, alice))[0].execution_id == execution_id


async def test_an_archived_project_is_left_alone(database: Database, alice: int) -> None:
    old = await save(database, alice, files=PAGE)
    async with database.begin(alice) as db:
        await db.execute(text("""UPDATE "generatedProjects" SET status = 'archived'"""))
    new = await save(database, alice, files={"a": "b"})
    assert new["id"] != old["id"]
    assert [project.files_snapshot for project in await saved(database, alice)] == [PAGE, {"a": "b"}]


async def test_the_project_of_another_tenant_is_another_project(database: Database, alice: int, bob: int) -> None:
    await save(database, alice, files=PAGE)
    assert (await save(database, bob, files={"a": "b"}))["created"]
    assert [project.files_snapshot for project in await saved(database, alice)] == [PAGE]
    with pytest.raises(ToolError, match=r"has no file 'src/app\.ts' to remove"):
        await save(database, bob, remove=["src/app.ts"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "nothing to save"),
        ({"files": {"x": "1"}, "remove": ["x"]}, "both saved and removed"),
        ({"remove": ["gone"]}, "no file 'gone' to remove"),
        ({"files": {"index.html/x": "1"}}, "'index.html' is a file"),
        ({"files": {"src": "1"}}, "'src' is a file"),
        ({"files": {"x" * 256: "1"}}, "has 256 characters, and 255 fit"),
        ({"files": {f"f{number}": "" for number in range(1_000)}}, "1,002 files, and 1,000 fit"),
    ],
)
async def test_what_cannot_be_saved_is_refused_as_a_whole(
    database: Database, alice: int, arguments: Json, complaint: str
) -> None:
    await save(database, alice, files=PAGE)
    with pytest.raises(ToolError, match=complaint):
        await save(database, alice, **arguments)
    assert (await saved(database, alice))[0].files_snapshot == PAGE


async def test_a_project_begins_with_a_file(database: Database, alice: int) -> None:
    with pytest.raises(ToolError, match="give at least one file"):
        await save(database, alice, description="nothing yet")
    assert await saved(database, alice) == []


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "a//b", "a/", "", ".", "a\\..\\b", "%2e%2e/x", "a\tb", "..", "./a"]
)
async def test_no_path_leads_out_of_the_project(database: Database, alice: int, path: str) -> None:
    for arguments in ({"files": {path: "x"}}, {"files": {"ok": "x"}, "remove": [path]}):
        with pytest.raises(ToolError, match="is no path here"):
            await save(database, alice, **arguments)


async def test_a_project_has_a_size_limit(database: Database, alice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projects, "LARGEST_PROJECT_BYTES", 100)
    await save(database, alice, files={"a": "ä" * 49})
    with pytest.raises(ToolError, match="101 bytes, and 100 fit"):
        await save(database, alice, files={"b": "x"})
    await save(database, alice, files={"b": "x" * 50}, remove=["a"])


@pytest.mark.parametrize("poison", ["\x00", "\ud800"])
async def test_what_cannot_be_stored_is_not_saved(database: Database, alice: int, poison: str) -> None:
    for files in ({"a": poison}, {poison: "a"}):
        with pytest.raises(InvalidValueError):
            await save(database, alice, files=files)
    with pytest.raises(ToolArgumentsError):
        await save(database, alice, files={"a": 1})


async def test_saves_at_the_same_time_are_all_kept_in_one_project(database: Database, alice: int) -> None:
    async def add(number: int) -> None:
        await save(database, alice, files={f"{number}.txt": str(number)})

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(add, number)
    (project,) = await saved(database, alice)
    assert project.files_snapshot == {f"{number}.txt": str(number) for number in range(8)}
