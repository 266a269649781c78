"""How alembic reaches the database: one connection, one advisory lock, time limits, one transaction for everything.

`storage.migrate` hands the connection over in `config.attributes`; `alembic upgrade --sql` needs none.
"""

from alembic import context
from sqlalchemy import Connection, MetaData
from sqlalchemy.sql.schema import SchemaItem

import storage.models
from storage.base import Base
from storage.security import ENGINE_TABLES

ADVISORY_LOCK = 4150718
"""Any constant of ours; two upgrades at the same moment take turns."""

metadata: MetaData = Base.metadata
assert storage.models.__all__, "importing the models fills the metadata"  # noqa: S101 -- keeps the import in use


def include_name(name: str | None, type_: str, parent_names: object) -> bool:
    """Keep autogenerate away from the job engine's tables."""
    del parent_names
    return type_ != "table" or name not in ENGINE_TABLES


def include_object(item: SchemaItem, name: str | None, type_: str, reflected: object, compare_to: object) -> bool:
    """Compare every object that belongs to a table of ours."""
    del item, reflected, compare_to
    return type_ != "table" or name not in ENGINE_TABLES


def configure(connection: Connection | None) -> None:
    """Tell alembic what to compare and how to run."""
    context.configure(
        connection=connection,
        dialect_name="postgresql",
        target_metadata=metadata,
        include_name=include_name,
        include_object=include_object,
        compare_type=True,
        compare_server_default=True,
        literal_binds=connection is None,
        dialect_opts={"paramstyle": "named"},
        transaction_per_migration=False,
    )


OWN_TRANSACTION = "-- squawk-disable-assume-in-transaction"
"""Heads the script that `--sql` writes, which has its own BEGIN and COMMIT."""

PREPARATIONS = (
    "SET LOCAL statement_timeout = '5min'",
    # Before the limit on waiting for locks, which counts for this one too: a second upgrade waits for the whole first.
    f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})",
    "SET LOCAL lock_timeout = '5s'",
)
"""A migration that cannot get its lock gives way instead of stopping the application behind it."""


def run() -> None:
    """Run the migrations that alembic has chosen."""
    configure(context.config.attributes.get("connection"))
    if context.is_offline_mode():
        context.get_context().impl.static_output(OWN_TRANSACTION)
    with context.begin_transaction():
        for statement in PREPARATIONS:
            context.execute(statement)
        context.run_migrations()


run()
