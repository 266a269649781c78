"""What a program has of its own: agents and tools under the names that other programs find them by.

An object at the top level of a module is named `module:qualname`, wherever it was imported to. Whatever has no such
name (what `__main__` or a function defines) belongs to the process that made it.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from runtime.agents import AGENTS, Agent, UnknownAgentError, agent_named
from runtime.errors import DuplicateNameError, UnknownToolError
from runtime.names import RESERVED
from runtime.operation import Operation
from runtime.toolbox import OPERATIONS, operation_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """The agents and tools of one program, beside the built-in ones."""

    agents: Mapping[str, Agent] = field(default_factory=dict[str, Agent])
    tools: Mapping[str, Operation] = field(default_factory=dict[str, Operation])
    """By `module:qualname`; a built-in tool has no colon in its name, so that nothing can take its place."""

    def agent_named(self, name: str) -> Agent:
        """Return an agent of this program or a built-in one.

        Raises:
            UnknownAgentError: there is neither.
        """
        if name in self.agents:
            return self.agents[name]
        try:
            return agent_named(name)
        except UnknownAgentError:
            raise UnknownAgentError(name, known=[*AGENTS, *self.agents]) from None

    def tool_named(self, name: str) -> Operation:
        """Return a tool of this program or a built-in one.

        Raises:
            UnknownToolError: there is neither.
        """
        if name in self.tools:
            return self.tools[name]
        try:
            return operation_named(name)
        except UnknownToolError:
            raise UnknownToolError(name, [*OPERATIONS, *self.tools]) from None


NOTHING = Registry()
"""The built-in agents and tools only."""


def name_in_module(found: object, module: str) -> str | None:
    """Return `module:qualname` of what is at the top level of this module; None: no other program could find it."""
    if module in RESERVED or module not in sys.modules:
        return None
    names = (name for name, value in vars(sys.modules[module]).items() if value is found)
    first = next(names, None)
    return None if first is None else f"{module}:{first}"


def origin(tool: Operation) -> str:
    """Return where a tool's function is defined: `module:qualname`."""
    function: Callable[..., Any] = tool.function
    if isinstance(function, FunctionType):
        return f"{function.__module__}:{function.__qualname__}"
    return f"{type(function).__module__}:{tool.name}"


def own_tools(tools: Iterable[Operation | str]) -> dict[str, Operation]:
    """Return those that are no built-in ones, by the names that agents give them.

    Raises:
        DuplicateNameError: two of them would have one name.
    """
    found: dict[str, Operation] = {}
    for tool in tools:
        if isinstance(tool, str) or OPERATIONS.get(tool.name) is tool:
            continue
        name = origin(tool)
        if found.setdefault(name, tool) is not tool:
            raise DuplicateNameError("tool", tool.name, name, f"{name}, made a second time")
    return found


def tool_names(tools: Sequence[Operation | str]) -> tuple[str, ...]:
    """Return what one agent's tools are called in its definition; a model calls each by the function's own name.

    Raises:
        DuplicateNameError: a model could not tell two of them apart.
    """
    names: dict[str, str] = {}
    for tool in tools:
        shown = tool.rpartition(":")[2] if isinstance(tool, str) else tool.name
        built_in = isinstance(tool, str) or OPERATIONS.get(tool.name) is tool
        name = tool if isinstance(tool, str) else tool.name if built_in else origin(tool)
        if names.setdefault(shown, name) != name:
            raise DuplicateNameError("tool", shown, names[shown], name)
    return tuple(names.values())
