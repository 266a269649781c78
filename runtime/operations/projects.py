"""Operations on generated projects: save files of one."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from runtime.errors import ToolError
from runtime.labels import Tier
from runtime.operation import Context, operation
from runtime.operations.files import Verbatim, check_parts
from runtime.ports import Json
from storage.models.agents import AgentExecution
from storage.models.knowledge import GeneratedProject
from storage.queries.knowledge import active_project

LARGEST_PROJECT_BYTES = 4 * 1024 * 1024
"""Of all paths and contents in UTF-8."""
MOST_FILES = 1_000
LONGEST_PATH = 255


@operation(effect="db", tier=Tier.T2)
async def save_project_files(
    ctx: Context,
    name: Annotated[str, Field(min_length=1, max_length=255, description="Name of the project.")],
    files: Annotated[dict[str, Verbatim] | None, Field(description="Path, such as src/app.tsx, to content.")] = None,
    description: Annotated[str | None, Field(max_length=20_000, description="What it is.")] = None,
    tech_stack: Annotated[str | None, Field(max_length=50, description="Such as react, vue, next.")] = None,
    remove: Annotated[list[str] | None, Field(max_length=MOST_FILES, description="Paths to delete.")] = None,
) -> Json:
    """Save files of a web project that you make, under the project's name; the first call makes the project.

    Files are merged into what is there: the same path replaces, others stay, `remove` deletes. Save a few files per
    call. It fails if a path leads out of the project, or if the project grows beyond 1,000 files or 4 MB.
    """
    files, gone = files or {}, remove or []
    for path in (*files, *gone):
        _check_path(path)
    project = await active_project(ctx.db, ctx.user_id, name)
    if project is not None:
        await _check_owner(ctx, project)
    created = project is None
    if project is None:
        if not files:
            raise ToolError(f"there is no project {name!r} yet; give at least one file to make it")
        project = GeneratedProject(user_id=ctx.user_id, name=name, files_snapshot={})
        ctx.db.add(project)
    elif not (files or gone or description or tech_stack):
        raise ToolError("nothing to save: give files, remove, description or tech_stack")
    project.files_snapshot = _merged(project.files_snapshot, files, gone)
    project.description = description or project.description
    project.tech_stack = tech_stack or project.tech_stack
    project.execution_id = ctx.execution_id or project.execution_id
    await ctx.db.flush()
    return {
        "id": project.id,
        "name": name,
        "created": created,
        "saved": sorted(files),
        "removed": sorted(set(gone)),
        "files": len(project.files_snapshot),
        "bytes": _size(project.files_snapshot),
    }


async def _check_owner(ctx: Context, project: GeneratedProject) -> None:
    """Let a conversation change only what was made in it."""
    if ctx.conversation is None:
        return
    made = None if project.execution_id is None else await ctx.db.get(AgentExecution, project.execution_id)
    if made is None or made.session_id != ctx.session_id:
        raise ToolError(f"the name {project.name!r} is taken; choose another one")


def _check_path(path: str) -> None:
    if len(path) > LONGEST_PATH:
        raise ToolError(f"the path {path[:50]!r}… has {len(path)} characters, and {LONGEST_PATH} fit")
    check_parts(path, path)


def _merged(snapshot: Mapping[str, str], files: Mapping[str, str], gone: Sequence[str]) -> dict[str, str]:
    """Return the project's files after the change."""
    both = sorted(set(files) & set(gone))
    if both:
        raise ToolError(f"{both[0]!r} is both saved and removed; decide")
    absent = sorted(set(gone) - set(snapshot))
    if absent:
        raise ToolError(f"the project has no file {absent[0]!r} to remove")
    merged = {path: text for path, text in {**snapshot, **files}.items() if path not in gone}
    _check_tree(merged)
    if len(merged) > MOST_FILES:
        raise ToolError(f"the project would have {len(merged):,} files, and {MOST_FILES:,} fit")
    size = _size(merged)
    if size > LARGEST_PROJECT_BYTES:
        raise ToolError(
            f"the project would take {size:,} bytes, and {LARGEST_PROJECT_BYTES:,} fit; remove what can be generated, "
            "such as bundles and lock files"
        )
    return merged


def _check_tree(files: Mapping[str, str]) -> None:
    """Refuse a name that would be both a file and a directory."""
    for path in files:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent in files:
                raise ToolError(f"{parent!r} is a file, so {path!r} cannot be below it; remove one of them")


def _size(files: Mapping[str, str]) -> int:
    return sum(len(path.encode()) + len(text.encode()) for path, text in files.items())
