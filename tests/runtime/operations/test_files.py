"""The memory tool: the documented texts, no way out of /memories, nothing lost between two who write at once."""

import json
from typing import Any

import anyio
import pytest
from sqlalchemy import select, text

from runtime.errors import ToolArgumentsError, ToolError
from runtime.operations import files
from runtime.operations.files import LONGEST_VIEW, memory
from runtime.operations.memory import remember
from storage.errors import InvalidValueError, VersionConflictError
from storage.memory import LARGEST_VALUE_BYTES
from storage.models.audit import AuditLog
from storage.models.swarm import MemoryEntry
from storage.tenancy import Database
from tests.runtime.operations.performing import AGENT, audit_rows, chat, performed

NOTES = "/memories/notes.md"


async def ask(database: Database, user_id: int, command: str, **arguments: Any) -> str:
    result = await performed(database, user_id, memory, {"command": command, **arguments})
    return result["text"]


async def refused(database: Database, user_id: int, command: str, **arguments: Any) -> str:
    with pytest.raises(ToolError) as caught:
        await ask(database, user_id, command, **arguments)
    return str(caught.value)


async def create(database: Database, user_id: int, path: str = NOTES, content: str = "one\ntwo\nthree\n") -> None:
    await ask(database, user_id, "create", path=path, file_text=content)


async def content(database: Database, user_id: int, key: str = "/notes.md") -> str:
    async with database.begin(user_id) as db:
        return (await db.scalars(select(MemoryEntry.value).where(MemoryEntry.key_name == key))).one()


async def test_a_file_is_made_and_read_with_line_numbers(database: Database, alice: int) -> None:
    made = await ask(database, alice, "create", path=NOTES, file_text="  one\n\ttwo \n\n")
    assert made == "File created successfully at: /memories/notes.md"
    assert await content(database, alice) == "  one\n\ttwo \n\n", "white space is kept"
    assert await ask(database, alice, "view", path=NOTES) == (
        """\
Here's the content of /memories/notes.md with line numbers:
     1\t  one
     2\t\ttwo \n\
     3\t\
"""
    )


async def test_a_range_of_lines_is_read(database: Database, alice: int) -> None:
    await create(database, alice, content="\n".join(f"line {number}" for number in range(1, 12)))
    seen = await ask(database, alice, "view", path=NOTES, view_range=[2, 3])
    assert seen.splitlines()[1:] == ["     2\tline 2", "     3\tline 3"]
    to_the_end = await ask(database, alice, "view", path=NOTES, view_range=[10, -1])
    assert to_the_end.splitlines()[1:] == ["    10\tline 10", "    11\tline 11"]


@pytest.mark.parametrize("wrong", [[12, 13], [3, 2], [5, 0]])
async def test_a_range_outside_the_file_is_refused(database: Database, alice: int, wrong: list[int]) -> None:
    await create(database, alice, content="\n".join("x" * 11))
    complaint = await refused(database, alice, "view", path=NOTES, view_range=wrong)
    assert complaint.endswith("It should be within the range of lines of the file: [1, 11]")


