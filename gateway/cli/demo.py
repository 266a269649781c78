"""`agency demo`: the main job, with its verified table at the end."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from gateway.cli.output import print_json, progress
from gateway.demo.job import Report, run_demo
from gateway.demo.script import CONVERSATION, read_messages
from runtime.local import open_local
from runtime.settings import RuntimeSettings
from storage.settings import StorageSettings

WHERE_TO_LOOK = {
    "inboundMessages": "what came in, with its raw body",
    "botConversations": "who talks to the bot",
    "agentExecutions": "what the agent did about it",
    "agentSteps": "every word and call of it, append-only",
    "toolExecutions": "every tool call and its result",
    "agencyTasks": "agency task list",
    "outboundMessages": "what went out, and whether it arrived",
    "cf_memory_store": "what is remembered",
    "cf_tasks": "what the swarm did",
    "auditLogs": "who changed what",
}


async def demo(messages: Path | None, port: int, as_json: bool) -> None:
    """Run the demo and print its table or its JSON."""
    lines = CONVERSATION if messages is None else read_messages(messages)
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        progress.print(f"{local.address.label}, {local.model.name} model")
        report = await run_demo(local, lines, port, lambda line: progress.print(line, markup=False, soft_wrap=True))
    if as_json:
        print_json(report.as_json())
    else:
        _print_report(report)


def _print_report(report: Report) -> None:
    console = Console(highlight=False)
    cards = {card["id"]: card for story in report.messages for card in story["cards"]}
    shown = Table("card", "title", "priority", "due", "client", title="Cards", title_justify="left", box=None)
    for card in cards.values():
        shown.add_row(str(card["id"]), card["title"], card["priority"], card["dueDate"] or "", card["client"] or "")
    console.print(shown)
    rows = Table("table", "rows", "what is there", title="\nIn Postgres", title_justify="left", box=None)
    for name, count in report.rows.items():
        rows.add_row(name, str(count), WHERE_TO_LOOK.get(name, ""))
    console.print(rows)
    console.print(
        f"\nverified in {report.seconds:.1f} s: every step was read back from Postgres ({report.model} model)"
    )
