"""Operations on what the agency knows: learn, look up (knowledgeEntries)."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from runtime.labels import Tier
from runtime.operation import Context, operation
from runtime.operations.visibility import STAFF_ONLY, Scope, public_list, viewer
from runtime.ports import Json
from storage.models.knowledge import KnowledgeEntry
from storage.queries import knowledge

Category = Annotated[
    str, Field(min_length=1, max_length=50, description="Kind of knowledge: workflow, brand_voice, preference, ...")
]
Example = Annotated[str, Field(min_length=1, max_length=2_000)]


def entry_view(entry: KnowledgeEntry) -> Json:
    """Return an entry as models and clients see it."""
    return {
        "id": entry.id,
        "category": entry.category,
        "content": entry.content,
        "context": entry.context,
        "examples": entry.examples,
        "confidence": format(entry.confidence, ".2f"),
        "active": entry.is_active,
    }


@operation(effect="db", tier=Tier.T2)
async def learn(
    ctx: Context,
    category: Category,
    content: Annotated[str, Field(min_length=1, max_length=20_000, description="One lesson in a sentence or two.")],
    context: Annotated[str | None, Field(max_length=5_000, description="When it holds, where it comes from.")] = None,
    examples: Annotated[list[Example] | None, Field(max_length=knowledge.MOST_EXAMPLES, description="Cases.")] = None,
    confidence: Annotated[float, Field(ge=0.01, le=1, description="How sure you are, 0.01 to 1.00.")] = 0.5,
) -> Json:
    """Keep something that holds beyond this task, for every agent of the agency: how work is done here, what is liked.

    The same content in the same category again makes the entry more certain instead of adding one. What comes from
    people outside, as in a conversation, is kept for a person to release and is not used before. For facts about one
    client or chat use remember.
    """
    lesson = knowledge.Lesson(
        user_id=ctx.user_id,
        category=category,
        content=content,
        confidence=Decimal(str(confidence)).quantize(Decimal("0.01")),
        context=context,
        examples=examples or (),
        released=not ctx.is_tainted,
    )
    entry, created = await knowledge.learn(ctx.db, lesson)
    if ctx.conversation is not None:
        # What the agency knows is not for a participant to find out by guessing.
        return {"id": entry.id, "note": "kept for a person to release; not used before"}
    ctx.saw(STAFF_ONLY)
    view = entry_view(entry) | {"created": created}
    return view if entry.is_active else view | {"note": "unchanged: a person has switched it off or not released it"}


@operation(effect="db", tier=Tier.T0)
async def search_knowledge(
    ctx: Context,
    query: Annotated[str, Field(min_length=1, max_length=500, description='Words; "a phrase", or, -not.')],
    category: Annotated[str | None, Field(max_length=50, description="Only this kind.")] = None,
    limit: Annotated[int, Field(ge=1, le=50, description="At most this many.")] = 5,
    scope: Scope = None,
) -> Json:
    """Look up what the agency has learned, best match and most certain first, before you decide how to do something.

    What is returned counts as used. In a conversation, only the kinds that everybody may know.
    """
    kinds = None if category is None else [category]
    if viewer(ctx, scope) is None:
        ctx.saw(STAFF_ONLY)
    else:
        public = (await public_list(ctx)).knowledge_categories
        kinds = [kind for kind in public if category in (None, kind)]
    found = await knowledge.consult(ctx.db, query, categories=kinds, limit=limit)
    return {"items": [entry_view(entry) for entry in found], "returned": len(found)}
