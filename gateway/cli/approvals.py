"""`agency approval ...`: calls that wait for a person's word.

A person decides: in a terminal, after having seen what would happen, or by name with --as where nobody can be asked.
"""

import json
import sys
from typing import Literal, get_args

import typer

from gateway.cli.output import print_json, print_record, print_rows, progress
from gateway.errors import ArgumentError, CheckFailedError
from runtime.errors import NotAuthorisedError
from runtime.local import Local, open_local
from runtime.operation import Operation, perform
from runtime.operations.approvals import deny_approval, grant_approval, list_approvals, show_approval
from runtime.ports import Json
from runtime.settings import RuntimeSettings
from storage.models.runtime import ApprovalStatus
from storage.settings import StorageSettings

COLUMNS = ("id", "executionId", "tool", "reason", "status", "expiresAt")
_ALL = "all"

Decision = Literal["grant", "deny"]


async def listing(status: str | None, as_json: bool) -> None:
    """Print approvals, those that have waited longest first."""
    known = get_args(ApprovalStatus)
    if status not in (*known, _ALL):
        raise ArgumentError("--status", str(status), ", ".join((*known, _ALL)))
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        found = await _perform(local, list_approvals, {"status": None if status == _ALL else status})
    print_rows(found["items"], COLUMNS, as_json=as_json)


async def show(approval_id: int, as_json: bool) -> None:
    """Print one approval with all that would happen."""
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        shown = await _perform(local, show_approval, {"id": approval_id})
    if as_json:
        print_json(shown)
    else:
        print_record(_in_lines(shown), as_json=False)


async def decide(decision: Decision, approval_id: int, person: str | None, note: str | None, as_json: bool) -> None:
    """Show what would happen, ask, and write down what was said."""
    if person is None and not sys.stdin.isatty():
        raise NotAuthorisedError(
            f"a person decides about approval {approval_id}: run this in a terminal, or name the person with --as USER"
        )
    async with open_local(StorageSettings(), RuntimeSettings(), user=person) as local:
        if person is None:
            await _confirm(local, decision, approval_id)
        given = {"id": approval_id} | ({} if note is None else {"note": note})
        done = await _perform(local, grant_approval if decision == "grant" else deny_approval, given)
    print_record(done, as_json=as_json)
    progress.print(f"execution {done['executionId']} goes on when a worker takes it up ('agency worker')")


async def _confirm(local: Local, decision: Decision, approval_id: int) -> None:
    shown = await _perform(local, show_approval, {"id": approval_id})
    for name, value in _in_lines(shown).items():
        progress.print(f"{name}: {value}", markup=False, soft_wrap=True)
    if not typer.confirm(f"{decision.capitalize()} this call?", err=True):
        raise CheckFailedError(f"nothing was decided about approval {approval_id}")


def _in_lines(shown: Json) -> Json:
    """Return an approval as lines of ASCII: no character that a model chose reaches the terminal as it is."""
    return {name: _plain(value) for name, value in shown.items() if value is not None}


def _plain(value: object) -> str:
    if isinstance(value, str) and value.isascii() and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=True)


async def _perform(local: Local, operation: Operation, given: Json) -> Json:
    is_reading = operation.effect == "none"
    async with local.database.begin(local.user_id, read_only=is_reading) as db:
        return await perform(operation, await local.context(db, door="cli"), given)
