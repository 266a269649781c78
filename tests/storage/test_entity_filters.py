"""Filters, full text, order and pages: what is found, what is refused, and that no input reaches SQL as text."""

import base64
import contextlib
import itertools
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert
from sqlalchemy.dialects import postgresql

from storage.entities import Aggregate, EntityStore, Metric
from storage.errors import FieldNotAllowedError, InvalidFilterError, StorageError
from storage.filters import Filter, Query, matches, parse_where
from storage.models.agents import AgentSession
from storage.models.crm import AgencyTask, ClientProfile
from storage.models.swarm import NeuralPattern
from storage.registry import EntitySpec, Operator, all_specs, spec_named, spec_of
from storage.tenancy import Database

CARD = spec_of(AgencyTask)
CLIENT = spec_of(ClientProfile)

# The database is the same in all examples; each begins its own transaction, so nothing leaks between them.
against_postgres = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

INJECTIONS = [
    "title; DROP TABLE users; --",
    "title' OR '1'='1",
    'title" OR 1=1 --',
    '"agencyTasks"."title"',
    "agencyTasks.title",
    "title::text",
    'title COLLATE "C"',
    "(SELECT password FROM users)",
    "pg_sleep(10)",
    "1=1",
    "$1",
    ":title",
    "%(title)s",
    "title\0",
    "title--",
    "title/**/",
    "\\'; SELECT 1 --",
    "id DESC, (SELECT 1)",
    "ctid",
    "xmin",
    "tableoid",
    "__class__",
    "metadata.tables",
    "client_id",
    "TITLE",
    "tıtle",
    "%",
    "_",
    "",
]


async def find_titles(store: EntityStore, *where: Filter, text: str | None = None) -> set[str]:
    page = await store.find(CARD, Query(where=where, text=text, fields=["title"]))
    return {row["title"] for row in page.items}


