"""Programs that a worker can run: modules named by `--app` or AGENCY_APPS, and the agents and tools found in them."""

import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType

from runtime.agents import Agent as PlainAgent
from runtime.api import Agent, plain
from runtime.errors import AppError
from runtime.names import RESERVED
from runtime.operation import Operation
from runtime.registry import NOTHING, Registry, name_in_module, own_tools


def module_names(text: str | None) -> list[str]:
    """Return the modules that a comma-separated setting names, each once."""
    return list(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


def load_apps(modules: Sequence[str]) -> Registry:
    """Import these modules and return what they have at their top level, or have imported to it.

    Raises:
        AppError: a module cannot be imported, or has neither agents nor tools.
        DuplicateNameError: two agents or tools would have one name.
    """
    if not modules:
        return NOTHING
    agents: dict[str, PlainAgent] = {}
    tools: list[Operation] = []
    for name in modules:
        module = _imported(name)
        found = dict(_agents_of(module))
        loose = [value for value in vars(module).values() if isinstance(value, Operation)]
        if not found and not own_tools(loose):
            reason = "it has neither an Agent nor a @tool at its top level; name the module that defines them"
            raise AppError(name, reason)
        agents |= {key: plain(agent, key) for key, agent in found.items()}
        tools += [*loose, *(tool for agent in found.values() for tool in agent.tools if isinstance(tool, Operation))]
    return Registry(agents=agents, tools=own_tools(tools))


def _agents_of(module: ModuleType) -> Iterator[tuple[str, Agent]]:
    """Yield each agent of a module, under the name that any program that imports it gives it."""
    for variable, value in vars(module).items():
        if isinstance(value, Agent):
            yield name_in_module(value, value.module) or f"{module.__name__}:{variable}", value


def _imported(name: str) -> ModuleType:
    if name.partition(".")[0] in RESERVED:
        raise AppError(name, "this name is taken; rename the module")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise AppError(name, f"it imports {error.name!r}, which is not installed here") from error
        raise AppError(
            name, f"there is no module {error.name!r}; start in its directory, or install it where this runs"
        ) from error
    except Exception as error:  # a module is a program: anything may go wrong in it
        raise AppError(name, f"{type(error).__name__}: {error}") from error
