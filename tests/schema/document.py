"""The source document as plain values: its tables, columns, lists and named indexes."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

_HERE = Path(__file__).parent


class DocumentColumn(BaseModel):
    """A column as the document states it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    pk: bool = False
    unique: bool = False
    nullable: bool = False
    """Stated in relation_tree.yaml only."""
    default: str | None = None
    """Stated in relation_tree.yaml only."""
    fk: str | None = None
    """`table.column`, and in relation_tree.yaml its action."""
    fk_implied: str | None = None
    values: tuple[str, ...] = ()
    values_open: bool = False

    @property
    def target(self) -> str | None:
        """The table that a foreign key points to."""
        link = self.fk or self.fk_implied
        return link.split(".")[0] if link else None

    @property
    def closed(self) -> frozenset[str]:
        """The values of a closed list; empty: the document gives none, or an open one."""
        return frozenset() if self.values_open else frozenset(self.values)


class DocumentIndex(BaseModel):
    """A named index of the document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    columns: tuple[str, ...]


class DocumentTable(BaseModel):
    """A table of the document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    module: str
    note: str = ""
    columns: dict[str, DocumentColumn]
    indexes: tuple[DocumentIndex | tuple[str, ...], ...] = ()
    """Named ones in schema.yaml, columns only in relation_tree.yaml."""
    uniques: tuple[tuple[str, ...], ...] = ()

    @property
    def named_indexes(self) -> list[DocumentIndex]:
        """The indexes that the document names."""
        return [index for index in self.indexes if isinstance(index, DocumentIndex)]

    @property
    def indexed(self) -> list[tuple[str, ...]]:
        """The columns that the reference system has an index for, whatever its name."""
        return [index for index in self.indexes if not isinstance(index, DocumentIndex)]


@dataclass(frozen=True, slots=True)
class Document:
    """Both files together."""

    tabulated: dict[str, DocumentTable]
    relation_tree: dict[str, DocumentTable]

    @property
    def tables(self) -> dict[str, DocumentTable]:
        """Every table of the document."""
        return self.tabulated | self.relation_tree


def load_document() -> Document:
    """Read schema.yaml and relation_tree.yaml."""
    tables = TypeAdapter(dict[str, DocumentTable])
    return Document(
        *(
            tables.validate_python(yaml.safe_load((_HERE / name).read_text("utf-8")))
            for name in ("schema.yaml", "relation_tree.yaml")
        )
    )
