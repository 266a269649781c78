"""`agency task ...`: the operations of the board, from a shell."""

from gateway.cli.output import print_record, print_rows
from runtime.local import Local, open_local
from runtime.operation import perform
from runtime.operations.board import card_view
from runtime.ports import Json
from runtime.settings import RuntimeSettings
from runtime.toolbox import operation_named
from storage.queries import board
from storage.settings import StorageSettings

COLUMNS = ("id", "title", "status", "priority", "dueDate", "client")


async def perform_on_board(name: str, arguments: Json, as_json: bool) -> None:
    """Perform one operation and print what it returns."""
    given = {key: value for key, value in arguments.items() if value is not None}
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        operation = operation_named(name)
        async with local.database.begin(local.user_id) as db:
            result = await perform(operation, await local.context(db, door="cli"), given)
    if "items" in result:
        print_rows(result["items"], COLUMNS, as_json=as_json)
    else:
        print_record(result, as_json=as_json)


async def show(card_id: int, as_json: bool) -> None:
    """Print one card."""
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        print_record(await _card(local, card_id), as_json=as_json)


async def _card(local: Local, card_id: int) -> Json:
    async with local.database.begin(local.user_id, read_only=True) as db:
        card = await board.card(db, card_id)
        view = card_view(card, await local.context(db, door="cli"))
    return view | {"description": card.row.description, "intent": card.row.intent, "tags": card.row.tags}
