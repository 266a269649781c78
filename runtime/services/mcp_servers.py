"""MCP servers as rows: what may be added, how their secrets are sealed, what was accepted of their tools.

Only somebody with access to the database may add one: a stdio server is a command that every worker runs. There is no
operation for it, so that no agent and no MCP client can.
"""

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from sqlalchemy.ext.asyncio import AsyncSession

from runtime.ports import Json
from runtime.services.mcp_definitions import Pin
from storage.crypto import Keyring
from storage.errors import InvalidValueError
from storage.models.audit import AuditLog
from storage.models.runtime import McpServer
from storage.queries import tool_servers
from storage.values import check_text

LONGEST_NAME = 32
"""Characters of a server's name, which begins the name of each of its tools; the Messages API allows 64 for both."""

_NAME = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
"""No `__`: that separates the server from the tool."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""RFC 9110, section 5.6.2."""
_OURS = {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"}
"""Headers that the connection itself needs."""
_TABLE, _COLUMN = "mcpServers", "secretSealed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToolServer:
    """A server to be added: a command or an address, and its secrets by name."""

    name: str
    command: Sequence[str] = ()
    url: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Environment variables of the command, or headers for the address."""

    @property
    def transport(self) -> Literal["stdio", "http"]:
        """How to talk to it."""
        return "stdio" if self.url is None else "http"


def check(new: NewToolServer) -> None:
    """Raise InvalidValueError, quoting no secret, unless the server may be added."""
    if not _NAME.fullmatch(new.name) or len(new.name) > LONGEST_NAME:
        reason = f"is no name for a server; use up to {LONGEST_NAME} lower-case letters and digits, with single - or _"
        raise InvalidValueError(f"name {new.name!r}", reason)
    if (new.url is None) == (not new.command):
        raise InvalidValueError("the server", "needs either a command or an address, not both")
    if new.url is not None:
        _check_url(new.url)
    for part in new.command:
        check_text(part, "the command")
    for name, value in new.secrets.items():
        _check_secret(new.transport, name, value)


def _check_url(url: str) -> None:
    expected = "is not understood; give an address such as https://mcp.example.com/mcp"
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise InvalidValueError("the address", expected) from None
    if not is_whole or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidValueError("the address", expected)
    if parts.username is not None or parts.password is not None:
        raise InvalidValueError("the address", "holds a password; put it into a header, which is sealed")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts)):
        raise InvalidValueError("the address", "must begin with https://, unless it is on this machine (127.0.0.1)")


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_secret(transport: str, name: str, value: str) -> None:
    if transport == "stdio":
        is_legal = bool(_VARIABLE.fullmatch(name)) and "\0" not in value
        kind = "environment variable"
    else:
        is_legal = bool(_HEADER.fullmatch(name)) and name.lower() not in _OURS and value.isascii()
        is_legal = is_legal and value.isprintable() and value == value.strip()
        kind = "header"
    if not is_legal or not value:
        raise InvalidValueError(f"the secret {name!r}", f"cannot be the name or the value of an {kind}")


async def add(db: AsyncSession, keyring: Keyring, user_id: int, new: NewToolServer, pins: Mapping[str, Pin]) -> int:
    """Insert a server with what was accepted of it, and return its id; `check` comes first.

    The row goes in without its secret, because the associated data of an envelope contains the row's id.

    Raises:
        EntityConflictError: the tenant has one of this name.
    """
    server_id = await tool_servers.add_tool_server(
        db, user_id=user_id, name=new.name, transport=new.transport, command=new.command, url=new.url
    )
    if new.secrets:
        kind = "env" if new.transport == "stdio" else "headers"
        text = json.dumps({kind: dict(new.secrets)})
        sealed = keyring.seal(text, table=_TABLE, column=_COLUMN, row=server_id, owner=user_id)
        await tool_servers.set_secret(db, server_id, sealed)
    await tool_servers.set_pins(db, server_id, stored(pins))
    _audit(db, user_id, "tools.add", server_id, {"name": new.name, "tools": sorted(pins)})
    return server_id


async def pin(db: AsyncSession, row: McpServer, pins: Mapping[str, Pin]) -> None:
    """Accept these definitions in place of the former ones."""
    await tool_servers.set_pins(db, row.id, stored(pins))
    _audit(db, row.user_id, "tools.pin", row.id, {"name": row.name, "tools": sorted(pins)})


async def remove(db: AsyncSession, user_id: int, name: str) -> None:
    """Delete a server with its secret and its pins.

    Raises:
        EntityNotFoundError: the tenant has none of this name.
    """
    server_id = await tool_servers.remove_tool_server(db, name)
    _audit(db, user_id, "tools.remove", server_id, {"name": name})


def secrets_of(keyring: Keyring, row: McpServer) -> Mapping[str, str]:
    """Open what a server needs beside its command or address.

    Raises:
        CryptoError: it was sealed for another row or with a key that we do not have.
    """
    if row.secret_sealed is None:
        return {}
    text = keyring.open_text(row.secret_sealed, table=_TABLE, column=_COLUMN, row=row.id, owner=row.user_id)
    secrets: dict[str, dict[str, str]] = json.loads(text)
    return secrets["env" if row.transport == "stdio" else "headers"]


def pins_of(row: McpServer) -> dict[str, Pin]:
    """Return what was accepted, by the tools' names on the server."""
    return {name: Pin.model_validate(pinned) for name, pinned in row.pins.items()}


def stored(pins: Mapping[str, Pin]) -> Json:
    """Return pins as the column keeps them."""
    return {name: pinned.model_dump(mode="json", by_alias=True) for name, pinned in pins.items()}


def _audit(db: AsyncSession, user_id: int, action: str, server_id: int, what: Json) -> None:
    db.add(AuditLog(user_id=user_id, action=action, entity_type="cli", entity_id=str(server_id), new_values=what))
