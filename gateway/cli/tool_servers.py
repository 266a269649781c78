"""`agency tools ...`: other MCP servers whose tools agents may use, and what a person has accepted of them."""

import difflib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import anyio.to_thread
import typer
from mcp.client.stdio import get_default_environment

from gateway.cli.output import print_json, print_record, print_rows, progress
from gateway.errors import ArgumentError, CheckFailedError
from runtime.local import Local, open_local
from runtime.ports import Json
from runtime.services import mcp_servers
from runtime.services.mcp_connections import Endpoint, endpoint_of, offer_at
from runtime.services.mcp_definitions import Offer, Pin, model_name
from runtime.services.mcp_servers import NewToolServer, pins_of, secrets_of
from runtime.settings import RuntimeSettings
from storage.errors import InvalidValueError
from storage.models.runtime import McpServer
from storage.queries import tool_servers
from storage.settings import StorageSettings

_WIDEST_CELL = 80
"""Characters of a description in the table; JSON has all of them."""


async def add(
    name: str, command: Sequence[str], url: str | None, secrets: tuple[list[str], list[str], bool], as_json: bool
) -> None:
    """Connect to a server and accept the tools it has; `secrets` are --env, --header and --secrets-stdin."""
    new = NewToolServer(name=name, command=_whole(command), url=url, secrets=await _secrets(*secrets))
    mcp_servers.check(new)
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        offer = await offer_at(
            Endpoint(id=0, name=new.name, argv=tuple(new.command), url=new.url or "", secrets=new.secrets)
        )
        async with local.database.begin(local.user_id) as db:
            await mcp_servers.add(db, local.keyring, local.user_id, new, offer.pins)
            row = await tool_servers.tool_server_named(db, name)
    _tell_left_out(offer)
    print_record(_head(row) if as_json else _line(row), as_json=as_json)


async def listing(as_json: bool) -> None:
    """Print the servers of this user."""
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id, read_only=True) as db,
    ):
        rows = await tool_servers.tool_servers(db)
    columns = ("name", "transport", "tools", "isActive", "where")
    print_rows([_head(row) if as_json else _line(row) for row in rows], columns, as_json=as_json)


async def show(name: str, as_json: bool) -> None:
    """Print what was accepted of one server, from the database alone."""
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id, read_only=True) as db,
    ):
        row = await tool_servers.tool_server_named(db, name)
    tools = [_tool(name, tool, pin) for tool, pin in sorted(pins_of(row).items())]
    if as_json:
        print_json(_head(row) | {"tools": tools})
        return
    print_record(_line(row), as_json=False)
    sys.stdout.write("\n")
    shown = [tool | {"description": _short(tool["description"])} for tool in tools]
    print_rows(shown, ("tool", "modelName", "readOnly", "description"), as_json=False)


async def pin(name: str, is_agreed: bool, as_json: bool) -> None:
    """Show how a server's tools differ from what was accepted, and accept them if the person wants to."""
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        row = await _row(local, name)
        offer = await offer_at(endpoint_of(row, secrets_of(local.keyring, row)))
        before = pins_of(row)
        found = _differences(before, offer.pins)
        _tell_left_out(offer)
        if not as_json:
            _print_differences(before, offer.pins, found)
        is_wanted = any(found.values()) and (is_agreed or _asks(found))
        if is_wanted:
            # What was shown is accepted, not what the server says by then.
            async with local.database.begin(local.user_id) as db:
                await mcp_servers.pin(db, row, offer.pins)
    if as_json:
        print_json({"name": name, "pinned": is_wanted} | found | {"leftOut": dict(offer.left_out)})
    if any(found.values()) and not is_wanted:
        message = f"nothing was accepted; to accept what is shown, repeat 'agency tools pin {name}' with --yes"
        raise CheckFailedError(message)
    progress.print(f"{name}: {len(offer.pins)} tools are accepted as they are", markup=False)


async def remove(name: str) -> None:
    """Delete a server; its tools are refused from the next call on."""
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id) as db,
    ):
        await mcp_servers.remove(db, local.user_id, name)
    progress.print(f"{name} is removed", markup=False)


async def _row(local: Local, name: str) -> McpServer:
    async with local.database.begin(local.user_id, read_only=True) as db:
        return await tool_servers.tool_server_named(db, name)


