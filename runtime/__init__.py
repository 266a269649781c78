"""One agent at work: events, decisions, steps, tools and models, on a journal in Postgres.

`from runtime import Agent, Runtime, tool` is the public interface; it is loaded when it is asked for, because the
database layer takes most of a second to import.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.api import Agent, Run, Runtime, StillRunningError, Waiting
    from runtime.decide import Limits
    from runtime.operation import Context
    from runtime.tools import ExternalContext, tool

__all__ = [
    "Agent",
    "Context",
    "ExternalContext",
    "Limits",
    "Run",
    "Runtime",
    "StillRunningError",
    "Waiting",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        message = f"module 'runtime' has no attribute {name!r}"
        raise AttributeError(message)
    from runtime import api, decide, operation, tools

    return next(getattr(module, name) for module in (api, decide, operation, tools) if hasattr(module, name))
