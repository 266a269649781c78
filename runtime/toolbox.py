"""All operations by name, and what each kind of agent is given of them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from runtime.errors import UnknownToolError
from runtime.operation import Operation
from runtime.operations import (
    board,
    conversation,
    delegation,
    documents,
    files,
    knowledge,
    memory,
    planning,
    projects,
    web,
)

_ALL = (
    planning.plan,
    planning.advance_phase,
    board.create_task,
    board.update_task,
    board.find_tasks,
    board.get_client,
    memory.remember,
    memory.recall,
    memory.forget,
    conversation.reply,
    conversation.ask_person,
    conversation.hand_over,
    files.memory,
    knowledge.learn,
    knowledge.search_knowledge,
    documents.find_documents,
    projects.save_project_files,
    web.fetch_page,
    delegation.delegate,
    delegation.schedule,
)

OPERATIONS: Mapping[str, Operation] = MappingProxyType({found.name: found for found in _ALL})
"""Every operation that an agent may be given. The order is fixed: it is part of the provider's cache key."""


def operation_named(name: str) -> Operation:
    """Return one operation.

    Raises:
        UnknownToolError: no operation has this name.
    """
    try:
        return OPERATIONS[name]
    except KeyError:
        raise UnknownToolError(name, list(OPERATIONS)) from None


def in_fixed_order(names: Sequence[str]) -> list[str]:
    """Return tool names in the order that requests have them: the built-in ones first, then the others by name."""
    return [name for name in OPERATIONS if name in names] + sorted(name for name in names if name not in OPERATIONS)


def operations_named(names: Sequence[str]) -> list[Operation]:
    """Return these operations in the fixed order."""
    for name in names:
        operation_named(name)
    return [found for found in _ALL if found.name in names]
