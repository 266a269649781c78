"""Finding documents: by words, by part of a name, by type, and never those of others."""

from typing import Any

import pytest

from runtime.errors import ToolArgumentsError
from runtime.operations.documents import find_documents
from storage.errors import InvalidValueError
from storage.models.crm import Document
from storage.tenancy import Database
from tests.runtime.operations.performing import audit_rows, chat, performed


@pytest.fixture
async def library(database: Database, alice: int) -> int:
    """Alice, with three documents."""
    async with database.begin(alice) as db:
        for filename, kind in (
            ("Brand guide.pdf", "application/pdf"),
            ("acme_logo-100%.png", "image/png"),
            ("photo.jpeg", "image/jpeg"),
        ):
            db.add(Document(user_id=alice, filename=filename, mime_type=kind, size=5, s3_key="secret/place"))
            await db.flush()
    return alice


async def names(database: Database, user_id: int, **arguments: Any) -> list[str]:
    found = await performed(database, user_id, find_documents, arguments)
    assert found["returned"] == len(found["items"])
    return [item["filename"] for item in found["items"]]


async def test_documents_are_found_by_name_and_type(database: Database, library: int) -> None:
    assert await names(database, library) == ["photo.jpeg", "acme_logo-100%.png", "Brand guide.pdf"]
    assert await names(database, library, query="guide") == ["Brand guide.pdf"]
    assert await names(database, library, query="LOGO") == ["acme_logo-100%.png"]
    assert await names(database, library, query="100%") == ["acme_logo-100%.png"]
    assert await names(database, library, query="_") == ["acme_logo-100%.png"], "no wildcard"
    assert await names(database, library, mime_type="image/") == ["photo.jpeg", "acme_logo-100%.png"]
    assert await names(database, library, mime_type="image/png") == ["acme_logo-100%.png"]
    assert await names(database, library, mime_type="image") == []
    assert await names(database, library, query="photo", mime_type="application/pdf") == []
    assert await names(database, library, limit=1) == ["photo.jpeg"]


async def test_a_document_does_not_tell_where_its_bytes_are(database: Database, library: int) -> None:
    found = await performed(database, library, find_documents, {"query": "photo"})
    assert "secret" not in str(found)
    assert found["items"][0]["size"] == 5
    assert await audit_rows(database, library) == 0, "reading is not audited"


async def test_nobody_else_finds_them(database: Database, library: int, bob: int) -> None:
    assert await names(database, bob) == []
    assert await names(database, bob, query="guide") == []


async def test_a_participant_may_see_none_unless_the_agent_asks_for_the_tenants(
    database: Database, library: int
) -> None:
    assert await performed(database, library, find_documents, {}, conversation=chat(1)) == {"items": [], "returned": 0}
    asked = await performed(database, library, find_documents, {"scope": "tenant"}, conversation=chat(1))
    assert asked["returned"] == 3


async def test_wrong_questions_are_refused(database: Database, alice: int) -> None:
    for wrong in ({"limit": 0}, {"limit": 101}, {"query": "x" * 501}, {"s3_key": "x"}):
        with pytest.raises(ToolArgumentsError):
            await performed(database, alice, find_documents, wrong)
    with pytest.raises(InvalidValueError):
        await performed(database, alice, find_documents, {"query": "\x00"})
