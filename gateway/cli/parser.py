"""Every command of `agency`: its name, its options, its help. Nothing heavy is imported before a command runs.

Importing the database layer or a model's client costs up to seconds, and `agency --help` should not.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="agency",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
db_app = typer.Typer(help="The database: start, stop, upgrade, look at.", no_args_is_help=True)
run_app = typer.Typer(help="What agents are doing and have done.", no_args_is_help=True)
key_app = typer.Typer(help="API keys for programs.", no_args_is_help=True)
user_app = typer.Typer(help="Users; one user is one tenant.", no_args_is_help=True)
task_app = typer.Typer(help="Cards on the board.", no_args_is_help=True)
webhook_app = typer.Typer(help="Doors for chat channels.", no_args_is_help=True)
agent_app = typer.Typer(help="Agents that are data, which every worker can run.", no_args_is_help=True)
approval_app = typer.Typer(help="Calls that agents may make only when you allow them.", no_args_is_help=True)
tools_app = typer.Typer(help="Other MCP servers whose tools your agents may use.", no_args_is_help=True)
for name, group in (
    ("db", db_app),
    ("key", key_app),
    ("user", user_app),
    ("task", task_app),
    ("run", run_app),
    ("approval", approval_app),
    ("webhook", webhook_app),
    ("tools", tools_app),
    ("agent", agent_app),
):
    app.add_typer(group, name=name)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]
ExecutionId = Annotated[int, typer.Argument(metavar="ID", help="Id of the execution.", min=1, max=2**63 - 1)]
Apps = Annotated[
    list[str] | None,
    typer.Option("--app", metavar="MODULE", help="Run the agents and tools of this module too; repeat. AGENCY_APPS."),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
AgentName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the agent.")]
ApprovalId = Annotated[int, typer.Argument(metavar="ID", help="Id of the approval.", min=1, max=2**63 - 1)]
Person = Annotated[
    str | None, typer.Option("--as", metavar="USER", help="Who decides; needed where nobody can be asked.")
]
ServerName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the tool server.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agency {version('agency-runtime')}")
        raise typer.Exit


@app.callback()
def agency(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Conversational agents with an MCP server, on Postgres."""


@app.command()
def demo(
    messages: Annotated[Path | None, typer.Option(help="File with messages of your own, one per line.")] = None,
    port: Port = 0,
    json: Json = False,
) -> None:
    """Run the main job end to end: message in, card on the board, reply out, swarm, MCP; then verify the rows."""
    from gateway.cli import demo as command
    from gateway.cli.process import run

    run(command.demo, messages, port, json)


@app.command()
def doctor(json: Json = False) -> None:
    """Check this installation and say what to do about what is wrong."""
    from gateway.cli import doctor as command
    from gateway.cli.process import run

    run(command.doctor, json)


@app.command()
def chat(text: Annotated[str, typer.Argument(help="What to say to the assistant.")], json: Json = False) -> None:
    """Say something to the assistant and print its answer."""
    from gateway.cli import chat as command
    from gateway.cli.process import run

    run(command.chat, text, json)


@app.command()
def serve(host: Host = "127.0.0.1", port: Port = 8700, apps: Apps = None) -> None:
    """Serve the HTTP door for chat channels, with a worker inside."""
    from gateway.cli import serve as command
    from gateway.cli.process import run

    run(command.serve, host, port, apps or [])


@app.command()
def worker(
    concurrency: Annotated[int, typer.Option(help="Jobs at the same time.", min=1, max=1000)] = 10,
    apps: Apps = None,
) -> None:
    """Work on jobs until stopped. Start as many as you like, on as many machines."""
    from gateway.cli import serve as command
    from gateway.cli.process import run

    run(command.worker, concurrency, apps or [])


@app.command()
def mcp(
    toolsets: Annotated[str | None, typer.Option(help="Comma-separated toolsets; default: all.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer nothing that changes anything.")] = False,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Do not work on jobs in this process.")] = False,
    apps: Apps = None,
) -> None:
    """Serve MCP on stdin and stdout, for Claude Desktop and other clients."""
    from gateway.cli import mcp as command
    from gateway.cli.process import run

    run(command.mcp, toolsets, read_only, no_worker, apps or [])


@db_app.command("up")
def db_up() -> None:
    """Start the embedded server and keep it running until `agency db down`."""
    from gateway.cli import db as command
    from gateway.cli.process import run

    run(command.up)


@db_app.command("down")
def db_down() -> None:
    """Let the embedded server stop when nobody uses it any more."""
    from gateway.cli import db as command
    from gateway.cli.process import run

    run(command.down)