def _whole(command: Sequence[str]) -> list[str]:
    """Return the command as any worker can start it: in no particular directory, with no particular PATH.

    A program is looked for beside our own interpreter first, so that `python` is the one that has our packages.
    """
    if not command:
        return []
    program, *arguments = command
    path = os.pathsep.join([str(Path(sys.executable).parent), get_default_environment().get("PATH", os.defpath)])
    found = shutil.which(program, path=path)
    if found is None:
        raise ArgumentError("the command", program, "a program that is installed, or its path")
    return [str(Path(found).absolute()), *(_absolute(argument) for argument in arguments)]


def _absolute(argument: str) -> str:
    return str(Path(argument).absolute()) if Path(argument).is_file() else argument


async def _secrets(variables: Sequence[str], headers: Sequence[str], from_stdin: bool) -> dict[str, str]:
    """Return secrets by name; never from arguments, which every user of the machine can read."""
    found = {name: _variable(name) for name in variables}
    for header in headers:
        name, is_given, variable = header.partition("=")
        if not is_given:
            raise ArgumentError("--header", name, "NAME=VARIABLE, where the variable of the environment has the value")
        found[name] = _variable(variable)
    if from_stdin:
        found |= _object(await anyio.to_thread.run_sync(sys.stdin.read))
    return found


def _variable(name: str) -> str:
    value = os.environ.get(name)  # noqa: TID251 -- which variable holds a secret is the caller's choice
    if value is None:
        raise ArgumentError("the environment variable", name, "one that is set here")
    return value


def _object(text: str) -> dict[str, str]:
    try:
        given: object = json.loads(text)
    except ValueError:
        given = None
    if isinstance(given, dict):
        secrets = cast("Json", given)
        if all(isinstance(value, str) for value in secrets.values()):
            return secrets
    # Not quoted: it is secret.
    raise InvalidValueError("stdin", 'is no JSON object of texts; send {"NAME": "value"}')


def _differences(before: Mapping[str, Pin], now: Mapping[str, Pin]) -> dict[str, list[str]]:
    return {
        "added": sorted(now.keys() - before.keys()),
        "removed": sorted(before.keys() - now.keys()),
        "changed": sorted(name for name in now.keys() & before.keys() if now[name].hash != before[name].hash),
    }


def _print_differences(before: Mapping[str, Pin], now: Mapping[str, Pin], found: Mapping[str, Sequence[str]]) -> None:
    for kind, names in found.items():
        for name in names:
            sys.stdout.write(f"{kind}: {name}\n")
            lines = difflib.unified_diff(_lines(before.get(name)), _lines(now.get(name)), lineterm="", n=2)
            sys.stdout.writelines(f"  {line}\n" for line in list(lines)[2:])


def _lines(pin: Pin | None) -> list[str]:
    """Return a definition as lines of ASCII: no character of a server reaches the terminal as it is."""
    if pin is None:
        return []
    shown = {"description": pin.description, "inputSchema": pin.input_schema, "annotations": pin.annotations}
    # The hash is shown as well: what was cut from a description changes nothing else.
    return json.dumps(shown | {"hash": pin.hash}, indent=2, ensure_ascii=True, sort_keys=True).splitlines()


def _asks(found: Mapping[str, Sequence[str]]) -> bool:
    if not sys.stdin.isatty():
        return False
    total = sum(map(len, found.values()))
    return typer.confirm(f"Accept {total} differences?", err=True)


def _tell_left_out(offer: Offer) -> None:
    for name, reason in offer.left_out.items():
        progress.print(f"{name!r} is left out: {reason}", markup=False, soft_wrap=True)


def _head(row: McpServer) -> Json:
    return {
        "id": row.id,
        "name": row.name,
        "transport": row.transport,
        "command": row.command,
        "url": row.url,
        "hasSecret": row.secret_sealed is not None,
        "isActive": row.is_active,
        "tools": sorted(row.pins),
        "updatedAt": row.updated_at.isoformat(timespec="seconds"),
    }


def _line(row: McpServer) -> Json:
    where = row.url or " ".join(_quoted(row.command))
    kept = ("id", "name", "transport", "hasSecret", "isActive")
    return {name: value for name, value in _head(row).items() if name in kept} | {
        "tools": len(row.pins),
        "where": where,
    }


def _quoted(command: Sequence[str]) -> Iterator[str]:
    for part in command:
        yield part if part and part.isprintable() and " " not in part else json.dumps(part)


def _tool(server: str, tool: str, pin: Pin) -> Json:
    return {
        "tool": f"{server}/{tool}",
        "modelName": model_name(server, tool),
        "readOnly": pin.read_only,
        "mayRepeat": pin.may_repeat,
        "description": pin.description,
        "inputSchema": pin.input_schema,
        "hash": pin.hash,
    }


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _WIDEST_CELL else words[: _WIDEST_CELL - 1] + "…"
