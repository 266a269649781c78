"""A program of ours that speaks MCP on its pipes: started, bounded, listened to, and ended with all it started.

The SDK's own transport gathers a line of any length in quadratic time and hands the server our stderr; this one refuses
a message beyond `LARGEST_MESSAGE`, and what the program says on stderr goes to our log with its secrets masked.
"""

import logging
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.os.posix.utilities import terminate_posix_process_tree
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from pydantic import ValidationError

from runtime.services.mcp_definitions import clean

logger = logging.getLogger(__name__)

LARGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes of one message. A row keeps 256 KB of a result, so more is of no use to anybody."""

_LONGEST_LINE = 2000
"""Characters of one line of stderr in our log."""

_LEAVE_S = 2.0
"""How long a program may take to go once its stdin is closed, and again once it was asked to terminate."""

_POLL_S = 0.01
_SHORTEST_SECRET = 4
"""Characters; masking shorter ones would garble the log and hide nothing."""

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to start, and under which name its words are logged."""

    server: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    """Its secrets; beside them it gets PATH, HOME, LOGNAME, SHELL, TERM and USER, and nothing of ours."""


@asynccontextmanager
async def program_streams(program: Program, report: Callable[[str], None]) -> AsyncGenerator[Streams]:
    """Start a program and yield what it says and what it hears; at the end it and its children are gone.

    `report` is told why the connection broke. The program starts in the root directory, because the directory of a
    worker is nobody's choice.

    Raises:
        OSError: it cannot be started.
    """
    process = await anyio.open_process(
        [*program.argv],
        env=get_default_environment() | dict(program.env),
        cwd=Path.cwd().anchor,
        start_new_session=True,  # its own process group, so that its children can be ended with it
    )
    # No await between the start and the task group: a cancellation in the gap would leak the process.
    heard, incoming = anyio.create_memory_object_stream[Incoming](0)
    outgoing, said = anyio.create_memory_object_stream[SessionMessage](0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            _read, cast("ByteReceiveStream", process.stdout), heard, report
        )  # pipes, as nothing else was asked
        tasks.start_soon(_write, cast("ByteSendStream", process.stdin), said, heard)
        tasks.start_soon(_log, cast("ByteReceiveStream", process.stderr), program)
        try:
            yield incoming, outgoing
        finally:
            with anyio.CancelScope(shield=True):
                for stream in (incoming, outgoing, heard, said):
                    stream.close()
                await _end(process)
            tasks.cancel_scope.cancel()


async def _read(
    stdout: ByteReceiveStream, heard: MemoryObjectSendStream[Incoming], report: Callable[[str], None]
) -> None:
    line = bytearray()
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async with heard:
            async for chunk in stdout:
                first, *others = chunk.split(b"\n")
                line += first
                for other in others:
                    await _hear(bytes(line), heard)
                    line = bytearray(other)
                if len(line) > LARGEST_MESSAGE:
                    report(f"it sent more than {LARGEST_MESSAGE:,} bytes at once; ask for less")
                    return
            report("its program ended")


async def _hear(line: bytes, heard: MemoryObjectSendStream[Incoming]) -> None:
    if not line.strip():
        return
    try:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError:
        logger.warning("a tool server wrote something else than a message to its stdout")
        return
    await heard.send(SessionMessage(message))


async def _write(
    stdin: ByteSendStream, said: MemoryObjectReceiveStream[SessionMessage], heard: MemoryObjectSendStream[Incoming]
) -> None:
    try:
        async with said:
            async for message in said:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                await stdin.send(text.encode() + b"\n")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        heard.close()  # whoever waits for an answer learns that none will come


async def _log(stderr: ByteReceiveStream, program: Program) -> None:
    line = b""
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for chunk in stderr:
            *lines, line = (line + chunk).split(b"\n")
            for whole in lines:
                _log_line(whole, program)
            line = line[:_LONGEST_LINE]
    _log_line(line, program)


def _log_line(line: bytes, program: Program) -> None:
    text = line.decode(errors="replace")
    for secret in program.env.values():
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    text = clean(text, _LONGEST_LINE).strip()
    if text:
        logger.info("a tool server said", extra={"server": program.server, "line": text})


async def _end(process: Process) -> None:
    """Close stdin, wait, then end the whole process group; every wait is bounded."""
    with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await cast("ByteSendStream", process.stdin).aclose()
    await _is_gone(process)
    if sys.platform == "win32":
        with suppress(ProcessLookupError):
            process.kill()
    else:
        # Also when it went by itself: what it started may have stayed.
        await terminate_posix_process_tree(process, _LEAVE_S)
    if not await _is_gone(process):
        logger.warning("a tool server could not be ended", extra={"pid": process.pid})
    _close_pipes(process)


async def _is_gone(process: Process) -> bool:
    """Wait for the process alone: `Process.wait` also waits for whoever inherited its pipes."""
    with anyio.move_on_after(_LEAVE_S):
        while process.returncode is None:  # noqa: ASYNC110 -- nothing tells of it but asking
            await anyio.sleep(_POLL_S)
    return process.returncode is not None


def _close_pipes(process: Process) -> None:
    """Close our ends, which a child that left the process group would keep open for ever.

    anyio and asyncio have no public way to that; delete this when https://github.com/agronholm/anyio grows one.
    """
    transport: Any = getattr(getattr(process, "_process", None), "_transport", None)
    if transport is not None:
        transport.close()
