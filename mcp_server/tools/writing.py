"""Writing rows of any entity, as far as no operation owns the rule. One audit row per change, in its transaction."""

from collections.abc import Iterable
from typing import Annotated, Any

from mcp_types import CallToolResult
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from mcp_server.app import DOOR, App, CurrentApp
from mcp_server.once import once
from mcp_server.parameters import EntityName, IdempotencyKey, RowId
from mcp_server.results import Item, Receipt, Removal, receipt_result, removal_result
from storage.entities import EntityStore
from storage.models.audit import AuditLog
from storage.registry import EntitySpec, spec_named
from storage.values import instant
from storage.views import VERSION


async def entity_create(
    app: CurrentApp,
    entity: EntityName,
    data: Annotated[dict[str, Any], Field(description="Field → value.")],
    idempotency_key: IdempotencyKey = None,
) -> Annotated[CallToolResult, Receipt]:
    """Add one row and return its id.

    See entity_describe for the writable and required fields. Fails when a field is not writable, a value does not fit,
    or rows of the entity are made by a tool of their own.
    """
    spec = spec_named(entity)
    async with app.writing() as db:

        async def add() -> Item:
            row = await EntityStore(db, app.user_id).add(spec, data)
            await _audit(app, db, "entity_create", spec, row["id"], data)
            return _stamp(spec, row)

        made, is_repeated = await once(
            db, (app.user_id, "entity_create"), idempotency_key, {"entity": spec.name, "data": data}, add
        )
    before = " before, under the same key" if is_repeated else ""
    return receipt_result(f"Created {spec.name} {made['id']}{before}", made)


async def entity_update(
    app: CurrentApp,
    entity: EntityName,
    id: RowId,  # noqa: A002 -- the wire's name of the key
    patch: Annotated[dict[str, Any], Field(description="Field → new value; JSON fields as a whole.")],
    expected_version: Annotated[
        str | None, Field(max_length=20, description="The _version you read; fails if the row has changed since.")
    ] = None,
) -> Annotated[CallToolResult, Receipt]:
    """Change writable fields of one row and return its new version; other fields stay.

    States such as a card's status have tools of their own (task_move). Fails when there is no such row, a field is not
    writable or a value does not fit.
    """
    spec = spec_named(entity)
    async with app.writing() as db:
        row = await EntityStore(db, app.user_id).change(spec, id, patch, expected_version=expected_version)
        await _audit(app, db, "entity_update", spec, row["id"], patch)
    return receipt_result(f"Changed {', '.join(sorted(patch))} of {spec.name} {row['id']}", _stamp(spec, row))


async def entity_delete(
    app: CurrentApp,
    entity: EntityName,
    id: RowId,  # noqa: A002 -- as above
    confirm_token: Annotated[str | None, Field(max_length=100, description="From the first call.")] = None,
) -> Annotated[CallToolResult, Removal]:
    """Delete one row for good, with the rows that hang on it, in two calls.

    The first deletes nothing and answers what would go, with a token valid for 5 minutes; the second, with that token,
    deletes. Fails when there is no such row, the entity is not deletable, or the token is for another row.
    """
    spec = spec_named(entity)
    action = ("entity_delete", spec.name, str(id))
    if confirm_token is None:
        async with app.reading() as db:
            rows = await EntityStore(db, app.user_id).removal_preview(spec, id)
        confirmation = app.confirmations.issue(app.user_id, action)
        preview = Removal(
            deleted=False,
            rows=rows,
            confirm_token=confirmation.token,
            expires_at=instant(confirmation.expires_at),
            hint="Deleting cannot be undone: make sure that the user wants it.",
        )
        return removal_result(preview)
    app.confirmations.check(confirm_token, app.user_id, action)
    async with app.writing() as db:
        store = EntityStore(db, app.user_id)
        rows = await store.removal_preview(spec, id)
        await store.remove(spec, id)
        await _audit(app, db, "entity_delete", spec, id, {"rows": rows})
    return removal_result(Removal(deleted=True, rows=rows, confirm_token=None, expires_at=None, hint=None))


async def _audit(
    app: App, db: AsyncSession, action: str, spec: EntitySpec[Any], key: int | str, fields: Iterable[str]
) -> None:
    """Leave the row that says who changed what; field names only, no contents."""
    db.add(
        AuditLog(
            user_id=app.user_id,
            action=action,
            entity_type=spec.name,
            entity_id=str(key)[:100],
            new_values={"door": DOOR, "fields": sorted(fields)},
        )
    )
    await db.flush()


def _stamp(spec: EntitySpec[Any], row: Item) -> Item:
    return {"entity": spec.name, "id": row["id"], VERSION: row[VERSION]}
