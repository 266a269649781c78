"""The generated page of docs/ is the one that the tables would write now; tests/evals has the offline model's."""

from pathlib import Path

from storage.documentation import render_schema

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def test_the_schema_page_shows_the_tables_as_they_are() -> None:
    assert (DOCS / "schema.md").read_text(encoding="utf-8") == render_schema(), "run 'make docs'"
