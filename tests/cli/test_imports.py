"""What `agency --help` imports. A model's client, the MCP library and the database layer cost up to seconds."""

import subprocess
import sys

import pytest

SLOW = {"anthropic", "mcp", "sqlalchemy", "asyncpg", "alembic"}


@pytest.mark.parametrize("arguments", [["--help"], ["task", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_slow(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "gateway.cli", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ran.stderr.splitlines()}
    assert {"typer", "gateway"} <= imported
    assert not SLOW & imported
