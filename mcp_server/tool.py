"""The SDK's tool, held to our contract: unknown arguments are refused, and every refusal reads the same.

The SDK ignores unknown arguments, puts "Error executing tool ..." in front of each refusal and answers a wrong argument
with pydantic's report. A middleware sees requests before they have a tool and answers after they are serialised, so the
contract is kept where the SDK runs the tool.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp.server.context import LifespanContextT, RequestT
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import ValidationError

from mcp_server.errors import BadArgumentsError, explained, reported
from mcp_server.schema import input_schema, output_schema

ToolFunction = Callable[..., Awaitable[CallToolResult]]


class ContractTool(Tool):
    """A tool whose every failure reads `code: what failed. what to do next`."""

    async def run(
        self,
        arguments: dict[str, Any],
        context: Context[LifespanContextT, RequestT],
        convert_result: bool = False,  # noqa: FBT001, FBT002 -- the SDK's signature
    ) -> Any:
        """Run the tool.

        Raises:
            ToolError: the arguments do not fit, or the tool refused; its text is for the client.
            UnexpectedToolError: a fault of ours; its cause is for the log.
        """
        legal = list(self.parameters["properties"])
        if unknown := [name for name in arguments if name not in legal]:
            raise self._bad([f"unknown argument {name[:80]!r}; legal: {', '.join(legal)}" for name in unknown])
        try:
            return await super().run(arguments, context, convert_result=convert_result)
        except UnexpectedToolError as crash:
            text = f"internal: {self.name} failed for a reason of its own. Look whether it took effect, tell the user."
            raise UnexpectedToolError(text) from crash.__cause__
        except ToolError as refusal:
            if isinstance(refusal.__cause__, ValidationError):
                raise self._bad(_problems(refusal.__cause__)) from None
            raise ToolError(str(refusal.__cause__)) from None

    def _bad(self, problems: list[str]) -> ToolError:
        return ToolError(explained(BadArgumentsError(self.name, problems)))


def contract_tool(function: ToolFunction, *, title: str, annotations: ToolAnnotations) -> ContractTool:
    """Return the tool that `function` is: its name, and its docstring as what a model reads."""
    made = ContractTool.from_function(
        reported(function),
        title=title,
        annotations=annotations,
        description=" ".join((inspect.getdoc(function) or "").split()),
    )
    # `from_function` is typed as the base class, and builds the class that it is called on.
    assert isinstance(made, ContractTool)  # noqa: S101 -- see above
    made.parameters = input_schema(made.parameters)
    if made.fn_metadata.output_schema is not None:
        made.fn_metadata.output_schema = output_schema(made.fn_metadata.output_schema)
    return made


def _problems(error: ValidationError) -> list[str]:
    """Say where and what, without the values: they are the caller's data."""
    return [_problem(detail) for detail in error.errors(include_url=False, include_context=False, include_input=False)]


def _problem(detail: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    what = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {what[:1].lower()}{what[1:]}"
