"""The factory of the MCP server; both transports, and the conformance fixtures, serve what it makes."""

from collections.abc import Collection
from importlib.metadata import version

from mcp.server.mcpserver import MCPServer

from mcp_server.app import AppSource, hand_on
from mcp_server.guide import INSTRUCTIONS
from mcp_server.prompts import register_prompts
from mcp_server.resources import register_resources
from mcp_server.surface import chosen_tools


def build_server(
    source: AppSource, *, toolsets: Collection[str] | None = None, read_only: bool = False
) -> MCPServer[AppSource]:
    """Return a server over the system that `source` gives; nothing is opened by it.

    `toolsets`: names from `mcp_server.surface.TOOLSETS`; None: all. `read_only` leaves only tools that read, and those
    always read in READ ONLY transactions.

    Raises:
        UnknownToolsetError: no toolset has this name.
    """
    server: MCPServer[AppSource] = MCPServer(
        "agency",
        title="Agency",
        version=version("agency-runtime"),
        instructions=INSTRUCTIONS,
        tools=list(chosen_tools(toolsets, read_only=read_only)),
        lifespan=lambda _: hand_on(source),
        # Nothing tells of changes yet, so none may be subscribed to.
        subscriptions=False,
        log_level="WARNING",
    )
    register_resources(server, source)
    register_prompts(server)
    return server
