"""The migrated catalogue against the source document: every table, column, type, list, key and index.

Each comparison returns what differs, one line each, so that the same functions can be shown a broken schema.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

import anyio
import pytest

from storage.engine import connect
from storage.security import ENGINE_TABLES, EXEMPT_TABLES, owner_columns
from storage.testing import fresh_address
from tests.schema import decisions
from tests.schema.document import DocumentColumn, load_document
from tests.schema.physical import PhysicalIndex, PhysicalKey, PhysicalSchema, read_schema

DOCUMENT = load_document()
OWNERS = owner_columns()


async def _read(server_dsn: str, template: str) -> PhysicalSchema:
    async with fresh_address(server_dsn, template) as address:
        connection = await connect(address)
        try:
            return await read_schema(connection)
        finally:
            await connection.close()


@pytest.fixture(scope="module")
def physical(server_dsn: str, template: str) -> PhysicalSchema:
    """The schema of a migrated database."""
    return anyio.run(_read, server_dsn, template)


# What the document makes of a column


def fits(name: str, rules: Iterable[str]) -> str | None:
    """Return the first rule that `table.column` fits."""
    return next((rule for rule in rules if fnmatchcase(name, rule)), None)


def expected_type(column: DocumentColumn) -> str:
    """Return the type as Postgres prints it."""
    if column.type == "serial" or (column.type == "integer" and column.target):
        return "bigint"
    if column.type == "timestamp":
        return "timestamp with time zone"
    return column.type.replace("varchar", "character varying").replace("decimal", "numeric")


def expected_nullable(name: str, column: DocumentColumn) -> bool:
    """Return whether the column may be empty."""
    table, own_name = name.split(".")
    if table in DOCUMENT.relation_tree:
        return column.nullable and name not in decisions.RELATION_TREE_NOT_NULL
    if column.type == "timestamp":
        return own_name not in decisions.NOT_NULL_TIMES and name != "sessions.expiresAt"
    return fits(name, decisions.NULLABLE) is not None


def expected_default(name: str, column: DocumentColumn) -> str | None:
    """Return the default, without the cast that Postgres prints."""
    table, own_name = name.split(".")
    if table in DOCUMENT.relation_tree:
        return None if column.default is None else _literal(column.default)
    if rule := fits(name, decisions.DEFAULTS):
        return decisions.DEFAULTS[rule] or None
    if own_name == "status":
        return f"'{column.values[0]}'"
    if column.type == "jsonb":
        return "'{}'"
    if column.type == "timestamp" and own_name in decisions.NOT_NULL_TIMES:
        return "now()"
    return None


def _literal(default: str) -> str:
    return default if default.isdigit() or default.endswith("()") else f"'{default}'"


# The comparisons


def column_differences(schema: PhysicalSchema) -> list[str]:
    """Every column of the document: there, of its type, NOT NULL and with its default."""
    found: list[str] = []
    for table, described in DOCUMENT.tables.items():
        for own_name, column in described.columns.items():
            name = f"{table}.{own_name}"
            actual = schema.columns.get(table, {}).get(own_name)
            if actual is None:
                found.append(f"{name} is missing")
                continue
            default = actual.default.split("::")[0] if actual.default else None
            for what, is_, should in (
                ("type", actual.type, expected_type(column)),
                ("nullable", actual.nullable, expected_nullable(name, column)),
                ("default", default, expected_default(name, column)),
                ("identity", actual.identity, column.type == "serial"),
                ("generated", actual.generated, False),
            ):
                if is_ != should:
                    found.append(f"{name}: {what} is {is_!r}, not {should!r}")
    return found


def licence_differences(schema: PhysicalSchema) -> list[str]:
    """Every column beyond the document is licensed, and every licence is used."""
    ours = {table: columns for table, columns in schema.columns.items() if table not in EXEMPT_TABLES}
    beyond = {
        f"{table}.{column}"
        for table, columns in ours.items()
        for column in columns
        if table not in DOCUMENT.tables or column not in DOCUMENT.tables[table].columns
    }
    return [f"{name}: no design page licenses it" for name in sorted(beyond - decisions.LICENSED.keys())] + [
        f"{name}: licensed but not there" for name in sorted(decisions.LICENSED.keys() - beyond)
    ]


def list_differences(schema: PhysicalSchema) -> list[str]:
    """Every closed list of the document is a CHECK of exactly its values; nothing else of its columns is checked."""
    expected: dict[str, frozenset[str]] = {}
    for table, described in DOCUMENT.tables.items():
        for own_name, column in described.columns.items():
            values = column.closed | decisions.FURTHER_VALUES.get(f"{table}.{own_name}", frozenset())
            if values:
                expected[f"ck_{table}_{own_name}"] = values
    found: list[str] = []
    for name, values in expected.items():
        actual = listed_values(schema.checks.get(name, ""))
        if actual != values:
            found.append(f"{name}: {sorted(actual)}, not {sorted(values)}")
    for name, (expression, _) in decisions.FURTHER_CHECKS.items():
        if schema.checks.get(name) != f"CHECK ({expression})":
            found.append(f"{name}: {schema.checks.get(name)!r}, not {expression!r}")
    known = expected.keys() | decisions.FURTHER_CHECKS.keys()
    prefixes = tuple(f"ck_{table}_" for table in DOCUMENT.tables)
    columns = {f"ck_{name.replace('.', '_', 1)}" for name in decisions.LICENSED}
    strays = {name for name in schema.checks if name.startswith(prefixes)} - known - columns
    return found + [f"{name}: no page asks for it" for name in sorted(strays)]


def listed_values(check: str) -> frozenset[str]:
    """Return the values of `column = ANY (ARRAY[...])`; empty: it is no such check."""
    if not re.fullmatch(r"CHECK \(\(\(\"?\w+\"?\)::text = ANY \(\(ARRAY\[.*\]\)::text\[\]\)\)\)", check):
        return frozenset()
    return frozenset(re.findall(r"'([^']*)'::character varying", check))


def index_differences(schema: PhysicalSchema) -> list[str]:
    """The 15 named indexes, and every unique key."""
    by_name = {index.name: index for index in schema.indexes}
    found: list[str] = []
    for table, described in DOCUMENT.tables.items():
        for named in described.named_indexes:
            should = (table, named.columns, named.name in decisions.UNIQUE_INDEXES, False)
            index = by_name.get(named.name)
            actual = index and (index.table, index.columns, index.unique, index.partial)
            if actual != should:
                found.append(f"{named.name}: {actual}, not {should}")
    stated = {
        (table, (name,))
        for table, described in DOCUMENT.tables.items()
        for name, column in described.columns.items()
        if column.unique
    }
    whole = {(index.table, index.columns) for index in schema.indexes if index.unique and not index.partial}
    partly = {(index.table, index.columns) for index in schema.indexes if index.unique and index.partial}
    found += [f"{table} {columns}: not unique" for table, columns in sorted((decisions.UNIQUES | stated) - whole)]
    found += [
        f"{table} {columns}: not unique while open" for table, columns in sorted(decisions.UNIQUE_WHILE_OPEN - partly)
    ]
    return found + [
        f"{table}: its primary key is not ('id',)"
        for table in DOCUMENT.tables
        if not any(index.table == table and index.primary and index.columns == ("id",) for index in schema.indexes)
    ]


def owner_differences(schema: PhysicalSchema) -> list[str]:
    """Every table but the exempt has an owner column that is a NOT NULL bigint and goes with its user."""
    found = [f"{table} has no owner" for table in sorted(schema.columns.keys() - OWNERS.keys() - EXEMPT_TABLES)]
    for table, owner in OWNERS.items():
        should = "id" if table == "users" else "user_id" if table.startswith("cf_") else "userId"
        column = schema.columns[table].get(owner)
        if owner != should or column is None or column.type != "bigint":
            found.append(f"{table}: its owner is {owner!r} ({column})")
        elif column.nullable != (table == "auditLogs"):  # NULL there: the system itself
            found.append(f"{table}.{owner}: nullable is {column.nullable}")
        expected = [] if table in {"users", "auditLogs"} else [("users", ("id",), "CASCADE")]
        links = [
            (key.target, key.target_columns, key.on_delete)
            for key in schema.keys
            if key.table == table and key.columns == (owner,)
        ]
        if links != expected:
            found.append(f"{table}.{owner}: references {links}, not {expected}")
    return found


def is_owner_key(key: PhysicalKey) -> bool:
    """Whether the key only says whose row it is."""
    return key.columns == (OWNERS.get(key.table),)


def linked_column(key: PhysicalKey) -> str:
    """Return the column of a link that is not the owner."""
    return next(column for column in key.columns if column != OWNERS[key.table])


def link_differences(schema: PhysicalSchema) -> list[str]:
    """Every link of the document is a foreign key; each carries the owner and has the action it should have."""
    links = {f"{key.table}.{linked_column(key)}": key for key in schema.keys if not is_owner_key(key)}
    found = [f"{key.name}: audit rows have no foreign key" for key in schema.keys if key.table == "auditLogs"]
    for table, described in DOCUMENT.tables.items():
        for own_name, column in described.columns.items():
            name = f"{table}.{own_name}"
            if (
                column.target
                and own_name != OWNERS[table]
                and (name not in links or links[name].target != column.target)
            ):
                found.append(f"{name}: no foreign key to {column.target}")
    for name, key in links.items():
        found += _link_faults(name, key)
    missing = decisions.OPTIONAL_LINKS - links.keys()
    return found + [f"{name}: no foreign key" for name in sorted(missing)]


def _link_faults(name: str, key: PhysicalKey) -> list[str]:
    own_name = linked_column(key)
    optional = name in decisions.OPTIONAL_LINKS
    columns = (OWNERS[key.table], own_name)
    target_columns = (OWNERS[key.target], "id")
    if name == "agencyTasks.assignedTo":  # its CHECK holds it to the owner
        columns, target_columns = (own_name,), ("id",)
    emptied = (own_name,) if optional and len(columns) > 1 else ()
    should = (columns, target_columns, "SET NULL" if optional else "CASCADE", emptied)
    actual = (key.columns, key.target_columns, key.on_delete, key.emptied)
    return [] if actual == should else [f"{key.name}: {actual}, not {should}"]


def support_differences(schema: PhysicalSchema) -> list[str]:
    """Every target of a link is unique with its owner; every foreign key has an index that it can use."""
    unique = {(index.table, index.columns) for index in schema.indexes if index.unique and not index.partial}
    found = [
        f"{key.target}: {key.target_columns} is not unique"
        for key in schema.keys
        if (key.target, key.target_columns) not in unique
    ]
    usable = [index for index in schema.indexes if not index.partial]
    found += [
        f"{table} {columns}: no index"
        for table, described in DOCUMENT.relation_tree.items()
        for columns in described.indexed
        if not any(_leads(index, table, columns) for index in usable)
    ]
    return found + [f"{key.name}: no index" for key in schema.keys if not any(_serves(index, key) for index in usable)]


def _serves(index: PhysicalIndex, key: PhysicalKey) -> bool:
    return _leads(index, key.table, key.columns if is_owner_key(key) else (linked_column(key),))


def _leads(index: PhysicalIndex, table: str, columns: tuple[str, ...]) -> bool:
    """Whether the index leads with the columns, or with the owner and them."""
    return index.table == table and any(
        index.columns[: len(start)] == start for start in (columns, (OWNERS[table], *columns))
    )


COMPARISONS: tuple[Callable[[PhysicalSchema], list[str]], ...] = (
    column_differences,
    licence_differences,
    list_differences,
    index_differences,
    owner_differences,
    link_differences,
    support_differences,
)


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda comparison: comparison.__name__)
def test_the_migrated_schema_is_that_of_the_document(
    physical: PhysicalSchema, comparison: Callable[[PhysicalSchema], list[str]]
) -> None:
    assert comparison(physical) == []


def test_the_document_has_24_tables_15_indexes_and_a_relation_tree_with_three_more() -> None:
    indexes = [index.name for table in DOCUMENT.tabulated.values() for index in table.named_indexes]
    assert (len(DOCUMENT.tabulated), len(indexes), len(DOCUMENT.relation_tree)) == (24, 15, 3)


def test_every_rule_about_the_document_fits_a_column_of_it() -> None:
    names = [f"{table}.{column}" for table, described in DOCUMENT.tables.items() for column in described.columns]
    names += decisions.LICENSED
    rules = [*decisions.NULLABLE, *decisions.DEFAULTS, *decisions.FURTHER_VALUES, *decisions.RELATION_TREE_NOT_NULL]
    assert [rule for rule in rules if not any(fnmatchcase(name, rule) for name in names)] == []


def test_the_engine_brings_no_table_that_is_counted_as_ours(physical: PhysicalSchema) -> None:
    assert {table for table in physical.columns if table.startswith("pgqueuer")} == set(ENGINE_TABLES)


# Each comparison shown a broken schema


def _column(schema: PhysicalSchema, table: str, name: str, **changes: object) -> PhysicalSchema:
    columns = {known: dict(described) for known, described in schema.columns.items()}
    columns[table][name] = replace(columns[table][name], **changes)  # pyright: ignore[reportArgumentType] -- any field
    return replace(schema, columns=columns)


def _key(schema: PhysicalSchema, name: str, **changes: object) -> PhysicalSchema:
    return replace(
        schema,
        keys=[replace(key, **changes) if key.name == name else key for key in schema.keys],  # pyright: ignore[reportArgumentType] -- any field
    )


def _index(schema: PhysicalSchema, name: str, **changes: object) -> PhysicalSchema:
    return replace(
        schema,
        indexes=[replace(index, **changes) if index.name == name else index for index in schema.indexes],  # pyright: ignore[reportArgumentType] -- any field
    )


def _check(schema: PhysicalSchema, name: str, definition: str) -> PhysicalSchema:
    return replace(schema, checks=schema.checks | {name: definition})


BREAKS: dict[str, tuple[Callable[[PhysicalSchema], PhysicalSchema], str]] = {
    "a type": (
        lambda schema: _column(schema, "documents", "size", type="bigint"),
        "documents.size: type is 'bigint', not 'integer'",
    ),
    "a length": (
        lambda schema: _column(schema, "documents", "s3Key", type="text"),
        "documents.s3Key: type is 'text', not 'character varying(500)'",
    ),
    "NOT NULL": (
        lambda schema: _column(schema, "users", "email", nullable=True),
        "users.email: nullable is True, not False",
    ),
    "a default": (
        lambda schema: _column(schema, "agencyTasks", "priority", default="'low'::character varying"),
        "agencyTasks.priority: default is \"'low'\", not \"'medium'\"",
    ),
    "a default where none belongs": (
        lambda schema: _column(schema, "documents", "filename", default="''::character varying"),
        "documents.filename: default is \"''\", not None",
    ),
    "a column": (
        lambda schema: replace(schema, columns=schema.columns | {"sessions": {}}),
        "sessions.expiresAt is missing",
    ),
    "a stray column": (
        lambda schema: replace(
            schema,
            columns=schema.columns | {"sessions": {**schema.columns["sessions"], "ip": schema.columns["users"]["id"]}},
        ),
        "sessions.ip: no design page licenses it",
    ),
    "a licence without its column": (
        lambda schema: replace(
            schema,
            columns=schema.columns
            | {"apiKeys": {name: column for name, column in schema.columns["apiKeys"].items() if name != "revokedAt"}},
        ),
        "apiKeys.revokedAt: licensed but not there",
    ),
    "a stray table": (
        lambda schema: replace(schema, columns=schema.columns | {"notes": schema.columns["users"]}),
        "notes has no owner",
    ),
    "a list with a value too many": (
        lambda schema: _check(
            schema,
            "ck_users_role",
            schema.checks["ck_users_role"].replace("['user'", "['root'::character varying, 'user'"),
        ),
        "ck_users_role: ['admin', 'root', 'superadmin', 'user'], not ['admin', 'superadmin', 'user']",
    ),
    "a list that an alternative undoes": (
        lambda schema: _check(schema, "ck_users_role", schema.checks["ck_users_role"][:-1] + " OR true)"),
        "ck_users_role: [], not ['admin', 'superadmin', 'user']",
    ),
    "a list on an open column": (
        lambda schema: _check(schema, "ck_knowledgeEntries_category", "CHECK (true)"),
        "ck_knowledgeEntries_category: no page asks for it",
    ),
    "a named index on other columns": (
        lambda schema: _index(schema, "idx_sessions_user", columns=("expiresAt",)),
        "idx_sessions_user: ('sessions', ('expiresAt',), False, False), not ('sessions', ('userId',), False, False)",
    ),
    "a unique index that is not": (
        lambda schema: _index(schema, "idx_users_email", unique=False),
        "users ('email',): not unique",
    ),
    "a link without the owner": (
        lambda schema: _key(
            schema, "fk_toolExecutions_userId_executionId", columns=("executionId",), target_columns=("id",)
        ),
        "fk_toolExecutions_userId_executionId: (('executionId',), ('id',), 'CASCADE', ()), "
        "not (('userId', 'executionId'), ('userId', 'id'), 'CASCADE', ())",
    ),
    "SET NULL that empties the owner": (
        lambda schema: _key(schema, "fk_agencyTasks_userId_clientId", emptied=()),
        "fk_agencyTasks_userId_clientId: (('userId', 'clientId'), ('userId', 'id'), 'SET NULL', ()), "
        "not (('userId', 'clientId'), ('userId', 'id'), 'SET NULL', ('clientId',))",
    ),
    "a link that holds its target": (
        lambda schema: _key(schema, "fk_agentExecutions_userId_sessionId", on_delete="RESTRICT"),
        "fk_agentExecutions_userId_sessionId: (('userId', 'sessionId'), ('userId', 'id'), 'RESTRICT', ()), "
        "not (('userId', 'sessionId'), ('userId', 'id'), 'CASCADE', ())",
    ),
    "a user's rows that stay": (
        lambda schema: _key(schema, "fk_documents_userId", on_delete="NO ACTION"),
        "documents.userId: references [('users', ('id',), 'NO ACTION')], not [('users', ('id',), 'CASCADE')]",
    ),
    "a foreign key with a partial index": (
        lambda schema: _index(schema, "ix_agencyTasks_webhookId", partial=True),
        "fk_agencyTasks_userId_webhookId: no index",
    ),
    "a target that is not unique with its owner": (
        lambda schema: _index(schema, "uq_cf_tasks_user_id_id", unique=False),
        "cf_tasks: ('user_id', 'id') is not unique",
    ),
}


@pytest.mark.parametrize(("broken", "told"), BREAKS.values(), ids=BREAKS.keys())
def test_a_schema_that_differs_is_refused(
    physical: PhysicalSchema, broken: Callable[[PhysicalSchema], PhysicalSchema], told: str
) -> None:
    schema = broken(physical)
    assert told in [difference for comparison in COMPARISONS for difference in comparison(schema)]
