"""The Messages API's own memory tool: files below /memories, kept as rows of cf_memory_store.

Commands, texts and errors are those of https://platform.claude.com/docs/en/agents-and-tools/tool-use/memory-tool, which
the model knows by heart. Files are of one agent (`files/<agent>`, key = path below /memories); in a conversation they
are of that conversation, because what one participant said must not reach another.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

from pydantic import Field, StringConstraints

from runtime.errors import ToolError
from runtime.labels import Tier
from runtime.operation import Context, operation
from runtime.operations.visibility import provenance, saw_memories
from runtime.ports import Json
from storage.memory import LARGEST_VALUE_BYTES, LONGEST_NAME, MemoryItem, MemoryStore
from storage.namespaces import conversation_namespace, files_namespace
from storage.queries import files
from storage.queries.locks import one_at_a_time

ROOT = "/memories"
MOST_FILES = 1_000
"""Of one agent, or of one conversation."""
MOST_LINES = 999_999
LONGEST_VIEW = 15_000
"""Characters of a view; the rest is asked for by its lines."""
LONGEST_AUDIT_ID = 100

_AROUND = 2
"""Lines shown on either side of a change."""

Command = Literal["view", "create", "str_replace", "insert", "delete", "rename"]
Verbatim = Annotated[str, StringConstraints(strip_whitespace=False)]
"""A text whose outer white space counts."""
Path = Annotated[str | None, Field(max_length=1_000, description="Below /memories, such as /memories/notes.md.")]
Text = Annotated[Verbatim | None, Field(max_length=LARGEST_VALUE_BYTES)]


@operation(effect="db", tier=Tier.T2, api_type="memory_20250818")
async def memory(
    ctx: Context,
    command: Command,
    path: Path = None,
    view_range: Annotated[
        list[int] | None,
        Field(min_length=2, max_length=2, description="For view: first and last line; -1 for the last: to the end."),
    ] = None,
    file_text: Text = None,
    old_str: Text = None,
    new_str: Text = None,
    insert_line: Annotated[int | None, Field(description="For insert: after this line; 0: at the top.")] = None,
    insert_text: Text = None,
    old_path: Path = None,
    new_path: Path = None,
) -> Json:
    """Keep notes for later in text files below /memories, which last beyond this task.

    Look there first: `view` with path /memories lists the files. view(path, view_range?) reads a directory or a file;
    create(path, file_text) makes a file and fails if there is one; str_replace(path, old_str, new_str) replaces a text
    that stands there exactly once; insert(path, insert_line, insert_text) adds lines after a line; delete(path) removes
    a file or a directory with all in it; rename(old_path, new_path) moves one and never overwrites.
    """
    tree = _tree(ctx)
    if command != "view":
        # Whether a path is free, a file or a directory is not in any one row that could be locked.
        await one_at_a_time(ctx.db, ctx.user_id, f"memory:{tree.namespace}")
    match command:
        case "view":
            return {"text": await _view(tree, _path(path, "path"), view_range)}
        case "create":
            done = await _create(tree, _path(path, "path"), _given(file_text, "file_text"))
        case "str_replace":
            done = await _replace(tree, _path(path, "path"), _given(old_str, "old_str"), _given(new_str, "new_str"))
        case "insert":
            if insert_line is None:
                raise ToolError("Error: insert needs `insert_line`")
            done = await _insert(tree, _path(path, "path"), insert_line, _given(insert_text, "insert_text"))
        case "delete":
            done = await _delete(tree, _path(path, "path"))
        case "rename":
            done = await _rename(tree, _path(old_path, "old_path"), _path(new_path, "new_path"))
        case _ as unreachable:
            assert_never(unreachable)
    # Names the file in the audit trail; the row of a view names none, which tells the two apart.
    changed = (new_path if command == "rename" else path) or ""
    return {"id": changed[:LONGEST_AUDIT_ID], "text": done}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """The files of one agent or one conversation."""

    ctx: Context
    namespace: str

    @property
    def store(self) -> MemoryStore:
        return MemoryStore(self.ctx.db, self.ctx.user_id)

    async def file(self, path: str) -> MemoryItem | None:
        return await self.store.get(self.namespace, _key(path)) if path != ROOT else None

    async def entries(self, path: str = ROOT) -> Sequence[files.FileEntry]:
        found = await files.entries(self.ctx.db, self.ctx.user_id, self.namespace, _key(path))
        return [entry for entry in found if entry.key.startswith("/")]

    async def write(self, path: str, text: str, *, over: int) -> None:
        """Write a file over a version (0: over nothing); whoever wrote in between is not overwritten."""
        size = len(json.dumps(text, ensure_ascii=False).encode())
        if size > LARGEST_VALUE_BYTES:
            raise ToolError(
                f"Error: The file {path} would take {size:,} bytes as JSON (a line break takes two), and "
                f"{LARGEST_VALUE_BYTES:,} fit; split it into several files"
            )
        if text.count("\n") >= MOST_LINES:
            raise ToolError(f"File {path} exceeds maximum line limit of {MOST_LINES:,} lines.")
        written = provenance(self.ctx)
        await self.store.set(self.namespace, _key(path), text, if_version=over, keep_ttl=over > 0, provenance=written)


def _tree(ctx: Context) -> _Tree:
    if ctx.conversation is not None:
        return _Tree(ctx=ctx, namespace=conversation_namespace(ctx.conversation.id))
    if ctx.agent_name is None:
        raise ToolError("memory holds the files of an agent, and no agent asks; use remember and recall instead")
    return _Tree(ctx=ctx, namespace=files_namespace(ctx.agent_name))


async def _view(tree: _Tree, path: str, view_range: Sequence[int] | None) -> str:
    found = await tree.file(path)
    if found is not None:
        saw_memories(tree.ctx, [found])
        return _shown_file(path, _text_of(found), view_range)
    entries = await tree.entries(path)
    if not entries and path != ROOT:
        raise ToolError(f"The path {path} does not exist. Please provide a valid path.")
    if view_range is not None:
        raise ToolError("Error: The `view_range` parameter is not allowed when `path` points to a directory.")
    return _shown_directory(path, entries)


async def _create(tree: _Tree, path: str, text: str) -> str:
    if path == ROOT or await tree.entries(path):
        raise ToolError(f"Error: File {path} already exists")
    await _check_parents(tree, path)
    if len(await tree.entries()) >= MOST_FILES:
        raise ToolError(f"Error: {MOST_FILES:,} files are the most; delete or merge some first")
    await tree.write(path, text, over=0)
    return f"File created successfully at: {path}"


async def _replace(tree: _Tree, path: str, old: str, new: str) -> str:
    found = await tree.file(path)
    if found is None:
        raise ToolError(f"Error: The path {path} does not exist. Please provide a valid path.")
    if not old:
        raise ToolError("Error: `old_str` is empty; give the text to replace, or use insert")
    text = _text_of(found)
    at = text.find(old)
    if at < 0:
        raise ToolError(f"No replacement was performed, old_str `{old}` did not appear verbatim in {path}.")
    if text.find(old, at + 1) >= 0:
        lines = ", ".join(map(str, _lines_with(text, old)))
        raise ToolError(
            f"No replacement was performed. Multiple occurrences of old_str `{old}` in lines: {lines}. "
            "Please ensure it is unique"
        )
    edited = text[:at] + new + text[at + len(old) :]
    await tree.write(path, edited, over=found.version)
    first = text.count("\n", 0, at) + 1
    snippet = _numbered(_lines(edited), max(1, first - _AROUND), first + new.count("\n") + _AROUND)
    return f"The memory file has been edited. Here is the snippet showing the change (with line numbers):\n{snippet}"


async def _insert(tree: _Tree, path: str, after: int, text: str) -> str:
    found = await tree.file(path)
    if found is None:
        raise ToolError(f"Error: The path {path} does not exist")
    lines = _text_of(found).split("\n")
    count = len(lines) - (not lines[-1])
    if not 0 <= after <= count:
        raise ToolError(
            f"Error: Invalid `insert_line` parameter: {after}. "
            f"It should be within the range of lines of the file: [0, {count}]"
        )
    added = text.removesuffix("\n").split("\n")
    rest = lines[after:] or [""]  # what follows the last line is its line break
    await tree.write(path, "\n".join([*lines[:after], *added, *rest]), over=found.version)
    return f"The file {path} has been edited."


async def _delete(tree: _Tree, path: str) -> str:
    if path == ROOT:
        raise ToolError(f"Error: Cannot delete the {ROOT} directory itself")
    if not await files.remove(tree.ctx.db, tree.ctx.user_id, tree.namespace, _key(path)):
        raise ToolError(f"Error: The path {path} does not exist")
    return f"Successfully deleted {path}"


async def _rename(tree: _Tree, old: str, new: str) -> str:
    if old == ROOT:
        raise ToolError(f"Error: Cannot rename the {ROOT} directory itself")
    moved = await tree.entries(old)
    if not moved:
        raise ToolError(f"Error: The path {old} does not exist")
    if new == ROOT or await tree.entries(new):
        raise ToolError(f"Error: The destination {new} already exists")
    if new.startswith(f"{old}/"):
        raise ToolError(f"Error: The destination {new} is inside {old}")
    await _check_parents(tree, new)
    longest = max(len(entry.key) for entry in moved) - len(old) + len(new)
    if longest > LONGEST_NAME:
        raise ToolError(f"Error: A path below {new} would have {longest} characters, and {LONGEST_NAME} fit")
    await files.move(tree.ctx.db, tree.ctx.user_id, tree.namespace, _key(old), _key(new))
    return f"Successfully renamed {old} to {new}"


async def _check_parents(tree: _Tree, path: str) -> None:
    """Refuse a path that leads through a file."""
    parts = path.split("/")
    for depth in range(3, len(parts)):
        parent = "/".join(parts[:depth])
        if await tree.file(parent) is not None:
            raise ToolError(f"Error: {parent} is a file, so nothing can be below it")


def _given(value: str | None, name: str) -> str:
    if value is None:
        raise ToolError(f"Error: this command needs `{name}`")
    return value


def _path(path: str | None, name: str) -> str:
    """Return a path below /memories in its one form, without a slash at its end."""
    plain = _given(path, name).removesuffix("/")
    if plain == ROOT:
        return plain
    if not plain.startswith(f"{ROOT}/"):
        raise ToolError(f"Error: {plain[:200]!r} is not below {ROOT}; give a path such as {ROOT}/notes.md")
    check_parts(plain.removeprefix(f"{ROOT}/"), plain)
    if len(_key(plain)) > LONGEST_NAME:
        raise ToolError(f"Error: the path has {len(plain)} characters, and {LONGEST_NAME + len(ROOT)} fit")
    return plain


def check_parts(relative: str, shown: str) -> None:
    r"""Refuse a path that could lead anywhere but down: `..`, `.`, empty parts, `\`, percent codes, control characters.

    Raises:
        ToolError: it could.
    """
    for part in relative.split("/"):
        if part in {"", ".", ".."} or "\\" in part or not part.isprintable() or re.search("%[0-9a-fA-F]{2}", part):
            raise ToolError(
                f"Error: {shown[:200]!r} is no path here; it needs plain names between single slashes: no '..', no "
                "backslash, no percent-encoding, no control character"
            )


def _key(path: str) -> str:
    return path.removeprefix(ROOT)


def _text_of(item: MemoryItem) -> str:
    """Return the text of a file; what `remember` left under its key may be any JSON."""
    return item.value if isinstance(item.value, str) else json.dumps(item.value, ensure_ascii=False)


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _lines_with(text: str, wanted: str) -> list[int]:
    return [text.count("\n", 0, found.start()) + 1 for found in re.finditer(f"(?={re.escape(wanted)})", text)]


def _shown_file(path: str, text: str, view_range: Sequence[int] | None) -> str:
    lines = _lines(text)
    first, last = (1, -1) if view_range is None else (max(1, view_range[0]), view_range[1])
    last = len(lines) if last == -1 else last
    if view_range is not None and not (first <= len(lines) and first <= last):
        raise ToolError(
            f"Error: Invalid `view_range` parameter: {list(view_range)}. "
            f"It should be within the range of lines of the file: [1, {len(lines)}]"
        )
    return f"Here's the content of {path} with line numbers:\n{_numbered(lines, first, last)}"


def _numbered(lines: Sequence[str], first: int, last: int) -> str:
    """Return lines with their numbers, as many as may be shown; the first and the last are counted from 1."""
    shown: list[str] = []
    room = LONGEST_VIEW
    last = min(last, len(lines))
    for number in range(first, last + 1):
        line = lines[number - 1]
        if len(line) + 7 > room:
            if not shown:
                shown.append(f"{number:6}\t{line[:room]}…(+{len(line) - room:,} characters)")
                number += 1  # cut, but shown
            if number <= last:
                shown.append(f"(lines {number} to {last} are not shown; use view_range [{number}, {last}])")
            break
        shown.append(f"{number:6}\t{line}")
        room -= len(line) + 8
    return "\n".join(shown)


def _shown_directory(path: str, entries: Sequence[files.FileEntry]) -> str:
    """Return the listing of a directory: two levels, without hidden ones and node_modules, which count all the same."""
    sizes: dict[str, int] = {}
    for entry in entries:
        parts = entry.key.removeprefix(_key(path)).strip("/").split("/")
        if any(part.startswith(".") or part == "node_modules" for part in parts[:2]):
            continue
        for depth in range(1, min(2, len(parts)) + 1):
            name = "/".join(parts[:depth]) + ("/" if depth < len(parts) else "")
            sizes[name] = sizes.get(name, 0) + entry.size_bytes
    in_order = sorted(sizes, key=lambda name: name.split("/"))
    lines = [f"{_size(sizes[name])}\t{path}/{name}" for name in in_order]
    whole = _size(sum(entry.size_bytes for entry in entries))
    header = (
        f"Here're the files and directories up to 2 levels deep in {path}, excluding hidden items and node_modules:"
    )
    return "\n".join([header, f"{whole}\t{path}", *lines])


def _size(size_bytes: int) -> str:
    return f"{size_bytes}B" if size_bytes < 1024 else f"{size_bytes / 1024:.1f}K"