@db_app.command("status")
def db_status(json: Json = False) -> None:
    """Show where the database is and how its schema compares with this release."""
    from gateway.cli import db as command
    from gateway.cli.process import run

    run(command.status, json)


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the schema to this release."""
    from gateway.cli import db as command
    from gateway.cli.process import run

    run(command.upgrade)


@db_app.command("check")
def db_check() -> None:
    """Exit 0 when the schema and the roles are as this release needs them."""
    from gateway.cli import db as command
    from gateway.cli.process import run

    run(command.check)


@db_app.command("url")
def db_url() -> None:
    """Print an address that psql and asyncpg accept; on the embedded server, run `agency db up` first."""
    from gateway.cli import db as command
    from gateway.cli.process import run

    run(command.url)


@db_app.command("backup")
def db_backup(
    file: Annotated[Path, typer.Argument(help="Where to; FILE.json beside it says what is in it.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    json: Json = False,
) -> None:
    """Write the whole database to a file, with every row counted; the keys of its secrets are not in it."""
    from gateway.cli import backup as command
    from gateway.cli.process import run

    run(command.backup, file, force, json)


@db_app.command("restore")
def db_restore(
    file: Annotated[Path, typer.Argument(help="A file from `agency db backup`, with its FILE.json.")],
    force: Annotated[bool, typer.Option("--force", help="Replace everything in the schema public.")] = False,
    json: Json = False,
) -> None:
    """Bring a backup into the database, whole or not at all; stop gateways and workers first."""
    from gateway.cli import backup as command
    from gateway.cli.process import run

    run(command.restore, file, force, json)


@user_app.command("add")
def user_add(
    username: Annotated[str, typer.Argument(help="Name to act under; stored in lower case.")],
    email: Annotated[str, typer.Option(help="Address; stored in lower case.")],
    password: Annotated[
        bool, typer.Option("--password", help="Ask for a password; without one the user cannot log in.")
    ] = False,
    json: Json = False,
) -> None:
    """Add a user."""
    from gateway.cli import identity as command
    from gateway.cli.process import run

    secret: str | None = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if password else None
    run(command.add_user, username, email, secret, json)


@key_app.command("create")
def key_create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="A permission; repeat for several.")] = None,
    days: Annotated[int | None, typer.Option(help="Days until it expires; default: never.", min=1, max=36500)] = None,
    json: Json = False,
) -> None:
    """Make an API key and print it, once."""
    from gateway.cli import identity as command
    from gateway.cli.process import run

    run(command.create_key, name, scope or [], days, json)


@key_app.command("list")
def key_list(json: Json = False) -> None:
    """List API keys; the keys themselves are not stored."""
    from gateway.cli import identity as command
    from gateway.cli.process import run

    run(command.list_keys, json)


@key_app.command("revoke")
def key_revoke(prefix: Annotated[str, typer.Argument(help="The key's prefix, e.g. ak_2f9c...")]) -> None:
    """Make an API key useless, at once."""
    from gateway.cli import identity as command
    from gateway.cli.process import run

    run(command.revoke_key, prefix)


@task_app.command("list")
def task_list(
    text: Annotated[str | None, typer.Option(help="Words in title or description.")] = None,
    status: Annotated[str | None, typer.Option(help="Only this column.")] = None,
    priority: Annotated[str | None, typer.Option(help="Only this priority.")] = None,
    client: Annotated[str | None, typer.Option(help="Only this client.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many.", min=1, max=100)] = 20,
    json: Json = False,
) -> None:
    """List cards: open ones first, then by due date."""
    from gateway.cli import board as command
    from gateway.cli.process import run

    given = {"text": text, "status": status, "priority": priority, "client": client, "limit": limit}
    run(command.perform_on_board, "find_tasks", given, json)


@task_app.command("add")
def task_add(
    title: Annotated[str, typer.Argument(help="What is to be done.")],
    priority: Annotated[str, typer.Option(help="low, medium, high or urgent.")] = "medium",
    due: Annotated[str | None, typer.Option(help="YYYY-MM-DD or an ISO date-time.")] = None,
    client: Annotated[str | None, typer.Option(help="Name of the client.")] = None,
    description: Annotated[str | None, typer.Option(help="Details.")] = None,
    json: Json = False,
) -> None:
    """Put a card on the board."""
    from gateway.cli import board as command
    from gateway.cli.process import run

    given = {"title": title, "priority": priority, "due": due, "client": client, "description": description}
    run(command.perform_on_board, "create_task", given, json)


@task_app.command("move")
def task_move(
    card: Annotated[int, typer.Argument(help="Id of the card.")],
    status: Annotated[str, typer.Argument(help="backlog, todo, in_progress, review or done.")],
    json: Json = False,
) -> None:
    """Move a card to another column."""
    from gateway.cli import board as command
    from gateway.cli.process import run

    run(command.perform_on_board, "update_task", {"id": card, "status": status}, json)


@task_app.command("show")
def task_show(card: Annotated[int, typer.Argument(help="Id of the card.")], json: Json = False) -> None:
    """Show one card."""
    from gateway.cli import board as command
    from gateway.cli.process import run

    run(command.show, card, json)


@run_app.command("list")
def run_list(
    status: Annotated[str | None, typer.Option(help="Only this status, e.g. failed.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many.", min=1, max=100)] = 20,
    json: Json = False,
) -> None:
    """List executions, the newest first."""
    from gateway.cli import runs as command
    from gateway.cli.process import run

    run(command.listing, status, limit, json)


@run_app.command("show")
def run_show(
    execution: ExecutionId,
    at: Annotated[int | None, typer.Option("--at", metavar="STEP", help="As it was after this step.", min=1)] = None,
    json: Json = False,
) -> None:
    """Show one execution: its plan, every step, every tool call, its cost, what it waits for."""
    from gateway.cli import runs as command
    from gateway.cli.process import run

    run(command.show, execution, at, json)


@run_app.command("tail")
def run_tail(execution: ExecutionId, json: Json = False) -> None:
    """Watch one execution until it ends: every step, and replies while they are said; --json prints one item a line."""
    from gateway.cli import runs as command
    from gateway.cli.process import run

    run(command.tail, execution, json)


@run_app.command("cancel")
def run_cancel(execution: ExecutionId, json: Json = False) -> None:
    """Ask an execution to stop at its next step; what it has done stays done."""
    from gateway.cli import runs as command
    from gateway.cli.process import run

    run(command.cancel, execution, json)


@run_app.command("reply")
def run_reply(
    execution: ExecutionId,
    text: Annotated[str, typer.Argument(help="Your answer; the agent reads it.")],
    question: Annotated[
        int | None, typer.Option(metavar="CARD", help="Which question, when several are open.", min=1)
    ] = None,
    json: Json = False,
) -> None:
    """Answer the question that an execution waits for."""
    from gateway.cli import runs as command
    from gateway.cli.process import run

    run(command.reply, execution, text, question, json)


@run_app.command("pause")
def run_pause(execution: ExecutionId, json: Json = False) -> None:
    """Hold one execution from its next step on, until you resume it."""
    from gateway.cli import runs as command
    from gateway.cli.process import run

    run(command.pause, execution, json)


@run_app.command("resume")
def run_resume(execution: ExecutionId, json: Json = False) -> None:
    """Let a paused execution go on."""
    from gateway.cli import runs as command
    from gateway.cli.process import run

    run(command.resume, execution, json)


@run_app.command("fork")
def run_fork(
    execution: ExecutionId,
    text: Annotated[str, typer.Argument(help="What to do instead.")],
    at: Annotated[int, typer.Option("--at", metavar="STEP", help="The last step that is remembered.", min=1)],
    json: Json = False,
) -> None:
    """Try again from a step, in a session of its own; the first execution stays as it is."""
    from gateway.cli import runs as command
    from gateway.cli.process import run

    run(command.fork, execution, at, text, json)


@approval_app.command("list")
def approval_list(
    status: Annotated[str | None, typer.Option(help="pending, granted, denied, expired, used or all.")] = "pending",
    json: Json = False,
) -> None:
    """List the calls that wait for your word, the oldest first."""
    from gateway.cli import approvals as command
    from gateway.cli.process import run

    run(command.listing, status, json)


@approval_app.command("show")
def approval_show(approval: ApprovalId, json: Json = False) -> None:
    """Show what exactly would happen: the tool, its arguments, whom it reaches, why you are asked."""
    from gateway.cli import approvals as command
    from gateway.cli.process import run

    run(command.show, approval, json)


@approval_app.command("grant")
def approval_grant(
    approval: ApprovalId,
    person: Person = None,
    note: Annotated[str | None, typer.Option(help="For the records.")] = None,
    json: Json = False,
) -> None:
    """Let the call run, once."""
    from gateway.cli import approvals as command
    from gateway.cli.process import run

    run(command.decide, "grant", approval, person, note, json)


@approval_app.command("deny")
def approval_deny(
    approval: ApprovalId,
    person: Person = None,
    note: Annotated[str | None, typer.Option(help="Why; the agent reads it.")] = None,
    json: Json = False,
) -> None:
    """Refuse the call; the agent goes on without it."""
    from gateway.cli import approvals as command
    from gateway.cli.process import run

    run(command.decide, "deny", approval, person, note, json)


@webhook_app.command("add")
def webhook_add(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    reply_url: Annotated[str | None, typer.Option(help="Where replies are posted to.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The bot's voice.")] = None,
    draft: Annotated[bool, typer.Option("--draft", help="Write replies as drafts instead of sending them.")] = False,
    json: Json = False,
) -> None:
    """Connect a chat that speaks Standard Webhooks; prints its path and secrets, once."""
    from gateway.cli import webhook as command
    from gateway.cli.process import run

    run(command.add, name, reply_url, prompt, draft, json)


@webhook_app.command("list")
def webhook_list(json: Json = False) -> None:
    """List webhooks and how many messages each has taken."""
    from gateway.cli import webhook as command
    from gateway.cli.process import run

    run(command.listing, json)


@tools_app.command("add")
def tools_add(
    name: Annotated[str, typer.Argument(help="What agents call it: lower-case letters, digits, - and _.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND ARG...]", help="A program that speaks MCP on its pipes."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Address of a server that speaks streamable HTTP.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="Hand this variable of your environment to the program, sealed; repeat.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="NAME=VARIABLE: send the variable's value as this header, sealed; repeat.")
    ] = None,
    secrets_stdin: Annotated[
        bool, typer.Option("--secrets-stdin", help="Read more of them from stdin, as a JSON object.")
    ] = False,
    json: Json = False,
) -> None:
    """Connect another MCP server and accept the tools it has now. Every worker will run COMMAND."""
    from gateway.cli import tool_servers as server_command
    from gateway.cli.process import run

    run(server_command.add, name, command or [], url, (env or [], header or [], secrets_stdin), json)


@tools_app.command("list")
def tools_list(json: Json = False) -> None:
    """List the servers."""
    from gateway.cli import tool_servers as command
    from gateway.cli.process import run

    run(command.listing, json)


@tools_app.command("show")
def tools_show(name: ServerName, json: Json = False) -> None:
    """Show what was accepted of a server's tools, and under which names agents have them."""
    from gateway.cli import tool_servers as command
    from gateway.cli.process import run

    run(command.show, name, json)


