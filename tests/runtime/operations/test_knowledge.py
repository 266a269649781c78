"""Learning and looking up: certainty grows, what a participant says waits for a person, use is counted exactly."""

from typing import Any

import anyio
import pytest
from sqlalchemy import select, text

from runtime.errors import ToolArgumentsError
from runtime.operations.knowledge import learn, search_knowledge
from runtime.ports import Json
from storage.errors import InvalidValueError
from storage.models.knowledge import KnowledgeEntry
from storage.tenancy import Database
from tests.runtime.operations.performing import audit_rows, chat, performed

LESSON = {"category": "brand_voice", "content": "Acme likes short sentences"}


async def entries(database: Database, user_id: int) -> list[KnowledgeEntry]:
    async with database.begin(user_id) as db:
        return list(await db.scalars(select(KnowledgeEntry).order_by(KnowledgeEntry.id)))


async def switch(database: Database, user_id: int, *, active: bool) -> None:
    async with database.begin(user_id) as db:
        await db.execute(text('UPDATE "knowledgeEntries" SET "isActive" = :active'), {"active": active})


async def search(database: Database, user_id: int, query: str, **more: Any) -> list[Json]:
    return (await performed(database, user_id, search_knowledge, {"query": query, **more}))["items"]


async def test_a_lesson_is_kept_and_found(database: Database, alice: int) -> None:
    given = {**LESSON, "context": "newsletter", "examples": ["Buy now."], "confidence": 0.7}
    made = await performed(database, alice, learn, given)
    assert made == {
        "id": made["id"],
        **LESSON,
        "context": "newsletter",
        "examples": ["Buy now."],
        "confidence": "0.70",
        "active": True,
        "created": True,
    }
    assert [found["id"] for found in await search(database, alice, "short")] == [made["id"]]
    assert [found["id"] for found in await search(database, alice, "newsletter")] == [made["id"]]
    assert await search(database, alice, "long") == []
    assert await search(database, alice, "short", category="workflow") == []
    assert await audit_rows(database, alice) == 5


async def test_the_same_lesson_again_makes_it_more_certain(database: Database, alice: int) -> None:
    shown: list[str] = []
    for number in range(9):
        again = await performed(database, alice, learn, {**LESSON, "context": "c", "examples": [f"e{number % 3}"]})
        shown.append(again["confidence"])
    assert shown[:4] == ["0.50", "0.75", "0.88", "0.94"]
    assert shown == sorted(shown)
    assert shown[-1] == "1.00", "as certain as NUMERIC(3,2) can say, and no more"
    (entry,) = await entries(database, alice)
    assert (entry.context, entry.examples) == ("c", ["e0", "e1", "e2"])
    await performed(database, alice, learn, {**LESSON, "category": "preference"})
    assert len(await entries(database, alice)) == 2


async def test_two_who_learn_the_same_at_once_make_one_entry(database: Database, alice: int) -> None:
    async def once() -> None:
        await performed(database, alice, learn, {**LESSON, "confidence": 0.1})

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(once)
    (entry,) = await entries(database, alice)
    assert float(entry.confidence) == pytest.approx(1 - 0.9**6, abs=0.03)


async def test_what_is_said_in_a_conversation_waits_for_a_person(database: Database, alice: int) -> None:
    told = await performed(database, alice, learn, LESSON, conversation=chat(1))
    assert told == {"id": told["id"], "note": "kept for a person to release; not used before"}
    assert await search(database, alice, "short") == []
    await performed(database, alice, learn, {**LESSON, "content": "Beta likes them short, too, but not always"})
    assert len(await search(database, alice, "short", limit=1)) == 1, "what waits takes no place"
    again = await performed(database, alice, learn, LESSON)
    assert (again["active"], again["confidence"], again["created"]) == (False, "0.50", False)
    assert "switched it off or not released" in again["note"]
    await switch(database, alice, active=True)
    assert len(await search(database, alice, "short")) == 2
    repeated = await performed(database, alice, learn, LESSON, conversation=chat(1))
    assert repeated == told, "a participant neither strengthens it nor learns that it is in use"
    assert str((await entries(database, alice))[0].confidence) == "0.50"
    told = await performed(database, alice, search_knowledge, {"query": "short"}, conversation=chat(1))
    assert told == {"items": [], "returned": 0}, "what is known is the staff's, unless the owner says otherwise"


async def test_the_best_and_most_certain_come_first_and_are_counted(database: Database, alice: int) -> None:
    lessons = {"tea once": 0.9, "tea tea tea": 0.9, "perhaps tea tea tea": 0.1, "coffee": 1.0}
    for content, confidence in lessons.items():
        await performed(database, alice, learn, {"category": "taste", "content": content, "confidence": confidence})
    found = await search(database, alice, "tea")
    assert [item["content"] for item in found] == ["tea tea tea", "tea once", "perhaps tea tea tea"]
    await search(database, alice, "tea", limit=1)
    used = {entry.content: entry.usage_count for entry in await entries(database, alice)}
    assert used == {"tea tea tea": 2, "tea once": 1, "perhaps tea tea tea": 1, "coffee": 0}


async def test_searches_at_the_same_time_are_all_counted(database: Database, alice: int) -> None:
    for content, confidence in (("tea black coffee", 0.9), ("coffee coffee tea", 0.8), ("tea", 0.5), ("coffee", 0.4)):
        await performed(database, alice, learn, {"category": "taste", "content": content, "confidence": confidence})

    async def look(words: str) -> None:
        assert len(await search(database, alice, words)) == 4

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(look, "tea or coffee")
            group.start_soon(look, "coffee or coffee or tea")
    assert {entry.usage_count for entry in await entries(database, alice)} == {12}


async def test_another_tenant_finds_and_strengthens_nothing(database: Database, alice: int, bob: int) -> None:
    await performed(database, alice, learn, LESSON)
    assert await search(database, bob, "short") == []
    assert (await performed(database, bob, learn, LESSON))["created"]
    assert [str(entry.confidence) for entry in await entries(database, alice)] == ["0.50"]
    assert [entry.usage_count for entry in await entries(database, alice)] == [0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"content": ""},
        {"content": "x" * 20_001},
        {"category": "x" * 51},
        {"confidence": 0},
        {"confidence": 1.01},
        {"confidence": float("1e-9")},
        {"examples": ["x"] * 21},
        {"examples": [""]},
        {"isActive": True},
    ],
    ids=str,
)
async def test_a_lesson_that_does_not_fit_is_refused(database: Database, alice: int, wrong: Json) -> None:
    with pytest.raises(ToolArgumentsError):
        await performed(database, alice, learn, {**LESSON, **wrong})


@pytest.mark.parametrize("poison", ["a\x00", "\udfff"])
async def test_what_cannot_be_stored_is_not_learned(database: Database, alice: int, poison: str) -> None:
    for wrong in ({"content": poison}, {"examples": [poison]}, {"context": poison}):
        with pytest.raises(InvalidValueError):
            await performed(database, alice, learn, {**LESSON, **wrong})
    with pytest.raises(InvalidValueError):
        await search(database, alice, poison)


@pytest.mark.parametrize("query", ["'", "a & | !", "((", '"', "%_\\", "<->", "-", "or"])
async def test_any_text_may_be_looked_up(database: Database, alice: int, query: str) -> None:
    await performed(database, alice, learn, LESSON)
    assert len(await search(database, alice, query)) <= 1
