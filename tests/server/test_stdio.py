"""The server on real pipes: both eras on one connection, a clean stdout, no database needed to say hello."""

import base64
import json
import secrets
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import Client, StdioServerParameters
from mcp_types import METHOD_NOT_FOUND
from sqlalchemy import text

from mcp_server.surface import TABLE
from storage.engine import Address
from storage.tenancy import Database
from tests.server.calls import data, refusal

COMMAND = [sys.executable, "-m", "gateway.cli", "mcp", "--no-worker"]
NOWHERE = "postgresql://agency@127.0.0.1:1/agency"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


def environment(dsn: str) -> dict[str, str]:
    return {
        "DATABASE_URL": dsn,
        "AGENCY_USER": "alice",
        "AGENCY_SECRET_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
        "AGENCY_MODEL": "offline",
        "AGENCY_CONNECT_TIMEOUT_S": "2",
    }


def parameters(dsn: str) -> StdioServerParameters:
    return StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=environment(dsn))


class Pipe:
    """The client's end: whole lines of JSON, nothing else."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self._process = process

    async def send(self, message: dict[str, Any]) -> None:
        """Write one message."""
        await self._stdin.send(json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        """Read one message; a line that is no JSON fails the test."""
        return json.loads(await self._stdout.receive_until(b"\n", 1_000_000))

    async def ask(self, request_id: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer, which must be the next message."""
        await self.send({"id": request_id, "method": method, "params": params})
        answer = await self.receive()
        assert answer["id"] == request_id
        return answer

    async def hang_up(self) -> list[dict[str, Any]]:
        """Close stdin and return what still came, once the process has ended well."""
        await self._stdin.aclose()
        rest: list[dict[str, Any]] = []
        try:
            while True:
                rest.append(await self.receive())
        except anyio.IncompleteRead:
            assert self._stdout.buffer == b""
        assert await self._process.wait() == 0
        return rest


@asynccontextmanager
async def served(dsn: str) -> AsyncGenerator[Pipe]:
    path = {"PATH": "/usr/bin:/bin"}
    with anyio.fail_after(60):
        process = await anyio.open_process(COMMAND, env=environment(dsn) | path, stderr=None)
        async with process:
            try:
                yield Pipe(process)
            finally:
                if process.returncode is None:
                    process.kill()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_works_in_both_eras(
    address: Address, database: Database, alice: int, mode: Literal["auto", "legacy"]
) -> None:
    async with Client(parameters(address.dsn), mode=mode) as client:
        assert len((await client.list_tools()).tools) == len(TABLE)
        made = await data(client, "entity_create", entity="agencyTasks", data={"title": "over the wire"})
    async with database.begin(alice) as db:
        found = (await db.execute(text('SELECT id, title FROM "agencyTasks"'))).all()
    assert [tuple(row) for row in found] == [(made["item"]["id"], "over the wire")]


async def test_hello_and_the_list_need_no_database() -> None:
    async with Client(parameters(NOWHERE)) as client:
        assert len((await client.list_tools()).tools) == len(TABLE)
        assert (await refusal(client, "task_board")).startswith("unavailable: no PostgreSQL answers at 127.0.0.1:1")


async def test_a_probe_may_be_followed_by_a_handshake() -> None:
    async with served(NOWHERE) as pipe:
        found = await pipe.ask(1, "server/discover", {"_meta": ENVELOPE})
        assert "2026-07-28" in found["result"]["supportedVersions"]
        hello = await pipe.ask(2, "initialize", HELLO)
        assert hello["result"]["protocolVersion"] == "2025-11-25"
        assert hello["result"]["serverInfo"]["name"] == "agency"
        await pipe.send({"method": "notifications/initialized"})
        listed = await pipe.ask(3, "tools/list", {})
        assert len(listed["result"]["tools"]) == len(TABLE)
        unknown = await pipe.ask(4, "no/such", {})
        assert unknown["error"]["code"] == METHOD_NOT_FOUND
        assert await pipe.hang_up() == []


async def test_the_modern_era_needs_no_handshake() -> None:
    async with served(NOWHERE) as pipe:
        listed = await pipe.ask(1, "tools/list", {"_meta": ENVELOPE})
        assert listed["result"]["resultType"] == "complete"
        assert len(listed["result"]["tools"]) == len(TABLE)
        assert await pipe.hang_up() == []


async def test_calls_in_flight_are_answered_after_stdin_has_ended(address: Address, alice: int) -> None:
    async with served(address.dsn) as pipe:
        await pipe.ask(1, "initialize", HELLO)
        await pipe.send({"method": "notifications/initialized"})
        run = await pipe.ask(2, "tools/call", {"name": "agent_run", "arguments": {"task": "x"}})
        key = run["result"]["structuredContent"]["item"]["id"]
        waiting = {"name": "agent_run_status", "arguments": {"id": key, "wait": 1}}
        await pipe.send({"id": 3, "method": "tools/call", "params": waiting})
        await pipe.send({"id": 4, "method": "tools/call", "params": {"name": "task_board", "arguments": {}}})
        rest = await pipe.hang_up()
    assert {answer["id"] for answer in rest} == {3, 4}
    assert not any(answer["result"]["isError"] for answer in rest)


async def test_a_new_handshake_does_not_cut_the_calls_of_the_old_era(address: Address, alice: int) -> None:
    async with served(address.dsn) as pipe:
        arguments = {"name": "task_board", "arguments": {}, "_meta": ENVELOPE}
        await pipe.send({"id": 1, "method": "tools/call", "params": arguments})
        await pipe.send({"id": 2, "method": "initialize", "params": HELLO})
        answers = {answer["id"]: answer for answer in [await pipe.receive(), await pipe.receive()]}
        assert answers[2]["result"]["protocolVersion"] == "2025-11-25"
        assert answers[1]["result"]["structuredContent"]["returned"] == 0
        assert await pipe.hang_up() == []


async def test_a_cancelled_call_does_not_hold_up_the_end(address: Address, alice: int) -> None:
    async with served(address.dsn) as pipe:
        await pipe.ask(1, "initialize", HELLO)
        await pipe.send({"method": "notifications/initialized"})
        run = await pipe.ask(2, "tools/call", {"name": "agent_run", "arguments": {"task": "x"}})
        key = run["result"]["structuredContent"]["item"]["id"]
        waiting = {"name": "agent_run_status", "arguments": {"id": key, "wait": 20}}
        await pipe.send({"id": 3, "method": "tools/call", "params": waiting})
        await pipe.send({"method": "notifications/cancelled", "params": {"requestId": 3}})
        with anyio.fail_after(15):
            assert await pipe.hang_up() == []


async def test_lines_that_are_no_protocol_are_survived() -> None:
    async with served(NOWHERE) as pipe:
        await pipe.send({"nonsense": True})
        assert "result" in await pipe.ask(1, "initialize", HELLO)
        assert await pipe.hang_up() == []
