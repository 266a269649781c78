"""Where a server listens, and the one trustworthy proof that it does: logging in."""

import enum
import os
import socket
import struct
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

ADMIN = "postgres"
"""The superuser, and the database that always exists."""

_TIMEOUT_S = 5.0
_PROTOCOL_3_0 = 3 << 16
_CANNOT_CONNECT_NOW = "57P03"
"""https://www.postgresql.org/docs/current/errcodes-appendix.html: starting up or shutting down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A directory with a socket in it, or on Windows a loopback address with a password."""

    host: str
    port: int
    password: str | None = None

    def dsn(self, user: str, database: str) -> str:
        """A URL that psql and asyncpg accept. It names the port because PGPORT would replace the default."""
        who, what = urllib.parse.quote(user, safe=""), urllib.parse.quote(database, safe="")
        if self.password is None:
            return f"postgresql://{who}@/{what}?host={urllib.parse.quote(os.fsencode(self.host))}&port={self.port}"
        return f"postgresql://{who}:{urllib.parse.quote(self.password, safe='')}@{self.host}:{self.port}/{what}"

    def connect(self) -> socket.socket:
        """A connected stream. Raises OSError."""
        if sys.platform == "win32":
            return socket.create_connection((self.host, self.port), timeout=_TIMEOUT_S)
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.settimeout(_TIMEOUT_S)
            stream.connect(f"{self.host}/.s.PGSQL.{self.port}")
        except BaseException:
            stream.close()
            raise
        return stream


class State(enum.StrEnum):
    """What an attempt to connect has shown."""

    GONE = "gone"
    """Nobody listens."""
    BUSY = "busy"
    """Somebody listens and serves nobody: starting, stopping, or stuck."""
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The server's answer to a startup packet."""

    state: State
    version: str | None = None
    """As in "18.6"; None unless the login was accepted without a password."""
    refusal: str | None = None
    """SQLSTATE when the server serves, but not this user or this database."""


def probe(endpoint: Endpoint | None, *, user: str = ADMIN, database: str = ADMIN) -> Answer:
    """Log in and out again: neither a process id nor an open port proves that somebody serves.

    https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP
    """
    if endpoint is None:
        return Answer(state=State.GONE)
    try:
        with endpoint.connect() as stream:
            parameters = f"user\0{user}\0database\0{database}\0\0".encode()
            stream.sendall(struct.pack("!ii", 8 + len(parameters), _PROTOCOL_3_0) + parameters)
            return _read_answer(stream)
    except (FileNotFoundError, ConnectionRefusedError):
        return Answer(state=State.GONE)
    except OSError:
        return Answer(state=State.BUSY)


def _read_answer(stream: socket.socket) -> Answer:
    version: str | None = None
    for kind, body in _messages(stream):
        match kind:
            case b"E":
                return _refusal(body)
            case b"R" if body != bytes(4):  # anything but AuthenticationOk asks for a password: the driver's business
                return Answer(state=State.READY)
            case b"S" if body.startswith(b"server_version\0"):
                version = body.split(b"\0")[1].decode().split()[0]
            case b"Z":
                stream.sendall(b"X\0\0\0\4")
                return Answer(state=State.READY, version=version)
            case _:
                continue
    return Answer(state=State.BUSY)


def _refusal(body: bytes) -> Answer:
    sqlstate = next((field[1:].decode() for field in body.split(b"\0") if field.startswith(b"C")), "")
    if sqlstate == _CANNOT_CONNECT_NOW:
        return Answer(state=State.BUSY)
    return Answer(state=State.READY, refusal=sqlstate)


def _messages(stream: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each message until the server hangs up."""
    with stream.makefile("rb") as reader:
        while header := reader.read(5):
            yield header[:1], reader.read(int.from_bytes(header[1:]) - 4)
