"""Whether a database is at this release's schema, asked without alembic, whose import alone takes most of a second.

Every command asks this at its start; only an upgrade needs `storage.migrate`.
"""

from dataclasses import dataclass
from pathlib import Path

import migrations
from storage.engine import Address, connect
from storage.errors import DatabaseNotReadyError
from storage.security import role_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaState:
    """How a database's schema compares with this release's."""

    current: str | None
    """The revision it is at; None: empty."""
    head: str
    problems: tuple[str, ...]

    @property
    def is_ready(self) -> bool:
        """Whether the product can run on it."""
        return self.current == self.head and not self.problems


def head() -> str:
    """Return the newest revision: migrations are named NNNN_verb_noun.py, and NNNN is the revision."""
    versions = Path(migrations.__file__).parent / "versions"
    return max(path.name[:4] for path in versions.glob("[0-9][0-9][0-9][0-9]_*.py"))


async def state(address: Address) -> SchemaState:
    """Compare the database with this release, without changing it."""
    connection = await connect(address, direct=True)
    try:
        known = await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL")
        current = await connection.fetchval("SELECT version_num FROM alembic_version") if known else None
        problems = await role_problems(connection)
    finally:
        await connection.close()
    return SchemaState(current=current, head=head(), problems=tuple(problems))


async def require_ready(address: Address) -> None:
    """Refuse to start on a database that this release cannot use safely.

    Raises:
        DatabaseNotReadyError: the schema is at another revision, or a role could bypass row-level security.
    """
    found = await state(address)
    if found.problems:
        raise DatabaseNotReadyError("; ".join(found.problems), "run 'agency db upgrade' as the owner of the schema")
    if found.current != found.head:
        raise DatabaseNotReadyError(
            f"its schema is at {found.current or 'nothing'}, this release needs {found.head}", "run 'agency db upgrade'"
        )
