"""The MCP door: tools, resources and their contracts. Business rules are operations, below."""

__all__: list[str] = []
