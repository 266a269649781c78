"""The table of tools: what there is, in which order a client sees it, in which toolset, and what may be expected of it.

A new tool is a line here. Core comes first: a client that cuts the list off keeps it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from mcp_types import ToolAnnotations

from mcp_server.errors import UnknownToolsetError
from mcp_server.tool import ContractTool, ToolFunction, contract_tool
from mcp_server.tools import activity, board, entities, memory, runs, writing

Toolset = Literal["core", "write", "runtime", "memory", "board"]

TOOLSETS: tuple[str, ...] = get_args(Toolset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One tool."""

    function: ToolFunction
    toolset: Toolset
    title: str
    annotations: ToolAnnotations


def _reads(*, open_world: bool = False) -> ToolAnnotations:
    """Return the hints of a tool that reads; the protocol gives the other two a meaning for writers only."""
    return ToolAnnotations(read_only_hint=True, open_world_hint=open_world)


def _writes(*, destroys: bool, repeatable: bool, open_world: bool = False) -> ToolAnnotations:
    return ToolAnnotations(
        read_only_hint=False, destructive_hint=destroys, idempotent_hint=repeatable, open_world_hint=open_world
    )


_READS = _reads()
_WATCHES = _reads(open_world=True)
_ADDS = _writes(destroys=False, repeatable=False)
_CHANGES = _writes(destroys=True, repeatable=True)
"""Overwrites what was there, which the protocol counts as destructive."""
_WORKS = _writes(destroys=False, repeatable=False, open_world=True)
_STOPS = _writes(destroys=True, repeatable=True, open_world=True)

TABLE: tuple[Line, ...] = (
    Line(function=entities.entity_describe, toolset="core", title="Describe entities", annotations=_READS),
    Line(function=entities.entity_find, toolset="core", title="Find rows", annotations=_READS),
    Line(function=entities.entity_get, toolset="core", title="Get one row", annotations=_READS),
    Line(function=entities.entity_aggregate, toolset="core", title="Count and sum rows", annotations=_READS),
    Line(function=activity.activity_report, toolset="core", title="Report activity", annotations=_READS),
    Line(function=writing.entity_create, toolset="write", title="Create a row", annotations=_ADDS),
    Line(function=writing.entity_update, toolset="write", title="Change a row", annotations=_CHANGES),
    Line(function=writing.entity_delete, toolset="write", title="Delete a row", annotations=_CHANGES),
    Line(function=runs.agent_run, toolset="runtime", title="Run an agent", annotations=_WORKS),
    Line(function=runs.agent_run_status, toolset="runtime", title="Follow an agent", annotations=_WATCHES),
    Line(function=runs.agent_run_cancel, toolset="runtime", title="Stop an agent", annotations=_STOPS),
    Line(function=runs.agent_run_reply, toolset="runtime", title="Answer an agent", annotations=_WORKS),
    Line(function=memory.memory_search, toolset="memory", title="Search memory", annotations=_READS),
    Line(function=memory.memory_write, toolset="memory", title="Remember", annotations=_CHANGES),
    Line(function=board.task_board, toolset="board", title="Show the board", annotations=_READS),
    Line(function=board.task_move, toolset="board", title="Move a card", annotations=_CHANGES),
)


def chosen_tools(toolsets: Collection[str] | None, *, read_only: bool) -> list[ContractTool]:
    """Return the tools of these toolsets (None: all), in the table's order.

    Raises:
        UnknownToolsetError: no toolset has this name.
    """
    if unknown := set(toolsets or ()) - set(TOOLSETS):
        raise UnknownToolsetError(unknown, TOOLSETS)
    return [
        contract_tool(line.function, title=line.title, annotations=line.annotations)
        for line in TABLE
        if (toolsets is None or line.toolset in toolsets) and (line.annotations.read_only_hint or not read_only)
    ]
