"""Reading any entity: what there is, lists, one row, figures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, cast, get_args

from mcp_types import CallToolResult
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mcp_server.app import CurrentApp
from mcp_server.errors import BadArgumentsError
from mcp_server.parameters import EntityName, Limit, RowId
from mcp_server.results import ROOM, Item, Page, Row, clip_rows, fitting, page_result, row_result
from mcp_server.trust import is_untrusted
from storage.entities import Aggregate, EntityStore, Metric
from storage.entities import Page as StoredPage
from storage.errors import EntityNotFoundError
from storage.filters import Filter, Query
from storage.registry import EntitySpec, Operator, all_specs, spec_named
from storage.registry import Field as Column

INCLUDED = 20
"""Rows of one entity around a row."""

_OPERATORS = list(get_args(Operator))


class Condition(BaseModel):
    """One filter."""

    model_config = ConfigDict(extra="forbid")

    field: str
    op: Annotated[str, Field(json_schema_extra={"enum": _OPERATORS})] = "eq"
    value: Any = None

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: object) -> object:
        if not isinstance(given, dict):
            raise ValueError('expects an object such as {"field": "status", "op": "eq", "value": "todo"}')  # noqa: TRY004 -- pydantic reports ValueError only
        unknown = sorted(str(key) for key in cast("dict[object, object]", given) if key not in cls.model_fields)
        if unknown:
            raise ValueError(f"unknown key {unknown[0][:80]!r}; legal: {', '.join(cls.model_fields)}")
        return cast("object", given)

    @property
    def filter(self) -> Filter:
        """The filter, its operator not yet checked: which ones are legal depends on the field."""
        return Filter(self.field, cast("Operator", self.op), self.value)


Where = Annotated[list[Condition], Field(description="All must hold. in takes a list, is_null a boolean.")]


async def entity_describe(
    app: CurrentApp,
    entity: Annotated[str | None, Field(max_length=100, description="Entity; leave out to list all.")] = None,
) -> Annotated[CallToolResult, Page]:
    """List the entities (tables of this account) and what may be done with each, or the fields of one.

    A field has a type, filters, legal values, and may be writable. Use it before the first filter or write. Fails on an
    unknown name.
    """
    del app  # describing needs no database, but a server for many callers may show them different entities
    return describe(entity)


def describe(entity: str | None) -> CallToolResult:
    """Return the answer of `entity_describe`.

    Raises:
        UnknownEntityError: no entity has this name.
    """
    if entity is None:
        return page_result([_entity_item(spec) for spec in all_specs()], hint="entity_describe(entity=...) for fields.")
    spec = spec_named(entity)
    return page_result(
        [_field_item(spec, spec.fields[name]) for name in spec.readable],
        hint=f"{spec.name}: {_verbs(spec)}. text= {'works' if spec.search is not None else 'does not work'} here. "
        f"include: {', '.join(_links(spec)) or 'nothing'}.",
    )


async def entity_find(
    app: CurrentApp,
    entity: EntityName,
    where: Where = [],  # noqa: B006 -- validated into a fresh list by pydantic; never changed
    text: Annotated[str | None, Field(max_length=1000, description="Full text, like in a search engine.")] = None,
    fields: Annotated[list[str] | None, Field(description="Default: the usual ones.")] = None,
    order_by: Annotated[str | None, Field(description="A field, -field for descending. Default: newest.")] = None,
    limit: Limit = 20,
    cursor: Annotated[str | None, Field(description="nextCursor of the page before.")] = None,
) -> Annotated[CallToolResult, Page]:
    """Find rows of one entity by filters and full text, a page at a time.

    Use it for any list; task_board and memory_search are shorter for cards and memories. Long fields are clipped. Fails
    on a field, operator or value that does not fit, naming those that do.
    """
    spec = spec_named(entity)
    query = Query(
        where=[condition.filter for condition in where],
        text=text,
        fields=fields,
        order_by=order_by,
        limit=limit,
        cursor=cursor,
    )
    async with app.reading() as db:
        store = EntityStore(db, app.user_id)
        page = await store.find(spec, query)
        # Asked again for what fits, because only the store can say where a shorter page ends.
        while (fit := _fitting(page)) < len(page.items):
            page = await store.find(spec, replace(query, limit=fit))
    hint = None if page.items else f"Nothing matches. entity_describe(entity={spec.name!r}) shows fields and values."
    return page_result(page.items, next_cursor=page.next_cursor, hint=hint, untrusted=is_untrusted(spec))


async def entity_get(
    app: CurrentApp,
    entity: EntityName,
    id: RowId,  # noqa: A002 -- the wire's name of the key
    include: Annotated[list[str], Field(description="Entities that it refers to or that refer to it.")] = [],  # noqa: B006 -- as above
    detail: Annotated[Literal["brief", "full"], Field(description="full: long fields are not clipped.")] = "brief",
) -> Annotated[CallToolResult, Row]:
    """Return one row with all its readable fields and its _version, and related rows on request.

    Use it for details, or before entity_update. Fails when there is no such row in this account.
    """
    spec = spec_named(entity)
    links = _links(spec)
    if unknown := [name for name in include if name not in links]:
        legal = ", ".join(links) or "nothing"
        raise BadArgumentsError(
            "entity_get", [f"include: {name[:80]!r} is not linked; legal: {legal}" for name in unknown]
        )
    async with app.reading() as db:
        store = EntityStore(db, app.user_id)
        row = await store.get(spec, id)
        included = {name: await _related(store, row, links[name]) for name in dict.fromkeys(include)}
    untrusted = any(is_untrusted(found) for found in (spec, *(spec_named(name) for name in included)))
    return row_result(row, included, full=detail == "full", hint=None, untrusted=untrusted)


async def entity_aggregate(
    app: CurrentApp,
    entity: EntityName,
    metric: Metric = "count",
    field: Annotated[str | None, Field(description="What to measure; count needs none.")] = None,
    group_by: Annotated[list[str], Field(max_length=3, description="A figure per value of these fields.")] = [],  # noqa: B006 -- as above
    where: Where = [],  # noqa: B006 -- as above
) -> Annotated[CallToolResult, Page]:
    """Count, sum or average the rows of one entity, per group if asked, the largest first, at most 100 groups.

    Use it instead of reading rows to count them. Fails on a field that cannot be measured or grouped by, naming those
    that can.
    """
    spec = spec_named(entity)
    question = Aggregate(metric=metric, field=field, group_by=group_by, where=[condition.filter for condition in where])
    async with app.reading() as db:
        figures = await EntityStore(db, app.user_id).aggregate(spec, question)
    rows = [item["group"] | {metric: item["value"]} for item in figures.items]
    hint = "Only the 100 largest groups are shown." if figures.truncated else None
    return page_result(rows, truncated=figures.truncated, hint=hint, untrusted=is_untrusted(spec) and bool(group_by))


def _fitting(page: StoredPage) -> int:
    """Return how many of its rows fit an answer, beside a cursor of about the same length."""
    return fitting(clip_rows(page.items), ROOM - len(page.next_cursor or ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """How rows of `spec` hang together with a row."""

    spec: EntitySpec[Any]
    own: tuple[str, ...]
    """Fields of the row that hold their ids."""
    theirs: tuple[str, ...]
    """Their fields that hold the row's id."""