async def test_every_operator_finds_what_it_says(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        store = EntityStore(db, alice)
        client = (await store.add(CLIENT, {"name": "Acme"}))["id"]
        await store.add(CARD, {"title": "Alpha 100%", "clientId": client, "priority": "low", "tags": ["web", "seo"]})
        await store.add(CARD, {"title": "beta_x", "priority": "high", "dueDate": "2026-11-20T09:00:00Z"})
        await store.add(CARD, {"title": "betaXx", "priority": "urgent", "dueDate": "2026-11-21T09:00:00Z"})
        a, b, c = "Alpha 100%", "beta_x", "betaXx"
        noon = "2026-11-20T12:00:00+00:00"
        expectations: list[tuple[Filter, set[str]]] = [
            (Filter("title", "eq", a), {a}),
            (Filter("title", "ne", a), {b, c}),
            (Filter("title", "in", [a, b, "none"]), {a, b}),
            (Filter("title", "contains", "BETA"), {b, c}),
            (Filter("title", "contains", "0%"), {a}),
            (Filter("title", "contains", "a_x"), {b}),
            (Filter("title", "contains", "a%x"), set()),
            (Filter("title", "contains", "/"), set()),
            (Filter("title", "starts_with", "beta"), {b, c}),
            (Filter("title", "starts_with", "Beta"), set()),
            (Filter("title", "starts_with", "beta_"), {b}),
            (Filter("priority", "in", ["low", "high"]), {a, b}),
            (Filter("clientId", "eq", client), {a}),
            (Filter("clientId", "ne", client), {b, c}),
            (Filter("clientId", "is_null", value=True), {b, c}),
            (Filter("clientId", "is_null", value=False), {a}),
            (Filter("clientId", "in", [client, 5]), {a}),
            (Filter("dueDate", "lt", noon), {b}),
            (Filter("dueDate", "gte", noon), {c}),
            (Filter("dueDate", "gt", "2026-11-20T10:00:00+01:00"), {c}),
            (Filter("dueDate", "lte", "2026-11-20T10:00:00+01:00"), {b}),
            (Filter("dueDate", "in", ["2026-11-20T10:00:00+01:00"]), {b}),
            (Filter("tags", "contains", ["seo"]), {a}),
            (Filter("tags", "contains", ["seo", "none"]), set()),
            (Filter("tags", "is_null", value=False), {a, b, c}),
            (Filter("userId", "eq", alice), {a, b, c}),
        ]
        for condition, expected in expectations:
            assert await find_titles(store, condition) == expected, condition
        assert await find_titles(store, Filter("priority", "eq", "high"), Filter("title", "contains", "beta")) == {b}


async def test_uuids_booleans_and_decimals_are_compared_by_their_type(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        session = AgentSession(user_id=alice)
        pattern = NeuralPattern(id="pat_1", user_id=alice, pattern_type="coordination", confidence=0.25)
        db.add_all([session, pattern])
        store = EntityStore(db, alice)
        spec, patterns = spec_of(AgentSession), spec_of(NeuralPattern)
        await db.flush()
        await db.refresh(session)
        for value in (session.session_uuid, str(session.session_uuid)):
            page = await store.find(spec, Query(where=[Filter("sessionUuid", "eq", value)]))
            assert [row["sessionUuid"] for row in page.items] == [str(session.session_uuid)]
        for value in (0.25, "0.250"):
            page = await store.find(patterns, Query(where=[Filter("confidence", "eq", value)]))
            assert [row["confidence"] for row in page.items] == ["0.25"]
        onboarded = Query(where=[Filter("isOnboarded", "eq", value=False)])
        assert len((await store.find(spec_named("users"), onboarded)).items) == 1


async def test_full_text_finds_words_newest_first(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        store = EntityStore(db, alice)
        for title in ("landing page", "landing gear", "page of LANDING things"):
            await store.add(CARD, {"title": title})
        page = await store.find(CARD, Query(text="landing page"))
        assert [row["title"] for row in page.items] == ["page of LANDING things", "landing page"]
        assert await find_titles(store, text='"landing page"') == {"landing page"}
        assert await find_titles(store, text="landing -page") == {"landing gear"}
        for odd in ("", "   ", "!!!", '"', "& | !", "a" * 1000, "<->", "'; DROP TABLE users; --"):
            assert await find_titles(store, text=odd) == set()


UNFIT: list[tuple[EntitySpec[Any], Query]] = [
    (CARD, Query(text="a\0")),
    (CARD, Query(text="\ud800")),
    (CARD, Query(text="a" * 1001)),
    (CARD, Query(limit=0)),
    (CARD, Query(limit=101)),
    (CARD, Query(limit=True)),
    (CARD, Query(where=[Filter("title", "eq", "a")] * 21)),
    (CARD, Query(where=[Filter("title", "lt", "a")])),
    (CARD, Query(where=[Filter("title", "eq", None)])),
    (CARD, Query(where=[Filter("title", "eq", 5)])),
    (CARD, Query(where=[Filter("title", "contains", "")])),
    (CARD, Query(where=[Filter("title", "contains", ["a"])])),
    (CARD, Query(where=[Filter("title", "contains", "\ud800")])),
    (CARD, Query(where=[Filter("title", "in", "abc")])),
    (CARD, Query(where=[Filter("title", "in", [])])),
    (CARD, Query(where=[Filter("title", "in", [None])])),
    (CARD, Query(where=[Filter("title", "in", ["a"] * 101)])),
    (CARD, Query(where=[Filter("title", "is_null", "yes")])),
    (CARD, Query(where=[Filter("id", "eq", "abc")])),
    (CARD, Query(where=[Filter("id", "lt", 2**63)])),
    (CARD, Query(where=[Filter("id", "eq", value=True)])),
    (CARD, Query(where=[Filter("id", "contains", 1)])),
    (CARD, Query(where=[Filter("dueDate", "lt", "2026-11-20")])),
    (CARD, Query(where=[Filter("tags", "eq", [])])),
    (CARD, Query(where=[Filter("tags", "contains", None)])),
    (spec_named("agentSteps"), Query(where=[Filter("body", "contains", {})])),
    (spec_named("cf_neural_patterns"), Query(where=[Filter("confidence", "lt", "Infinity")])),
    (spec_named("cf_neural_patterns"), Query(where=[Filter("confidence", "lt", "1e999999999")])),
]


async def test_a_question_that_does_not_fit_is_refused(database: Database, alice: int) -> None:
    async with database.begin(alice, read_only=True) as db:
        for spec, query in UNFIT:
            with pytest.raises(InvalidFilterError):
                await EntityStore(db, alice).find(spec, query)


def test_a_value_outside_a_closed_list_is_answered_with_the_list() -> None:
    with pytest.raises(InvalidFilterError, match="backlog, todo, in_progress, review, done"):
        parse_where(CARD, [Filter("status", "eq", "finished")])


def test_an_unknown_operator_is_answered_with_the_fields_own() -> None:
    unknown: Any = "like"
    with pytest.raises(InvalidFilterError) as caught:
        parse_where(CARD, [Filter("title", unknown, "a")])
    assert caught.value.legal == CARD.fields["title"].operators


async def test_text_is_searched_only_where_it_is_declared(database: Database, alice: int) -> None:
    async with database.begin(alice, read_only=True) as db:
        with pytest.raises(FieldNotAllowedError):
            await EntityStore(db, alice).find(spec_named("users"), Query(text="alice"))


@pytest.mark.parametrize("spec", all_specs(), ids=lambda spec: spec.name)
def test_no_filter_casts_its_column(spec: EntitySpec[Any]) -> None:
    samples: dict[str, Any] = {
        "integer": 1,
        "decimal": "1",
        "text": "a",
        "boolean": True,
        "json": {},
        "timestamp": "2026-01-01T00:00:00Z",
        "uuid": str(uuid.UUID(int=0)),
    }
    for name in spec.readable:
        field = spec.fields[name]
        value = field.choices[0] if field.choices else samples[field.kind]
        for op in field.operators:
            sent = {"in": [value], "is_null": True}.get(op, value)
            [condition] = parse_where(spec, [Filter(name, op, sent)])
            sql = str(matches(condition).compile(dialect=postgresql.asyncpg.dialect()))
            quoted = postgresql.asyncpg.dialect().identifier_preparer.quote(name)
            assert f"{quoted}::" not in sql
            assert "CAST(" not in sql
            assert "lower(" not in sql


async def test_a_name_that_is_no_column_is_refused_wherever_it_stands(database: Database, alice: int) -> None:
    async with database.begin(alice, read_only=True) as db:
        store = EntityStore(db, alice)
        for name in INJECTIONS:
            for answer in (
                store.find(CARD, Query(fields=[name])),
                store.find(CARD, Query(where=[Filter(name, "eq", 1)])),
                store.find(CARD, Query(order_by=name)),
                store.find(CARD, Query(order_by=f"-{name}")),
                store.aggregate(CARD, Aggregate(metric="sum", field=name)),
                store.aggregate(CARD, Aggregate(metric="count", field=name)),
                store.aggregate(CARD, Aggregate(metric="count", group_by=[name])),
            ):
                with pytest.raises(FieldNotAllowedError):
                    await answer
            with pytest.raises(InvalidFilterError):
                await store.find(CARD, Query(cursor=name))


async def test_sql_in_a_value_is_a_value(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        store = EntityStore(db, alice)
        storable = [text for text in INJECTIONS if "\0" not in text and text]
        for injection in storable:
            row = await store.add(CARD, {"title": injection, "tags": [injection], "extractedData": {injection: 1}})
            assert row["title"] == injection
            assert row["extractedData"] == {injection: 1}
            for op in ("eq", "contains", "starts_with"):
                assert injection in await find_titles(store, Filter("title", op, injection))
            assert await find_titles(store, Filter("tags", "contains", [injection])) == {injection}
            await find_titles(store, text=injection)


# Values of every kind, some of them legal.
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.decimals(),
    st.text(alphabet=st.characters(codec=None)),
    st.sampled_from(INJECTIONS),
    st.sampled_from(["low", "done", "2026-11-20T09:00:00Z", "9999-12-31T23:59:59-12:00", "0.5", "1e400", "nan"]),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.uuids(),
    st.binary(max_size=5),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def questions(draw: st.DrawFn) -> tuple[EntitySpec[Any], Query, Aggregate]:
    spec: EntitySpec[Any] = draw(st.sampled_from(all_specs()))
    names = st.sampled_from(spec.readable) | st.sampled_from(INJECTIONS) | st.text(max_size=10)
    likely_names = st.one_of(st.sampled_from(spec.readable), st.sampled_from(spec.readable), names)

    def filters_of(name: str) -> st.SearchStrategy[Filter]:
        legal = spec.fields[name].operators if name in spec.fields else get_args(Operator)
        operators: Any = st.sampled_from(legal) | st.sampled_from(get_args(Operator)) | st.text(max_size=5)
        return st.builds(Filter, st.just(name), operators, values | st.lists(values, max_size=3))

    where = draw(st.lists(likely_names.flatmap(filters_of), max_size=3))
    text = draw(st.none() | st.text(alphabet=st.characters(codec=None)))
    query = Query(
        where=where,
        text=text,
        fields=draw(st.none() | st.lists(likely_names, max_size=4)),
        order_by=draw(st.none() | likely_names | likely_names.map(lambda name: f"-{name}")),
        limit=draw(st.integers(-1, 101)),
        cursor=draw(st.none() | st.text(max_size=30)),
    )
    question = Aggregate(
        metric=draw(st.sampled_from(get_args(Metric))),
        field=draw(st.none() | likely_names),
        group_by=draw(st.lists(likely_names, max_size=3)),
        where=where,
        text=text,
    )
    return spec, query, question


@given(asked=questions())
@against_postgres
async def test_whatever_is_asked_postgres_never_refuses_it(
    database: Database, alice: int, asked: tuple[EntitySpec[Any], Query, Aggregate]
) -> None:
    spec, query, question = asked
    async with database.begin(alice, read_only=True) as db:
        store = EntityStore(db, alice)
        with contextlib.suppress(StorageError):
            json.dumps((await store.find(spec, query)).items)
        with contextlib.suppress(StorageError):
            json.dumps((await store.aggregate(spec, question)).items)


@st.composite
def one_filter(draw: st.DrawFn) -> tuple[EntitySpec[Any], Filter]:
    """A filter whose field and operator are legal, so that the value gets as far as it can."""
    spec: EntitySpec[Any] = draw(st.sampled_from(all_specs()))
    name = draw(st.sampled_from(spec.readable))
    field = spec.fields[name]
    op = draw(st.sampled_from(field.operators))
    value = draw(st.lists(values, max_size=3) if op == "in" else st.booleans() if op == "is_null" else values)
    return spec, Filter(name, op, value)


@given(asked=one_filter())
@example(asked=(spec_named("cf_neural_patterns"), Filter("confidence", "gt", "1e99")))
@example(asked=(CARD, Filter("dueDate", "gt", "0001-01-01T00:00:00Z")))
@example(asked=(CARD, Filter("dueDate", "lt", "9999-12-31T23:59:59.999999Z")))
@against_postgres
async def test_any_value_of_a_legal_filter_is_refused_by_us_or_answered(
    database: Database, alice: int, asked: tuple[EntitySpec[Any], Filter]
) -> None:
    spec, condition = asked
    async with database.begin(alice, read_only=True) as db:
        with contextlib.suppress(InvalidFilterError):
            await EntityStore(db, alice).find(spec, Query(where=[condition]))


creatable = [spec for spec in all_specs() if spec.creates]
kinds: dict[str, st.SearchStrategy[Any]] = {
    "json": st.dictionaries(st.text(max_size=5), values, max_size=3) | st.lists(values, max_size=3),
    "text": st.text(alphabet=st.characters(codec=None)),
    "boolean": st.booleans(),
    "decimal": st.decimals(allow_nan=False) | st.floats(0, 9),
    "timestamp": st.datetimes(timezones=st.just(UTC)),
    "integer": st.none() | st.integers(),
}


@st.composite
def rows(draw: st.DrawFn) -> tuple[EntitySpec[Any], dict[str, Any]]:
    spec: EntitySpec[Any] = draw(st.sampled_from(creatable))
    likely = {name: st.sampled_from(spec.fields[name].choices) for name in spec.writable if spec.fields[name].choices}
    given_values = {name: likely.get(name, kinds[spec.fields[name].kind]) | values for name in spec.writable}
    required = {name: given_values[name] for name in spec.writable if spec.fields[name].required}
    return spec, draw(
        st.fixed_dictionaries(
            required, optional={name: value for name, value in given_values.items() if name not in required}
        )
    )


@given(sent=rows())
@against_postgres
async def test_any_row_is_refused_by_us_or_comes_back_as_it_was_sent(
    database: Database, alice: int, sent: tuple[EntitySpec[Any], dict[str, Any]]
) -> None:
    spec, row = sent
    async with database.begin(alice) as db:
        store = EntityStore(db, alice)
        try:
            added = await store.add(spec, row)
        except StorageError:
            await db.rollback()
            return
        json.dumps(added).encode()
        for name in row:
            if spec.fields[name].kind in {"text", "json", "boolean", "integer"}:
                assert same(added[name], row[name]), name
        await db.rollback()


def same(found: Any, sent: Any) -> bool:
    """Numbers of jsonb are decimal: 1e308 comes back as the integer that it prints as."""
    if isinstance(sent, float):
        return float(found) == sent
    if isinstance(sent, list):
        items = cast("list[Any]", sent)
        return len(found) == len(items) and all(map(same, found, items))
    if isinstance(sent, dict):
        pairs = cast("dict[str, Any]", sent).items()
        return found.keys() == sent.keys() and all(same(found[key], item) for key, item in pairs)
    return bool(found == sent)


async def pages(store: EntityStore, spec: EntitySpec[Any], query: Query) -> list[dict[str, Any]]:
    """Walk all pages and return the rows in the order of their appearance."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = await store.find(
            spec,
            Query(
                where=query.where,
                text=query.text,
                order_by=query.order_by,
                limit=query.limit,
                fields=query.fields,
                cursor=cursor,
            ),
        )
        assert page.returned <= query.limit
        items += page.items
        cursor = page.next_cursor
        assert page.truncated == (cursor is not None)
        if cursor is None:
            return items


moments = [None, *(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=n) for n in range(3))]
drawn_rows = st.lists(
    st.tuples(
        st.sampled_from(moments), st.sampled_from(["low", "high"]), st.sampled_from(["a", "B", "ä", "_", " ", "aa"])
    ),
    max_size=25,
)


def in_order(shown: Sequence[str | None], *, descending: bool) -> bool:
    """NULLs are last ascending and first descending."""
    ranked = [(value is None, datetime.fromisoformat(value or "0001-01-01T00:00:00Z")) for value in shown]
    return ranked == sorted(ranked, reverse=descending)


@given(drawn=drawn_rows, limit=st.integers(1, 7), order_by=st.sampled_from(["dueDate", "-dueDate"]))
@against_postgres
async def test_walking_all_pages_yields_every_row_once_in_order(
    database: Database, alice: int, drawn: list[tuple[datetime | None, str, str]], limit: int, order_by: str
) -> None:
    async with database.begin(alice) as db:
        store = EntityStore(db, alice)
        if drawn:
            await db.execute(
                insert(AgencyTask),
                [{"user_id": alice, "title": t, "due_date": due, "priority": p} for due, p, t in drawn],
            )
        walked = await pages(store, CARD, Query(order_by=order_by, limit=limit))
        assert len({row["id"] for row in walked}) == len(walked) == len(drawn)
        descending = order_by.startswith("-")
        assert in_order([row["dueDate"] for row in walked], descending=descending)
        for one, next_one in itertools.pairwise(walked):
            if one["dueDate"] == next_one["dueDate"]:
                assert (one["id"] > next_one["id"]) == descending
        await db.rollback()


@given(
    drawn=drawn_rows,
    limit=st.integers(1, 7),
    order_by=st.sampled_from(
        [None, "id", "-id", "title", "-title", "priority", "-clientId", "clientId", "createdAt", "-taskType"]
    ),
    wanted=st.sampled_from([(), (Filter("priority", "eq", "low"),), (Filter("title", "in", ["a", "aa"]),)]),
)
@against_postgres
async def test_pages_are_the_whole_listing_cut_into_pieces(
    database: Database,
    alice: int,
    drawn: list[tuple[datetime | None, str, str]],
    limit: int,
    order_by: str | None,
    wanted: tuple[Filter, ...],
) -> None:
    async with database.begin(alice) as db:
        store = EntityStore(db, alice)
        if drawn:
            await db.execute(
                insert(AgencyTask),
                [
                    {"user_id": alice, "title": t, "due_date": due, "priority": p, "task_type": t if due else None}
                    for due, p, t in drawn
                ],
            )
        walked = await pages(store, CARD, Query(order_by=order_by, limit=limit, where=wanted))
        whole = await store.find(CARD, Query(order_by=order_by, limit=100, where=wanted))
        assert walked == whole.items
        await db.rollback()


async def test_a_cursor_serves_only_the_question_it_came_from(database: Database, alice: int, bob: int) -> None:
    asked = Query(limit=1, order_by="title", where=[Filter("priority", "eq", "medium")], text="t")
    async with database.begin(alice) as db:
        store = EntityStore(db, alice)
        for title in ("t one", "t two", "t three"):
            await store.add(CARD, {"title": title})
        cursor = (await store.find(CARD, asked)).next_cursor
        assert cursor is not None
        same = Query(limit=50, order_by="title", where=asked.where, text="t", fields=["title"], cursor=cursor)
        assert [row["title"] for row in (await store.find(CARD, same)).items] == ["t three", "t two"]
        for spec, query in (
            (CARD, Query(order_by="-title", where=asked.where, text="t", cursor=cursor)),
            (CARD, Query(order_by="priority", where=asked.where, text="t", cursor=cursor)),
            (CARD, Query(order_by="title", where=[], text="t", cursor=cursor)),
            (CARD, Query(order_by="title", where=[Filter("priority", "eq", "low")], text="t", cursor=cursor)),
            (CARD, Query(order_by="title", where=[Filter("priority", "ne", "medium")], text="t", cursor=cursor)),
            (CARD, Query(order_by="title", where=asked.where, cursor=cursor)),
            (spec_named("automationWorkflows"), Query(cursor=cursor)),
        ):
            with pytest.raises(InvalidFilterError, match="another listing"):
                await store.find(spec, query)
    async with database.begin(bob) as db:
        with pytest.raises(InvalidFilterError, match="another listing"):
            await EntityStore(db, bob).find(CARD, Query(order_by="title", where=asked.where, text="t", cursor=cursor))


@given(
    garbage=st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()),
    order_by=st.sampled_from([None, "title", "dueDate"]),
    forged=st.tuples(values, st.lists(values, max_size=2) | values),
)
@against_postgres
async def test_a_forged_cursor_is_refused_or_harmless(
    database: Database, alice: int, garbage: str, order_by: str | None, forged: tuple[object, object]
) -> None:
    async with database.begin(alice) as db:
        store = EntityStore(db, alice)
        for title in ("a", "b"):
            await store.add(CARD, {"title": title})
        real = (await store.find(CARD, Query(limit=1, order_by=order_by))).next_cursor
        assert real is not None
        digest = json.loads(base64.urlsafe_b64decode(real + "=="))[0]
        packed = json.dumps([digest, *forged], default=str, skipkeys=True)
        signed = base64.urlsafe_b64encode(packed.encode()).decode()
        for cursor in (garbage, signed, real[:-3], real + "A", real.upper()):
            with contextlib.suppress(InvalidFilterError):
                await store.find(CARD, Query(limit=1, order_by=order_by, cursor=cursor))
        await db.rollback()


async def test_a_cursor_at_the_longest_sortable_value_is_accepted(database: Database, alice: int) -> None:
    async with database.begin(alice) as db:
        store = EntityStore(db, alice)
        for _ in range(2):
            await store.add(CARD, {"title": "\U0001f600" * 500})
        walked = await pages(store, CARD, Query(order_by="title", limit=1))
    assert len(walked) == 2
