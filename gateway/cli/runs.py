"""`agency run ...`: what agents are doing and have done, from a shell."""

import json
import sys
from contextlib import aclosing
from typing import Any, TypeGuard, assert_never, get_args

from gateway.cli.output import print_json, print_record, print_rows, progress
from gateway.errors import ArgumentError
from runtime.events import Event
from runtime.local import Local, open_local
from runtime.operation import Context, Operation, perform
from runtime.operations.executions import (
    cancel_execution,
    execution_status,
    fork_execution,
    pause_execution,
    reply_execution,
    resume_execution,
    step_view,
)
from runtime.ports import Json
from runtime.presence import nobody_for
from runtime.settings import RuntimeSettings
from runtime.streaming import Committed, Delta, Ended, Reset, StreamItem, Waiting, follow
from storage.models.agents import AgentExecution, AgentStep, ExecutionStatus, ToolExecution
from storage.queries import executions
from storage.settings import StorageSettings

COLUMNS = ("id", "sessionId", "agent", "status", "phase", "iterations", "cost", "createdAt", "task")
_STEPS_AT_ONCE = 1000
_WIDEST_TASK = 60
"""Characters of a task in the table; JSON has all of them."""


async def listing(status: str | None, limit: int, as_json: bool) -> None:
    """Print executions, the newest first."""
    if status is not None and not _is_status(status):
        raise ArgumentError("--status", status, ", ".join(get_args(ExecutionStatus)))
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id, read_only=True) as db,
    ):
        rows = [_head(row) for row in await executions.newest(db, status=status, limit=limit)]
    print_rows(rows if as_json else [_line(row) for row in rows], COLUMNS, as_json=as_json)


async def show(execution_id: int, at_step: int | None, as_json: bool) -> None:
    """Print one execution with its plan, its steps and its tool calls; with `at_step` as it was after that step."""
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        view = await _view(local, execution_id, at_step)
        lonely = await nobody_for(local.database, view["agent"]) if view["status"] in executions.ACTIVE else None
    if lonely is not None:
        progress.print(lonely, markup=False, soft_wrap=True)
    if as_json:
        print_json(view)
    else:
        _print_story(view)


async def tail(execution_id: int, as_json: bool) -> None:
    """Print what happens in an execution until it ends."""
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        items = follow(local.database, local.user_id, execution_id)
        async with aclosing(items):
            if as_json:
                async for item in items:
                    _print_now(item.model_dump_json() + "\n")
                return
            screen = _Screen()
            try:
                async for item in items:
                    screen.show(item)
            finally:
                screen.end_line()


async def cancel(execution_id: int, as_json: bool) -> None:
    """Ask an execution to stop, and say on stderr what comes of it."""
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id) as db,
    ):
        asked = await perform(cancel_execution, await local.context(db, door="cli"), {"id": execution_id})
    print_record(asked, as_json=as_json)
    said = "was over already" if asked["isOver"] else "stops at its next step; a worker must be running to end it"
    progress.print(f"execution {execution_id} {said}", soft_wrap=True)


async def reply(execution_id: int, text: str, question: int | None, as_json: bool) -> None:
    """Answer a question."""
    given = {"id": execution_id, "text": text} | ({} if question is None else {"question": question})
    await _do(reply_execution, given, as_json)
    progress.print(f"execution {execution_id} goes on when a worker takes it up ('agency worker')", soft_wrap=True)


async def pause(execution_id: int, as_json: bool) -> None:
    """Hold an execution."""
    await _do(pause_execution, {"id": execution_id}, as_json)
    progress.print(f"go on with 'agency run resume {execution_id}'", soft_wrap=True)


async def resume(execution_id: int, as_json: bool) -> None:
    """Let a paused execution go on."""
    await _do(resume_execution, {"id": execution_id}, as_json)


async def fork(execution_id: int, at_step: int, text: str, as_json: bool) -> None:
    """Queue another execution that remembers the first one up to a step."""
    await _do(fork_execution, {"id": execution_id, "at_step": at_step, "task": text}, as_json)


async def _do(operation: Operation, given: Json, as_json: bool) -> None:
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id) as db,
    ):
        done = await perform(operation, await local.context(db, door="cli"), given)
    print_record(done, as_json=as_json)


