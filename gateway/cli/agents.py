"""`agency agent ...`: agents that are data, and who else may be given work."""

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread

from gateway.cli.output import print_record, print_rows, progress
from gateway.cli.programs import programs
from gateway.errors import ArgumentError
from runtime import data_agents
from runtime.agents import AGENTS, Agent
from runtime.definitions import wire_limits
from runtime.local import open_local
from runtime.ports import Json
from runtime.settings import RuntimeSettings
from storage.errors import EntityNotFoundError, InvalidValueError
from storage.models.runtime import AgentDefinition
from storage.queries import agent_definitions, workers
from storage.queries.executions import agent_definition
from storage.settings import StorageSettings

COLUMNS = ("name", "kind", "model", "tools")


async def listing(as_json: bool) -> None:
    """Print every agent that may be given work: by name, and whose it is."""
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        async with local.database.begin(local.user_id, read_only=True) as db:
            data = [_view(row) for row in await agent_definitions.definitions(db)]
        async with local.database.begin_dispatch() as db:
            names = {name for process in await workers.living(db) for name in process.agents if ":" in name}
    programs_at_work = [{"name": name, "kind": "program", "model": None, "tools": None} for name in sorted(names)]
    rows = [*(_built_in(agent) for agent in AGENTS.values()), *data, *programs_at_work]
    print_rows(rows if as_json else [_line(row) for row in rows], COLUMNS, as_json=as_json)


async def show(name: str, as_json: bool) -> None:
    """Print one agent with its instructions."""
    if name in AGENTS:
        view = _built_in(AGENTS[name])
    else:
        async with (
            open_local(StorageSettings(), RuntimeSettings()) as local,
            local.database.begin(local.user_id, read_only=True) as db,
        ):
            row = await agent_definition(db, name)
            if row is None:
                raise EntityNotFoundError("agentDefinitions", name)
            view = _view(row)
    print_record(view if as_json else _line(view), as_json=as_json)


async def define(name: str, file: Path | None, options: Mapping[str, Any], apps: Sequence[str], as_json: bool) -> None:
    """Check a definition and keep it; options stand over the file, or over what was defined before."""
    registry = programs(apps)
    from_file = None if file is None else await anyio.to_thread.run_sync(_read, file)
    async with open_local(StorageSettings(), RuntimeSettings(), registry=registry) as local:
        async with local.database.begin(local.user_id, read_only=True) as db:
            before = await agent_definition(db, name)
        base = from_file if from_file is not None else {} if before is None else _definition(before)
        given = base | {key: value for key, value in options.items() if value is not None}
        definition = data_agents.parsed(name, given)
        await data_agents.check_tools(local, definition.tools)
        async with local.database.begin(local.user_id) as db:
            view = _view(await data_agents.save(db, local.user_id, name, definition))
    print_record(view if as_json else _line(view), as_json=as_json)


async def remove(name: str) -> None:
    """Forget an agent; executions of it that are not over fail at their next step."""
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id) as db,
    ):
        await data_agents.remove(db, local.user_id, name)
    progress.print(f"{name} is removed", markup=False)


def _read(file: Path) -> Json:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError("--file", str(file), f"a UTF-8 file that can be read ({error})") from error
    loads = json.loads if file.suffix == ".json" or text.lstrip().startswith("{") else tomllib.loads
    try:
        found: object = loads(text)
    except ValueError as error:
        raise InvalidValueError(f"the file {str(file)!r}", f"is neither TOML nor JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidValueError(f"the file {str(file)!r}", "is no table of instructions, model, tools, limits")
    return cast("Json", found)


def _definition(row: AgentDefinition) -> Json:
    return {
        "instructions": row.instructions,
        "model": row.model,
        "tools": row.tools,
        "limits": row.limits,
        "outputSchema": row.output_schema,
    }


def _view(row: AgentDefinition) -> Json:
    changed = row.updated_at.isoformat(timespec="seconds")
    return {"name": row.name, "kind": "data"} | _definition(row) | {"updatedAt": changed}


def _built_in(agent: Agent) -> Json:
    return {
        "name": agent.name,
        "kind": "built in",
        "instructions": agent.instructions,
        "model": agent.model,
        "tools": list(agent.tools),
        "limits": wire_limits(agent.limits) if agent.limits else {},
        "outputSchema": agent.output_schema,
        "updatedAt": None,
    }


def _line(view: Json) -> Json:
    shown = dict(view)
    if view["tools"] is not None:
        shown["tools"] = ", ".join(view["tools"])
    for name in ("limits", "outputSchema"):
        if view.get(name):
            shown[name] = json.dumps(view[name], ensure_ascii=False)
    return shown
