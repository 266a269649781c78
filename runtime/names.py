"""What names of agents and tools say about who can run them. Pure.

`assistant` is built in or a row, `shop.agents:concierge` is at the top level of a module, `python:concierge` belongs to
the process that made it, `shop/order` is a tool of another MCP server.
"""

import re

PROCESS = "python:"
"""Begins the name of an agent that only the process that made it can run."""

RESERVED = frozenset({"__main__", "python", "agent"})
"""Modules that no worker loads: their names would be those of agents that belong to a process or to a swarm."""

_OF_A_MODULE = re.compile(r"(?!\d)\w+(\.(?!\d)\w+)*:(?!\d)\w+")


def is_of_a_program(name: str) -> bool:
    """Tell whether a name, an agent's or that of a tool, means code that not every worker has."""
    return ":" in name and "/" not in name


def is_of_a_module(name: str) -> bool:
    """Tell whether any program could have an agent of this name, by importing the module."""
    return _OF_A_MODULE.fullmatch(name) is not None and re.split("[.:]", name)[0] not in RESERVED