async def test_a_directory_is_listed_two_levels_deep(database: Database, alice: int) -> None:
    assert await ask(database, alice, "view", path="/memories") == (
        """\
Here're the files and directories up to 2 levels deep in /memories, excluding hidden items and node_modules:
0B\t/memories\
"""
    )
    sizes = {"a.md": 5, "b/c.md": 1536, "b/d/e.md": 512, ".hidden": 9, "b/node_modules/x": 7, "b.md": 0}
    for path, size in sizes.items():
        await create(database, alice, f"/memories/{path}", "ä" * (size // 2) + "x" * (size % 2))
    assert await ask(database, alice, "view", path="/memories/") == (
        """\
Here're the files and directories up to 2 levels deep in /memories, excluding hidden items and node_modules:
2.0K\t/memories
5B\t/memories/a.md
2.0K\t/memories/b/
1.5K\t/memories/b/c.md
512B\t/memories/b/d/
0B\t/memories/b.md\
"""
    )
    assert (await ask(database, alice, "view", path="/memories/b/d")).splitlines()[1:] == [
        "512B\t/memories/b/d",
        "512B\t/memories/b/d/e.md",
    ]


async def test_a_long_file_is_read_in_parts(database: Database, alice: int) -> None:
    lines = [f"{number:5} " + "x" * 94 for number in range(1, 301)]
    await create(database, alice, content="\n".join(lines))
    seen: list[str] = []
    first = 1
    while first <= len(lines):
        view = await ask(database, alice, "view", path=NOTES, view_range=[first, -1])
        assert len(view) < LONGEST_VIEW + 300
        seen += [line.split("\t", 1)[1] for line in view.splitlines()[1:] if "\t" in line]
        first = len(seen) + 1
    assert seen == lines
    await create(database, alice, "/memories/wide", "y" * 100_000)
    wide = await ask(database, alice, "view", path="/memories/wide")
    assert wide.endswith(f"…(+{100_000 - LONGEST_VIEW:,} characters)")


async def test_a_text_that_stands_there_once_is_replaced(database: Database, alice: int) -> None:
    await create(database, alice, content="1\n2\n3\n4\nblue\n6\n7\n8\n9\n")
    edited = await ask(database, alice, "str_replace", path=NOTES, old_str="blue\n", new_str="red\ngreen\n")
    assert edited == (
        """\
The memory file has been edited. Here is the snippet showing the change (with line numbers):
     3\t3
     4\t4
     5\tred
     6\tgreen
     7\t6
     8\t7
     9\t8\
"""
    )
    assert await content(database, alice) == "1\n2\n3\n4\nred\ngreen\n6\n7\n8\n9\n"
    await ask(database, alice, "str_replace", path=NOTES, old_str="1\n2\n", new_str="")
    assert (await content(database, alice)).startswith("3\n4\n")


@pytest.mark.parametrize(
    ("old", "complaint"),
    [
        ("four", "No replacement was performed, old_str `four` did not appear verbatim in /memories/notes.md."),
        ("", "Error: `old_str` is empty; give the text to replace, or use insert"),
        (
            "e",
            "No replacement was performed. Multiple occurrences of old_str `e` in lines: 1, 3, 3. "
            "Please ensure it is unique",
        ),
        (
            "ee\n",
            None,
        ),
    ],
)
async def test_a_text_that_does_not_stand_there_once_is_not_replaced(
    database: Database, alice: int, old: str, complaint: str | None
) -> None:
    await create(database, alice)
    if complaint is None:
        await ask(database, alice, "str_replace", path=NOTES, old_str=old, new_str="!")
        assert await content(database, alice) == "one\ntwo\nthr!"
        return
    assert await refused(database, alice, "str_replace", path=NOTES, old_str=old, new_str="!") == complaint
    assert await content(database, alice) == "one\ntwo\nthree\n"


async def test_overlapping_occurrences_are_several(database: Database, alice: int) -> None:
    await create(database, alice, content="aaa")
    assert "in lines: 1, 1." in await refused(database, alice, "str_replace", path=NOTES, old_str="aa", new_str="b")


@pytest.mark.parametrize(
    ("before", "line", "added", "after"),
    [
        ("a\nb\n", 0, "x\n", "x\na\nb\n"),
        ("a\nb\n", 1, "x", "a\nx\nb\n"),
        ("a\nb\n", 2, "x\n", "a\nb\nx\n"),
        ("a\nb", 2, "x", "a\nb\nx\n"),
        ("a\nb", 1, "x\ny\n", "a\nx\ny\nb"),
        ("", 0, "x", "x\n"),
        ("a\n", 1, "x\n\n", "a\nx\n\n"),
    ],
)
async def test_lines_are_inserted_after_a_line(
    database: Database, alice: int, before: str, line: int, added: str, after: str
) -> None:
    await create(database, alice, content=before)
    done = await ask(database, alice, "insert", path=NOTES, insert_line=line, insert_text=added)
    assert done == "The file /memories/notes.md has been edited."
    assert await content(database, alice) == after


@pytest.mark.parametrize("line", [-1, 4])
async def test_a_line_that_is_not_there_is_refused(database: Database, alice: int, line: int) -> None:
    await create(database, alice)
    assert await refused(database, alice, "insert", path=NOTES, insert_line=line, insert_text="x") == (
        f"Error: Invalid `insert_line` parameter: {line}. It should be within the range of lines of the file: [0, 3]"
    )


async def test_deleting_a_directory_deletes_all_below_it(database: Database, alice: int) -> None:
    for path in ("a/b/c", "a/d", "ab", "a_"):
        await create(database, alice, f"/memories/{path}")
    assert await ask(database, alice, "delete", path="/memories/a/") == "Successfully deleted /memories/a"
    listing = await ask(database, alice, "view", path="/memories")
    assert [line.split("\t")[1] for line in listing.splitlines()[2:]] == ["/memories/a_", "/memories/ab"]
    assert await refused(database, alice, "delete", path="/memories/a") == "Error: The path /memories/a does not exist"
    assert "itself" in await refused(database, alice, "delete", path="/memories")


async def test_a_directory_is_renamed_with_all_below_it(database: Database, alice: int) -> None:
    await create(database, alice, "/memories/a/b/c", "deep")
    await create(database, alice, "/memories/ab", "not below")
    done = await ask(database, alice, "rename", old_path="/memories/a", new_path="/memories/x/y")
    assert done == "Successfully renamed /memories/a to /memories/x/y"
    assert await content(database, alice, "/x/y/b/c") == "deep"
    assert await content(database, alice, "/ab") == "not below"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("gone", "x", "Error: The path /memories/gone does not exist"),
        ("f", "d/e", "Error: The destination /memories/d/e already exists"),
        ("f", "d", "Error: The destination /memories/d already exists"),
        ("f", "f", "Error: The destination /memories/f already exists"),
        ("d", "d/x", "Error: The destination /memories/d/x is inside /memories/d"),
        ("d", "f/x", "Error: /memories/f is a file, so nothing can be below it"),
        ("d", "n" * 254, "Error: A path below /memories/" + "n" * 254 + " would have 257 characters, and 255 fit"),
    ],
)
async def test_renaming_never_overwrites(database: Database, alice: int, old: str, new: str, complaint: str) -> None:
    await create(database, alice, "/memories/f")
    await create(database, alice, "/memories/d/e")
    paths = {"old_path": f"/memories/{old}", "new_path": f"/memories/{new}"}
    assert await refused(database, alice, "rename", **paths) == complaint
    assert await content(database, alice, "/f") == await content(database, alice, "/d/e")


