"""An MCP server on its pipes with two tools, to be added with `agency tools add`."""

from mcp.server import MCPServer
from mcp_types import ToolAnnotations

server = MCPServer("shop")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def opening_hours(day: str) -> str:
    """Tell when the shop is open on a day."""
    return f"{day}: 9 to 17"


@server.tool()
async def order(what: str, count: int = 1) -> str:
    """Order something from the shop. It is delivered the next day."""
    return f"ordered: {count} × {what}"


server.run()
