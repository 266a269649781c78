"""Operations on the agency's documents: find them by name."""

from typing import Annotated

from pydantic import Field

from runtime.labels import Tier
from runtime.operation import Context, operation
from runtime.operations.visibility import STAFF_ONLY, Scope, viewer
from runtime.ports import Json
from storage.models.crm import Document
from storage.queries import knowledge
from storage.values import instant


def document_view(document: Document) -> Json:
    """Return a document as models and clients see it; where its bytes are is nobody's business."""
    return {
        "id": document.id,
        "filename": document.filename,
        "mimeType": document.mime_type,
        "size": document.size,
        "createdAt": instant(document.created_at),
    }


@operation(effect="none", tier=Tier.T0)
async def find_documents(
    ctx: Context,
    query: Annotated[str | None, Field(max_length=500, description="Words or a part of the file name.")] = None,
    mime_type: Annotated[
        str | None, Field(max_length=100, description="Such as application/pdf; image/ stands for every image.")
    ] = None,
    limit: Annotated[int, Field(ge=1, le=100, description="At most this many.")] = 20,
    scope: Scope = None,
) -> Json:
    """Find stored documents by file name and type, best match first, then the newest; without arguments the newest.

    It tells which there are, not what is in them. Documents are for the staff: a participant may see none of them.
    """
    if viewer(ctx, scope) is not None:
        return {"items": [], "returned": 0}
    ctx.saw(STAFF_ONLY)
    found = await knowledge.documents(ctx.db, words=query, mime_type=mime_type, limit=limit)
    return {"items": [document_view(document) for document in found], "returned": len(found)}
