"""Prompts: jobs that a person starts by name."""

from typing import Annotated

from mcp.server.mcpserver import MCPServer
from pydantic import Field

from mcp_server.app import AppSource


def register_prompts(server: MCPServer[AppSource]) -> None:
    """Add all prompts."""
    server.prompt(title="Triage the board")(triage_board)
    server.prompt(title="Debug an execution")(debug_execution)


def triage_board() -> str:
    """Go through the open cards and propose what to do with each."""
    return (
        "Look at the board with task_board. For each open card say in one line whether its priority, due date and "
        "column fit, what is missing, and what should happen next; group them by urgency. Propose moves, and make them "
        "with task_move only after I agree."
    )


def debug_execution(execution_id: Annotated[str, Field(description="Id of the execution.")]) -> str:
    """Find out why an execution ended as it did."""
    return (
        f"Read execution {execution_id} with agent_run_status(id={execution_id}) and its tool calls with "
        f"entity_find(entity='toolExecutions', where=[{{'field': 'executionId', 'value': {execution_id}}}]). Say what "
        "it was asked, what it did, where it went wrong and why, and what would have to change."
    )