def _print_now(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class _Screen:
    """Shows a stream as lines; the last one may still grow with the reply that is being said."""

    def __init__(self) -> None:
        self._live = ""
        """What of a reply is on the line that is open."""

    def show(self, item: StreamItem) -> None:
        match item:
            case Delta(seq=seq, text=text):
                _print_now(text if self._live else _head_of_line(seq, "assistant") + text)
                self._live += text
            case Committed(seq=seq, event=event):
                self._show_step(seq, event)
            case Reset():
                self._note("(cut off; it is being said anew)")
            case Waiting(waiting_for=waiting_for):
                self._note(f"(waits: {json.dumps(waiting_for, ensure_ascii=False)})")
            case Ended():
                pass  # the last step has said so
            case _ as unreachable:
                assert_never(unreachable)

    def end_line(self) -> None:
        """Finish the line that is open, if there is one."""
        if self._live:
            _print_now("\n")
            self._live = ""

    def _show_step(self, seq: int, event: Event) -> None:
        said = step_view(AgentStep(seq=seq, kind=event.kind, body=event.model_dump(mode="json")))["text"]
        if self._live and said.startswith(self._live):
            _print_now(said[len(self._live) :])
            self.end_line()
            return
        self.end_line()
        _print_now(f"{_head_of_line(seq, event.kind)}{said}\n")

    def _note(self, words: str) -> None:
        self.end_line()
        _print_now(f"{_head_of_line('', '')}{words}\n")


def _head_of_line(seq: int | str, kind: str) -> str:
    return f"{seq:>4}  {kind:<11}  "


def _is_status(value: str) -> TypeGuard[ExecutionStatus]:
    return value in get_args(ExecutionStatus)


_SHOWN = ("waitingFor", "pausedAt", "runAfter", "limits", "parent", "children", "scheduled", "forkedFrom")
_ENDS = ("result", "error", "steps")


async def _view(local: Local, execution_id: int, at_step: int | None) -> Json:
    async with local.database.begin(local.user_id, read_only=True) as db:
        seen = await _whole(await local.context(db, door="cli"), execution_id, at_step)
        row = await executions.execution(db, execution_id)
        # The rows of the calls say how they are now, not how they were.
        calls = [_call(call) for call in await executions.tool_executions(db, execution_id) if at_step is None]
    head = _head(row) | {"plan": seen["plan"], "phases": row.phases}
    if at_step is not None:
        head |= {"atStep": at_step, "status": seen["status"], "phase": seen["phase"], "phases": []}
    return head | {name: seen[name] for name in (*_SHOWN, *_ENDS)} | {"toolCalls": calls}


async def _whole(ctx: Context, execution_id: int, at_step: int | None) -> Json:
    """Return where an execution stands or stood, with all its steps."""
    given = {"id": execution_id, "limit": _STEPS_AT_ONCE} | ({} if at_step is None else {"at_step": at_step})
    seen = await perform(execution_status, ctx, given)
    newer: list[Json] = seen["steps"]
    while len(newer) == _STEPS_AT_ONCE:
        newer = (await perform(execution_status, ctx, given | {"after_step": newer[-1]["step"]}))["steps"]
        seen["steps"] += newer
    return seen


def _head(row: AgentExecution) -> Json:
    is_planned = row.current_phase_index < len(row.phases)
    return {
        "id": row.id,
        "sessionId": row.session_id,
        "agent": row.agent_name,
        "status": row.status,
        "phase": row.phases[row.current_phase_index]["name"] if is_planned else None,
        "task": row.task_description,
        "iterations": row.iterations,
        "tokensIn": row.tokens_in,
        "tokensOut": row.tokens_out,
        "costMicros": row.cost_micros,
        "durationMs": row.duration_ms,
        "createdAt": row.created_at.isoformat(timespec="seconds"),
        "cancelRequested": row.cancel_requested_at is not None,
    }


def _call(call: ToolExecution) -> Json:
    return {
        "tool": call.tool_name,
        "state": call.state,
        "arguments": call.parameters,
        "result": call.result,
        "error": call.error,
        "durationMs": call.duration_ms,
    }


def _line(head: Json) -> Json:
    words = " ".join(head["task"].split())
    task = words if len(words) <= _WIDEST_TASK else words[: _WIDEST_TASK - 1] + "…"
    return head | {"task": task, "cost": _dollars(head["costMicros"])}


def _dollars(micros: int | None) -> str:
    return "unknown" if micros is None else f"${micros / 1_000_000:.6f}"


def _print_story(view: Json) -> None:
    phases = ", ".join(f"{phase['name']} ({phase['status']})" for phase in view["phases"])
    head = {name: view[name] for name in ("id", "sessionId", "agent", "status", "task")}
    spent = {
        "iterations": view["iterations"],
        "tokens": f"{view['tokensIn']} in, {view['tokensOut']} out",
        "cost": _dollars(view["costMicros"]),
    }
    goal = view["plan"]["goal"] if view["plan"] else None
    names = ("atStep", *_SHOWN, "result", "error")
    ends = {name: _in_a_line(name, view[name]) for name in names if view.get(name)}
    print_record(head | {"plan": goal, "phase": view["phase"], "phases": phases} | spent | ends, as_json=False)
    if view["steps"]:
        sys.stdout.write("\n")
        print_rows(view["steps"], ("step", "kind", "text"), as_json=False)
    if view["toolCalls"]:
        sys.stdout.write("\n")
        calls = [call | {"result": _shown(call)} for call in view["toolCalls"]]
        print_rows(calls, ("tool", "state", "durationMs", "result"), as_json=False)


def _in_a_line(name: str, value: Any) -> str:
    """Return a field of an execution as a person reads it."""
    if name == "waitingFor":
        return "; ".join(_asked(one) for one in value["asked"]) or value["kind"]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _asked(one: Json) -> str:
    match one:
        case {"kind": "answer", "question": question, "how": how}:
            return f"an answer: {question} ({how})"
        case {"kind": "approval", "tool": tool, "payload": payload, "how": how}:
            return f"approval {one['id']}: {tool}({json.dumps(payload, ensure_ascii=False)}) ({how})"
        case _:
            return f"{one['kind']} {one['id']}"


def _shown(call: Json) -> str | None:
    """Return what a call came to, in one cell."""
    return call["error"] or (None if call["result"] is None else json.dumps(call["result"], ensure_ascii=False))