@tools_app.command("pin")
def tools_pin(
    name: ServerName,
    yes: Annotated[bool, typer.Option("--yes", help="Accept without being asked.")] = False,
    json: Json = False,
) -> None:
    """Show how a server's tools differ from what was accepted, and accept them as they are now."""
    from gateway.cli import tool_servers as command
    from gateway.cli.process import run

    run(command.pin, name, yes, json)


@tools_app.command("remove")
def tools_remove(name: ServerName) -> None:
    """Forget a server, its secret and its tools."""
    from gateway.cli import tool_servers as command
    from gateway.cli.process import run

    run(command.remove, name)


@agent_app.command("list")
def agent_list(json: Json = False) -> None:
    """List the agents that may be given work: built-in ones, yours, and those of living workers."""
    from gateway.cli import agents as command
    from gateway.cli.process import run

    run(command.listing, json)


@agent_app.command("show")
def agent_show(name: AgentName, json: Json = False) -> None:
    """Show one agent that is data, or built in."""
    from gateway.cli import agents as command
    from gateway.cli.process import run

    run(command.show, name, json)


@agent_app.command("define")
def agent_define(
    name: AgentName,
    file: Annotated[
        Path | None, typer.Option(help="TOML or JSON: instructions, model, tools, limits, outputSchema; - is stdin.")
    ] = None,
    instructions: Annotated[str | None, typer.Option(help="Who it is and what it is to do.")] = None,
    model: Annotated[str | None, typer.Option(help="The model; default: the one of the settings.")] = None,
    tool: Annotated[list[str] | None, typer.Option(help="A tool by name; repeat for several.")] = None,
    apps: Apps = None,
    json: Json = False,
) -> None:
    """Define an agent, or change one: what is given, by options over the file, is what it is from then on."""
    from gateway.cli import agents as command
    from gateway.cli.process import run

    given = {"instructions": instructions, "model": model, "tools": tool}
    run(command.define, name, file, given, apps or [], json)


@agent_app.command("remove")
def agent_remove(name: AgentName) -> None:
    """Forget an agent that is data; what it has done stays."""
    from gateway.cli import agents as command
    from gateway.cli.process import run

    run(command.remove, name)
