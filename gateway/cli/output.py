"""What commands print: a table for people, JSON for programs. Data goes to stdout, progress to stderr."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.ports import Json

progress = Console(stderr=True, highlight=False)
"""Where a person watches; never where data goes."""

_UNBOUNDED = 100_000
"""Columns; rich has no word for "as wide as it takes"."""


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_rows(rows: Sequence[Json], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows as a table with these columns, or whole as JSON."""
    if as_json:
        print_json({"items": list(rows), "returned": len(rows)})
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, because square brackets in a title are no markup.
        table.add_row(*(Text("" if row.get(column) is None else str(row[column])) for column in columns))
    # A program that reads the table gets each row on one line, however long; a terminal folds what does not fit.
    width = None if sys.stdout.isatty() else _UNBOUNDED
    Console(highlight=False, width=width).print(table)


def print_record(record: Json, *, as_json: bool) -> None:
    """Print one record, a field a line, or as JSON."""
    if as_json:
        print_json(record)
        return
    width = max(map(len, record), default=0)
    for name, value in record.items():
        sys.stdout.write(f"{name:<{width}}  {'' if value is None else value}\n")