async def test_what_has_expired_is_not_in_the_way(database: Database, alice: int) -> None:
    await create(database, alice, "/memories/old", "new content")
    await performed(database, alice, remember, {"namespace": f"files/{AGENT}", "key": "/gone", "value": "x", "ttl": 60})
    async with database.begin(alice) as db:
        await db.execute(text("UPDATE cf_memory_store SET expires_at = now() - interval '1 s' WHERE ttl IS NOT NULL"))
    await refused(database, alice, "view", path="/memories/gone")
    await ask(database, alice, "rename", old_path="/memories/old", new_path="/memories/gone")
    assert await content(database, alice, "/gone") == "new content"


async def test_what_remember_left_there_is_read_as_json(database: Database, alice: int) -> None:
    namespace = f"files/{AGENT}"
    await performed(database, alice, remember, {"namespace": namespace, "key": "/facts", "value": {"tea": True}})
    await performed(database, alice, remember, {"namespace": namespace, "key": "no path", "value": 1})
    assert '     1\t{"tea": true}' in await ask(database, alice, "view", path="/memories/facts")
    assert "no path" not in await ask(database, alice, "view", path="/memories")


@pytest.mark.parametrize("path", [NOTES, "/memories", "/memories/dir"])
async def test_creating_never_overwrites(database: Database, alice: int, path: str) -> None:
    await create(database, alice)
    await create(database, alice, "/memories/dir/file")
    assert await refused(database, alice, "create", path=path, file_text="x") == f"Error: File {path} already exists"
    assert "is a file" in await refused(database, alice, "create", path=f"{NOTES}/x", file_text="x")


