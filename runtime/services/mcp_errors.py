"""What can go wrong between an agent and a tool of another MCP server.

ToolError (runtime.errors)
├── ToolServerUnavailableError   its program cannot start, or nothing answers; nothing was called
├── ToolDefinitionChangedError   the tool is not what a person accepted; nothing was called
└── ToolServerRefusedError       the server answered that the call failed
RuntimeFault (runtime.errors)
└── OutcomeUnknownError          the call went out, and nobody can tell what became of it
"""

from collections.abc import Sequence

from runtime.errors import RuntimeFault, ToolError


class ToolServerUnavailableError(ToolError):
    """Nothing answers, so nothing was called."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"the tool server {server!r} cannot be used: {reason}; nothing was called")
        self.server = server
        self.reason = reason


class ToolDefinitionChangedError(ToolError):
    """The tool is not what a person accepted."""

    def __init__(self, server: str, tool: str, fields: Sequence[str]) -> None:
        super().__init__(
            f"tool {tool!r} of {server!r} is not what a person accepted ({', '.join(fields)} changed); nothing was "
            f"called; a person can look at the change and accept it with 'agency tools pin {server}'"
        )
        self.server = server
        self.tool = tool
        self.fields = tuple(fields)


class ToolServerRefusedError(ToolError):
    """The server answered that the call failed; its words are not ours."""

    def __init__(self, server: str, words: str) -> None:
        super().__init__(f"{server} says: {words}" if words else f"{server} says that it failed, and not why")
        self.server = server
        self.words = words


class OutcomeUnknownError(RuntimeFault, TimeoutError):
    """The call went out and no answer can be had, so its effect may or may not have taken place.

    A TimeoutError too: that is how `runtime.tools.outside` knows an outcome that nobody knows.
    """

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"{server}: {reason}")
        self.server = server
        self.reason = reason