def _links(spec: EntitySpec[Any]) -> dict[str, _Link]:
    """Return entity → link, for every entity that the row refers to or that refers to the row."""
    found: dict[str, _Link] = {}
    for other in all_specs():
        own = tuple(_references(spec, other))
        theirs = tuple(_references(other, spec))
        if own or theirs:
            found[other.name] = _Link(spec=other, own=own, theirs=theirs)
    return found


def _references(spec: EntitySpec[Any], target: EntitySpec[Any]) -> Iterator[str]:
    """Yield the fields of `spec` that name rows of `target`; the owner is no link, everything has one."""
    for name in spec.readable:
        field = spec.fields[name]
        if field.references == target.name and field.column is not spec.owner:
            yield name


async def _related(store: EntityStore, row: Item, link: _Link) -> list[Item]:
    rows: list[Item] = []
    for name in link.own:
        if row[name] is not None:
            rows += await _if_there(store, link.spec, row[name])
    for name in link.theirs:
        page = await store.find(link.spec, Query(where=[Filter(name, "eq", row["id"])], limit=INCLUDED))
        rows += page.items
    return rows


async def _if_there(store: EntityStore, spec: EntitySpec[Any], key: int | str) -> list[Item]:
    """Return the row, or nothing when it is hidden (an expired memory) or went in the meantime."""
    try:
        return [await store.get(spec, key, spec.shown)]
    except EntityNotFoundError:
        return []


def _verbs(spec: EntitySpec[Any]) -> str:
    verbs = [("find get aggregate", True), ("create", spec.creates), ("update", spec.changes), ("delete", spec.removes)]
    return " ".join(name for name, may in verbs if may)


def _entity_item(spec: EntitySpec[Any]) -> Item:
    return {"entity": spec.name, "label": spec.label, "may": _verbs(spec), "fields": len(spec.readable)}


def _field_item(spec: EntitySpec[Any], field: Column) -> Item:
    return {
        "field": field.name,
        "type": _type(field),
        "filters": " ".join(field.operators),
        "may": " ".join(_uses(spec, field)),
        "legal": " ".join(field.choices) or (f"id of {field.references}" if field.references else None),
    }


def _type(field: Column) -> str:
    kind = f"json {field.shape}" if field.kind == "json" and field.shape != "any" else field.kind
    length = f"({field.max_length})" if field.max_length is not None else ""
    return f"{kind}{length}{' or null' if field.nullable else ''}"


def _uses(spec: EntitySpec[Any], field: Column) -> Sequence[str]:
    writable = field.name in spec.writable
    uses = (
        ("write", writable),
        ("required", writable and field.required and spec.creates),
        ("sort", field.sortable),
        ("group", field.groupable),
    )
    return [name for name, may in uses if may]
