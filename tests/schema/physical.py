"""The physical schema as plain values, read from the catalogue of a migrated database."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.engine import RawConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalColumn:
    """A column as Postgres has it."""

    type: str
    """As `format_type` prints it: `character varying(50)`."""
    nullable: bool
    default: str | None
    """The expression as Postgres prints it; None for generated and identity columns too."""
    identity: bool
    generated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalKey:
    """A foreign key."""

    name: str
    table: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    on_delete: str
    """`CASCADE`, `SET NULL`, `SET DEFAULT`, `RESTRICT` or `NO ACTION`."""
    emptied: tuple[str, ...]
    """The column list of SET NULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalIndex:
    """An index, that of a constraint too."""

    name: str
    table: str
    columns: tuple[str, ...]
    """The key, in order; an expression is an empty string."""
    unique: bool
    primary: bool
    partial: bool
    """It leaves rows out that a search by its columns could be for; those without a link it may leave out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalSchema:
    """Everything that the conformity test compares."""

    columns: dict[str, dict[str, PhysicalColumn]]
    """Table → column."""
    keys: Sequence[PhysicalKey]
    indexes: Sequence[PhysicalIndex]
    checks: dict[str, str]
    """Name of a CHECK → its definition."""


_COLUMNS = """
    SELECT c.relname AS "table", a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
           NOT a.attnotnull AS nullable, a.attidentity <> '' AS identity, a.attgenerated <> '' AS generated,
           CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
    ORDER BY c.relname, a.attnum
"""

_NAMES = """
    ARRAY(SELECT a.attname::text FROM unnest({numbers}) WITH ORDINALITY u(number, place)
          JOIN pg_attribute a ON a.attrelid = {table} AND a.attnum = u.number ORDER BY place)
"""

_KEYS = f"""
    SELECT k.conname AS name, c.relname AS "table", t.relname AS target,
           {_NAMES.format(numbers="k.conkey", table="k.conrelid")} AS columns,
           {_NAMES.format(numbers="k.confkey", table="k.confrelid")} AS target_columns,
           {_NAMES.format(numbers="k.confdelsetcols", table="k.conrelid")} AS emptied,
           CASE k.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT'
                              WHEN 'r' THEN 'RESTRICT' ELSE 'NO ACTION' END AS on_delete
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class t ON t.oid = k.confrelid
    WHERE k.contype = 'f' AND k.connamespace = 'public'::regnamespace
    ORDER BY c.relname, k.conname
"""  # noqa: S608 -- built from the constants of this module

_INDEXES = """
    SELECT i.relname AS name, c.relname AS "table", x.indisunique AS "unique", x.indisprimary AS "primary",
           pg_get_expr(x.indpred, x.indrelid) AS predicate,
           ARRAY(SELECT coalesce(a.attname::text, '') FROM unnest(x.indkey::int2[]) WITH ORDINALITY u(number, place)
                 LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.number
                 WHERE place <= x.indnkeyatts ORDER BY place) AS columns
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
    WHERE c.relnamespace = 'public'::regnamespace AND x.indisvalid
    ORDER BY c.relname, i.relname
"""

_CHECKS = """
    SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint
    WHERE contype = 'c' AND connamespace = 'public'::regnamespace
"""


async def read_schema(connection: RawConnection) -> PhysicalSchema:
    """Read the schema `public`."""
    columns: dict[str, dict[str, PhysicalColumn]] = {}
    for row in await connection.fetch(_COLUMNS):
        columns.setdefault(row["table"], {})[row["name"]] = PhysicalColumn(
            type=row["type"],
            nullable=row["nullable"],
            default=row["default"],
            identity=row["identity"],
            generated=row["generated"],
        )
    keys = [
        PhysicalKey(
            name=row["name"],
            table=row["table"],
            columns=tuple(row["columns"]),
            target=row["target"],
            target_columns=tuple(row["target_columns"]),
            on_delete=row["on_delete"],
            emptied=tuple(row["emptied"]),
        )
        for row in await connection.fetch(_KEYS)
    ]
    indexes = [
        PhysicalIndex(
            name=row["name"],
            table=row["table"],
            columns=tuple(row["columns"]),
            unique=row["unique"],
            primary=row["primary"],
            partial=row["predicate"] not in (None, f'("{row["columns"][-1]}" IS NOT NULL)'),
        )
        for row in await connection.fetch(_INDEXES)
    ]
    checks = {row["name"]: row["definition"] for row in await connection.fetch(_CHECKS)}
    return PhysicalSchema(columns=columns, keys=keys, indexes=indexes, checks=checks)
