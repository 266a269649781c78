"""What an agent and a client may both do. One function each, with three doors: agent tool, MCP tool, command."""

__all__: list[str] = []
