"""Write the generated pages of docs/. A test compares them with what this writes."""

from pathlib import Path

from runtime.models.offline_grammar import render_markdown
from storage.documentation import render_schema

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    """Write every generated page."""
    (DOCS / "schema.md").write_text(render_schema(), encoding="utf-8")
    (DOCS / "offline.md").write_text(render_markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