@pytest.mark.parametrize(
    ("command", "arguments", "complaint"),
    [
        ("view", {}, "The path /memories/no does not exist. Please provide a valid path."),
        (
            "str_replace",
            {"old_str": "a", "new_str": "b"},
            "Error: The path /memories/no does not exist. Please provide a valid path.",
        ),
        ("insert", {"insert_line": 0, "insert_text": "x"}, "Error: The path /memories/no does not exist"),
        ("delete", {}, "Error: The path /memories/no does not exist"),
    ],
)
async def test_a_file_that_is_not_there_is_said_not_to_be(
    database: Database, alice: int, command: str, arguments: dict[str, Any], complaint: str
) -> None:
    assert await refused(database, alice, command, path="/memories/no", **arguments) == complaint
    await create(database, alice, "/memories/no/x")
    if command in {"str_replace", "insert"}:
        assert await refused(database, alice, command, path="/memories/no", **arguments) == complaint, "a directory"


@pytest.mark.parametrize(
    ("command", "arguments", "missing"),
    [
        ("view", {}, "path"),
        ("create", {"path": NOTES}, "file_text"),
        ("str_replace", {"path": NOTES, "old_str": "x"}, "new_str"),
        ("insert", {"path": NOTES, "insert_text": "x"}, "insert_line"),
        ("rename", {"old_path": NOTES}, "new_path"),
    ],
)
async def test_a_command_says_what_it_lacks(
    database: Database, alice: int, command: str, arguments: dict[str, Any], missing: str
) -> None:
    assert f"needs `{missing}`" in await refused(database, alice, command, **arguments)


@pytest.mark.parametrize(
    "path",
    [
        "/memories/../etc/passwd",
        "/memories/a/../../b",
        "/memories/..",
        "/memories/.",
        "/memories/a/./b",
        "/memories//etc",
        "/memories/a//",
        "/memories/%2e%2e/b",
        "/memories/a%2Fb",
        "/memories/%252e%252e%252fb",
        "/memories/..\\b",
        "/memories/a\nb",
        "/memories/a\x1b[2J",
        "/memories/\u202etxt.exe",
        "/memoriesx/b",
        "memories/b",
        "/etc/passwd",
        "../memories/b",
        "",
        "/",
        "/MEMORIES/b",
        "/memories/" + "a" * 255,
    ],
)
async def test_no_path_leads_out_of_memories(database: Database, alice: int, path: str) -> None:
    await create(database, alice)
    for command, arguments in (
        ("view", {"path": path}),
        ("create", {"path": path, "file_text": "x"}),
        ("str_replace", {"path": path, "old_str": "x", "new_str": "y"}),
        ("insert", {"path": path, "insert_line": 0, "insert_text": "x"}),
        ("delete", {"path": path}),
        ("rename", {"old_path": path, "new_path": "/memories/x"}),
        ("rename", {"old_path": NOTES, "new_path": path}),
    ):
        complaint = await refused(database, alice, command, **arguments)
        assert any(word in complaint for word in ("is not below", "is no path here", "characters")), complaint
    assert await content(database, alice) == "one\ntwo\nthree\n"


@pytest.mark.parametrize("poison", ["\x00", "\ud800", "/memories/a\x00b"])
async def test_what_cannot_be_stored_is_refused(database: Database, alice: int, poison: str) -> None:
    for arguments in ({"path": NOTES, "file_text": poison}, {"path": f"/memories/{poison}", "file_text": "x"}):
        with pytest.raises(InvalidValueError):
            await ask(database, alice, "create", **arguments)


