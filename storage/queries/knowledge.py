"""What agents have learned and made, and the documents they may look up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import func as sql
from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models.crm import Document
from storage.models.knowledge import GeneratedProject, KnowledgeEntry
from storage.queries.locks import one_at_a_time

MOST_EXAMPLES = 20
"""Of one entry; later ones are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What somebody wants to be known from now on."""

    user_id: int
    category: str
    content: str
    confidence: Decimal
    """0.01 to 1.00: how sure its source is."""
    context: str | None = None
    examples: Sequence[str] = field(default=())
    released: bool = True
    """False: nobody is told before a person has set `isActive`."""


async def learn(db: AsyncSession, lesson: Lesson) -> tuple[KnowledgeEntry, bool]:
    """Return the entry for a lesson and whether it is new.

    The same content in the same category is one entry, which grows more certain with every released lesson. One that
    a person has switched off, or has not released yet, stays as it is.
    """
    await one_at_a_time(db, lesson.user_id, f"knowledge:{lesson.category}:{lesson.content}")
    same = (KnowledgeEntry.category == lesson.category) & (KnowledgeEntry.content == lesson.content)
    found = await db.scalar(select(KnowledgeEntry).where(same).order_by(KnowledgeEntry.id).limit(1).with_for_update())
    if found is None:
        return await _add(db, lesson), True
    if found.is_active and lesson.released:
        await _strengthen(db, found, lesson)
    return found, False


async def _add(db: AsyncSession, lesson: Lesson) -> KnowledgeEntry:
    entry = KnowledgeEntry(
        user_id=lesson.user_id,
        category=lesson.category,
        content=lesson.content,
        context=lesson.context,
        examples=list(lesson.examples)[:MOST_EXAMPLES],
        confidence=lesson.confidence,
        usage_count=0,
        is_active=lesson.released,
    )
    db.add(entry)
    await db.flush()
    return entry


async def _strengthen(db: AsyncSession, entry: KnowledgeEntry, lesson: Lesson) -> None:
    """Take two independent sources as wrong only if both are: 1 - (1 - a)(1 - b)."""
    doubt = (1 - entry.confidence) * (1 - lesson.confidence)
    entry.confidence = (1 - doubt).quantize(Decimal("0.01"))
    entry.context = entry.context or lesson.context
    fresh = [example for example in lesson.examples if example not in entry.examples]
    entry.examples = [*entry.examples, *fresh][:MOST_EXAMPLES]
    await db.flush()


async def consult(
    db: AsyncSession, words: str, *, categories: Sequence[str] | None = None, limit: int
) -> Sequence[KnowledgeEntry]:
    """Return the active entries that match, best first (rank × confidence), each counted as used once more.

    `categories`: only of these; None: of all.
    """
    query = sql.websearch_to_tsquery("simple", words)
    score = sql.ts_rank(KnowledgeEntry.search_vector, query) * KnowledgeEntry.confidence
    best = select(KnowledgeEntry.id).where(KnowledgeEntry.is_active, KnowledgeEntry.search_vector.op("@@")(query))
    if categories is not None:
        best = best.where(KnowledgeEntry.category.in_(categories))
    ids = (await db.scalars(best.order_by(score.desc(), KnowledgeEntry.id).limit(limit))).all()
    # Locked in the order of their keys: two that consult at once would otherwise wait for each other.
    mine = select(KnowledgeEntry.id).where(KnowledgeEntry.id.in_(ids)).order_by(KnowledgeEntry.id)
    await db.execute(mine.with_for_update(key_share=True))
    values: dict[Any, Any] = {KnowledgeEntry.usage_count: KnowledgeEntry.usage_count + 1}
    used = update(KnowledgeEntry).where(KnowledgeEntry.id.in_(ids), KnowledgeEntry.is_active).values(values)
    used = used.returning(KnowledgeEntry).execution_options(synchronize_session=False, populate_existing=True)
    rows = {entry.id: entry for entry in await db.scalars(used)}
    return [rows[entry_id] for entry_id in ids if entry_id in rows]


async def documents(
    db: AsyncSession, *, words: str | None = None, mime_type: str | None = None, limit: int = 20
) -> Sequence[Document]:
    """Return documents by words or part of their file name, best first, then the newest.

    A `mime_type` that ends in `/` stands for all of that kind.
    """
    statement = select(Document)
    if words:
        query = sql.websearch_to_tsquery("simple", words)
        matches = Document.search_vector.bool_op("@@")(query)
        # `brand-guide.pdf` is one word to the parser of texts.
        statement = statement.where(or_(matches, Document.filename.icontains(words, autoescape=True)))
        statement = statement.order_by(sql.ts_rank(Document.search_vector, query).desc())
    if mime_type:
        is_kind = Document.mime_type.startswith(mime_type, autoescape=True)
        statement = statement.where(is_kind if mime_type.endswith("/") else Document.mime_type == mime_type)
    return (await db.scalars(statement.order_by(Document.id.desc()).limit(limit))).all()


async def active_project(db: AsyncSession, user_id: int, name: str) -> GeneratedProject | None:
    """Return the newest active project of this name, and let nobody else save it until the transaction ends."""
    await one_at_a_time(db, user_id, f"project:{name}")
    statement = select(GeneratedProject).where(GeneratedProject.name == name, GeneratedProject.status == "active")
    return await db.scalar(statement.order_by(GeneratedProject.id.desc()).limit(1).with_for_update())
