"""`agency task ...`: the operations of the board, from a shell."""

from datetime import date, datetime

from gateway.cli.output import print_record, print_rows, progress
from gateway.errors import ArgumentError
from runtime.local import Local, open_local
from runtime.operation import perform
from runtime.operations.board import card_view
from runtime.ports import Json
from runtime.settings import RuntimeSettings
from runtime.toolbox import operation_named
from storage.queries import board
from storage.settings import StorageSettings

_DATE_CHARS = len("YYYY-MM-DD")

COLUMNS = ("id", "title", "status", "priority", "dueDate", "client")


async def perform_on_board(name: str, arguments: Json, as_json: bool) -> None:
    """Perform one operation and print what it returns."""
    given = {key: value for key, value in arguments.items() if value is not None}
    if "due" in given:
        given["due"] = _deadline(given["due"])
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        operation = operation_named(name)
        async with local.database.begin(local.user_id) as db:
            result = await perform(operation, await local.context(db, door="cli"), given)
    if "items" in result:
        print_rows(result["items"], COLUMNS, as_json=as_json)
        if "note" in result:
            progress.print(result["note"], markup=False, soft_wrap=True)
    else:
        print_record(result, as_json=as_json)


def _deadline(due: str) -> str:
    """Return a deadline as the operation's schema takes it; the schema would read mere digits as seconds since 1970."""
    try:
        return (date if len(due) <= _DATE_CHARS else datetime).fromisoformat(due).isoformat()
    except ValueError:
        raise ArgumentError("--due", due, "YYYY-MM-DD or an ISO date-time, e.g. 2030-01-15T17:00+01:00") from None


async def show(card_id: int, as_json: bool) -> None:
    """Print one card."""
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        print_record(await _card(local, card_id), as_json=as_json)


async def _card(local: Local, card_id: int) -> Json:
    async with local.database.begin(local.user_id, read_only=True) as db:
        card = await board.card(db, card_id)
        view = card_view(card, await local.context(db, door="cli"))
    return view | {"description": card.row.description, "intent": card.row.intent, "tags": card.row.tags}