async def test_a_file_has_a_size_limit(database: Database, alice: int) -> None:
    fits = "x" * (LARGEST_VALUE_BYTES - 2)
    await create(database, alice, "/memories/fits", fits)
    complaint = await refused(database, alice, "insert", path="/memories/fits", insert_line=1, insert_text="x")
    assert "262,144 fit; split it" in complaint
    assert "262,144 fit; split it" in await refused(
        database, alice, "create", path=NOTES, file_text="\n" * (LARGEST_VALUE_BYTES // 2)
    )
    with pytest.raises(ToolArgumentsError):
        await ask(database, alice, "create", path=NOTES, file_text=fits + "xyz")
    assert await content(database, alice, "/fits") == fits


async def test_an_agent_has_a_limit_of_files(database: Database, alice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_FILES", 2)
    await create(database, alice, "/memories/a")
    await create(database, alice, "/memories/b")
    assert "2 files are the most" in await refused(database, alice, "create", path="/memories/c", file_text="x")


async def test_files_are_of_one_agent_one_conversation_and_one_tenant(database: Database, alice: int, bob: int) -> None:
    await create(database, alice)
    view = {"command": "view", "path": NOTES}
    for user_id, context in (
        (alice, {"agent_name": "another"}),
        (alice, {"conversation": chat(7)}),
        (bob, {}),
    ):
        with pytest.raises(ToolError, match="does not exist"):
            await performed(database, user_id, memory, view, **context)
    told = {"command": "create", "path": NOTES, "file_text": "from chat 7"}
    await performed(database, alice, memory, told, conversation=chat(7))
    with pytest.raises(ToolError, match="does not exist"):
        await performed(database, alice, memory, view, conversation=chat(8))
    assert "from chat 7" in (await performed(database, alice, memory, view, conversation=chat(7)))["text"]
    with pytest.raises(ToolError, match="no agent asks"):
        await performed(database, alice, memory, view, agent_name=None)


async def test_edits_at_the_same_time_are_all_kept(database: Database, alice: int) -> None:
    await create(database, alice, content="")

    async def add(name: str) -> None:
        await ask(database, alice, "insert", path=NOTES, insert_line=0, insert_text=name)

    names = [f"writer {number}" for number in range(12)]
    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(add, name)
    assert sorted((await content(database, alice)).splitlines()) == sorted(names)


async def test_an_edit_does_not_overwrite_what_was_written_past_the_tool(database: Database, alice: int) -> None:
    """The lock holds the tool's own writers; the version holds `remember`, which takes no lock."""
    await create(database, alice, content="seen")
    read, written = anyio.Event(), anyio.Event()
    original = files.MemoryStore.get

    async def get_and_dawdle(self: files.MemoryStore, namespace: str, key: str) -> Any:
        found = await original(self, namespace, key)
        if not read.is_set():
            read.set()
            await written.wait()
        return found

    complaints: list[str] = []

    async def edit() -> None:
        complaints.append(await conflict(database, alice))

    with pytest.MonkeyPatch.context() as patch, anyio.fail_after(10):
        patch.setattr(files.MemoryStore, "get", get_and_dawdle)
        async with anyio.create_task_group() as group:
            group.start_soon(edit)
            await read.wait()
            value = {"namespace": f"files/{AGENT}", "key": "/notes.md", "value": "newer"}
            await performed(database, alice, remember, value)
            written.set()
    assert "read it again" in complaints[0]
    assert await content(database, alice) == "newer"


async def conflict(database: Database, user_id: int) -> str:
    with pytest.raises(VersionConflictError) as caught:
        await ask(database, user_id, "str_replace", path=NOTES, old_str="seen", new_str="edited")
    return str(caught.value)


async def test_a_file_and_a_directory_of_one_name_cannot_be_made_at_once(database: Database, alice: int) -> None:
    outcomes: list[str] = []

    async def attempt(path: str) -> None:
        try:
            outcomes.append(await ask(database, alice, "create", path=path, file_text="x"))
        except ToolError as error:
            outcomes.append(str(error))

    for number in range(5):
        outcomes.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(attempt, f"/memories/{number}")
            group.start_soon(attempt, f"/memories/{number}/below")
        assert sum(outcome.startswith("File created") for outcome in outcomes) == 1, outcomes


async def test_a_change_leaves_one_audit_row_that_names_its_file(database: Database, alice: int) -> None:
    await create(database, alice)
    await ask(database, alice, "view", path=NOTES)
    await refused(database, alice, "create", path=NOTES, file_text="x")
    async with database.begin(alice) as db:
        rows = (await db.scalars(select(AuditLog).order_by(AuditLog.id))).all()
    assert [(row.action, row.entity_id) for row in rows] == [("memory", NOTES), ("memory", None)]
    assert "one" not in json.dumps([row.new_values for row in rows]), "no contents"
    await create(database, alice, "/memories/" + "p" * 200)
    assert await audit_rows(database, alice) == 3


def test_the_tool_is_the_providers_own() -> None:
    assert (memory.spec.name, memory.spec.api_type) == ("memory", "memory_20250818")
