"""What every table shares: the declarative base, names of constraints, and the columns that repeat.

The names of tables and columns are those of the source document (docs/schema.md); Python attributes are snake_case.
Above it: `storage.models`. Nothing of ours below.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, get_args

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    MetaData,
    String,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, declared_attr, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""One convention names every constraint that has no name of its own."""

Timestamp = DateTime(timezone=True)
"""timestamptz; values are UTC and set by the database."""

JsonObject = dict[str, Any]
JsonList = list[Any]


class Base(DeclarativeBase):
    """Base of every table. A table that belongs to a tenant says which column is its owner."""

    metadata = MetaData(naming_convention=NAMING)

    owner_column: ClassVar[str | None] = None
    """The tenant column as Postgres names it (`userId`, `user_id`, `id` of users); None: not a tenant table."""


class Identified:
    """A bigint identity key. The document's `serial` ends at 2^31."""

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True, sort_order=-20)


class CfIdentified:
    """A key of the cf_ tables: a short prefix and a time-ordered UUIDv7, made by us (`storage.ids`)."""

    id: Mapped[str] = mapped_column(String(255), primary_key=True, sort_order=-20)


class Owned:
    """A row of one user, gone with the user."""

    owner_column: ClassVar[str | None] = "userId"

    @declared_attr
    @classmethod
    def user_id(cls) -> Mapped[int]:
        """The owner: the tenant."""
        return mapped_column("userId", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), sort_order=-10)


class CfOwned:
    """A row of one user in the cf_ tables, which the document leaves without an owner."""

    owner_column: ClassVar[str | None] = "user_id"

    @declared_attr
    @classmethod
    def user_id(cls) -> Mapped[int]:
        """The owner: the tenant."""
        return mapped_column("user_id", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), sort_order=-10)


class Created:
    """When the row was made, by the database's clock."""

    created_at: Mapped[datetime] = mapped_column("createdAt", Timestamp, server_default=func.now(), sort_order=90)


class Updated(Created):
    """When the row was made and last changed, by the database's clock."""

    updated_at: Mapped[datetime] = mapped_column(
        "updatedAt", Timestamp, server_default=func.now(), onupdate=func.now(), sort_order=91
    )


class CfCreated:
    """When the row was made, under the name that the cf_ tables use."""

    created_at: Mapped[datetime] = mapped_column("created_at", Timestamp, server_default=func.now(), sort_order=90)


def closed_list(column: str, values: object, *, also: Iterable[str] = ()) -> CheckConstraint:
    """Return the named CHECK that holds `column` to a Literal's values.

    `also` are values that the reference system's SQL accepts and we never write.
    """
    legal = ", ".join(f"'{value}'" for value in (*get_args(values), *also))
    return CheckConstraint(f'"{column}" IN ({legal})', name=column)


def json_list(name: str, **kwargs: Any) -> MappedColumn[JsonList]:
    """Return a jsonb column whose default is the empty array."""
    return mapped_column(name, JSONB, server_default=text("'[]'::jsonb"), **kwargs)


def json_object(name: str, **kwargs: Any) -> MappedColumn[JsonObject]:
    """Return a jsonb column whose default is the empty object."""
    return mapped_column(name, JSONB, server_default=text("'{}'::jsonb"), **kwargs)


def search_vector(name: str, *columns: str, json_columns: Iterable[str] = ()) -> MappedColumn[Any]:
    """Return the generated, stored full-text column over `columns` and the text of `json_columns`.

    The `simple` configuration: messages come in any language, and one stemmer is wrong for the others. The text is
    cut at 100,000 characters, because a tsvector over 1 MB refuses the row. There is no GIN index on purpose: under
    row-level security Postgres cannot use it (`@@` is not leakproof), so it would only slow down writing.
    """
    texts = [f'"{column}"' for column in columns] + [f'"{column}"::text' for column in json_columns]
    words = " || ' ' || ".join(f"coalesce({expression}, '')" for expression in texts)
    return mapped_column(
        name,
        TSVECTOR,
        Computed(f"to_tsvector('simple'::regconfig, left({words}, 100000))", persisted=True),
        sort_order=99,
        deferred=True,
    )


def owner_link(
    column: str, target: str, *, owner: str = "userId", optional: bool, use_alter: bool = False
) -> ForeignKeyConstraint:
    """Return the foreign key (`owner`, `column`) → `target` (owner, id).

    It carries the owner because foreign-key checks ignore row-level security: a bare key would let one tenant attach
    rows to another tenant's parent. An optional link is emptied when its target goes; the column list keeps the owner
    (PostgreSQL 15+), and SQLAlchemy wants its name quoted by hand, just where Postgres quotes it. Others go with the
    target.
    """
    emptied = column if column.islower() else f'"{column}"'
    target_owner = "user_id" if target.startswith("cf_") else "userId"
    return ForeignKeyConstraint(
        [owner, column],
        [f"{target}.{target_owner}", f"{target}.id"],
        ondelete=f"SET NULL ({emptied})" if optional else "CASCADE",
        use_alter=use_alter,
    )
