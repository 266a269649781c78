"""The tools, one module per domain. They do not import each other; `mcp_server.surface` is the table of all."""

__all__: list[str] = []
