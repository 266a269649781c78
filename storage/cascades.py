"""What goes with a row: the rows of other tables that ON DELETE CASCADE would take along.

Above it: `storage.entities`.
"""

from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from typing import Any

from sqlalchemy import CTE, ColumnElement, ForeignKeyConstraint, Select, Table, func, literal, or_, select, tuple_

from storage.base import Base


def cascade_counts(root: Table, chosen: ColumnElement[bool]) -> Select[Any]:
    """Return the query for how many rows of which table go with the `chosen` rows of `root`.

    One row; one column per table under its name, `root` first. A row that is reached twice counts once.
    """
    tables = _reached(root)
    rows: dict[Table, CTE] = {}
    for table in tables:
        condition = chosen if table is root else or_(*(_refers(link, rows) for link in _cascades(table, tables)))
        wanted = sorted({name for link in _links_to(table, tables) for name in _referred(link)})
        columns = [table.columns[name] for name in wanted] or [literal(1).label("one")]
        rows[table] = select(*columns).where(condition).cte(f"gone_{len(rows)}")
    counts: list[ColumnElement[Any]] = [
        select(func.count()).select_from(rows[table]).scalar_subquery().label(table.name) for table in tables
    ]
    return select(*counts)


@cache
def _reached(root: Table) -> tuple[Table, ...]:
    """Return `root` and every table that its removal reaches, parents before children.

    Raises:
        CycleError: a table cascades into itself; counting it would need a recursive query.
    """
    graph: dict[Table, set[Table]] = {root: set()}
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        for child in Base.metadata.tables.values():
            if any(link.referred_table is parent for link in _cascading(child)):
                if child not in graph:
                    waiting.append(child)
                graph.setdefault(child, set()).add(parent)
    return tuple(TopologicalSorter(graph).static_order())


def _cascading(table: Table) -> Iterator[ForeignKeyConstraint]:
    return (link for link in table.foreign_key_constraints if (link.ondelete or "").upper() == "CASCADE")


def _cascades(table: Table, tables: tuple[Table, ...]) -> list[ForeignKeyConstraint]:
    links = [link for link in _cascading(table) if link.referred_table in tables]
    return sorted(links, key=lambda link: str(link.name))


def _links_to(parent: Table, tables: tuple[Table, ...]) -> list[ForeignKeyConstraint]:
    return [link for table in tables for link in _cascades(table, tables) if link.referred_table is parent]


def _referred(link: ForeignKeyConstraint) -> list[str]:
    return [element.column.name for element in link.elements]


def _refers(link: ForeignKeyConstraint, rows: dict[Table, CTE]) -> ColumnElement[bool]:
    """Return the condition that a row hangs on one of the parent's rows."""
    parent = rows[link.referred_table]
    targets = [parent.columns[name] for name in _referred(link)]
    return tuple_(*link.columns).in_(select(*targets))
