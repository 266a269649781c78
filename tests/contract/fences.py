"""The statements of the real journal that compare a lease's epoch: how to find them, and how to break one."""

import copy
import re
from pathlib import Path
from typing import Any

from runtime import journal

_CONDITION = re.compile(r'AND\s+(?:\w+\.)?"leaseEpoch" = (?P<epoch>:epoch|held\.epoch|\$\d+(?:::\w+)?)')
"""A fence, in a statement of SQLAlchemy or in one that is compiled for asyncpg."""

ROOT = Path(__file__).resolve().parents[2]


def sql_of(value: object) -> str:
    """Return the SQL of a statement, the empty string of anything else."""
    sql = getattr(value, "sql", None) or getattr(value, "text", None)
    return sql if isinstance(sql, str) else ""


def statements_with_an_epoch() -> dict[str, Any]:
    """Return every statement of the journal that names the epoch, by its constant."""
    return {name: value for name, value in vars(journal).items() if '"leaseEpoch"' in sql_of(value)}


def fenced_statements() -> dict[str, Any]:
    """Return those that compare it."""
    return {name: value for name, value in statements_with_an_epoch().items() if _CONDITION.search(sql_of(value))}


def without_fence(statement: Any) -> Any:
    """Return the same statement for whoever held the lease once; its parameters stay."""
    broken = copy.copy(statement)
    attribute = "sql" if getattr(statement, "sql", None) else "text"
    sql = _CONDITION.sub(r"AND CAST(\g<epoch> AS bigint) IS NOT NULL", sql_of(statement))
    setattr(broken, attribute, sql)
    return broken


def modules_that_write_leases() -> set[str]:
    """Return the modules of the product whose SQL changes a session's lease."""
    sources = [
        path
        for layer in ("storage", "runtime", "swarm", "mcp_server", "gateway")
        for path in (ROOT / layer).rglob("*.py")
    ]
    writes = re.compile(r'SET[^;]*"lease(Epoch|Until|Owner)" =', re.DOTALL)
    return {path.relative_to(ROOT).as_posix() for path in sources if writes.search(path.read_text(encoding="utf-8"))}
