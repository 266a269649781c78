"""What commands print: a table for people, JSON for programs. Data goes to stdout, progress to stderr."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from runtime.ports import Json

progress = Console(stderr=True, highlight=False)
"""Where a person watches; never where data goes."""


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_rows(rows: Sequence[Json], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows as a table with these columns, or whole as JSON."""
    if as_json:
        print_json({"items": list(rows), "returned": len(rows)})
        return
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*("" if row.get(column) is None else str(row[column]) for column in columns))
    Console(highlight=False).print(table)


def print_record(record: Json, *, as_json: bool) -> None:
    """Print one record, a field a line, or as JSON."""
    if as_json:
        print_json(record)
        return
    width = max(map(len, record), default=0)
    for name, value in record.items():
        sys.stdout.write(f"{name:<{width}}  {'' if value is None else value}\n")
