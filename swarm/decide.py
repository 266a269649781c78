"""The rules of a swarm: what may become what, who takes which task, what a failure takes with it.

Pure: the scheduler performs what these functions return, and no rule is written anywhere else.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from storage.models.swarm import (
    AgentStatus,
    AgentStrategy,
    QueenMode,
    SwarmPriority,
    SwarmStatus,
    SwarmTaskStatus,
    Topology,
)
from swarm.errors import IllegalTransitionError, TopologyError

PRI: Mapping[SwarmPriority, int] = MappingProxyType({"low": 0, "medium": 1, "high": 2, "critical": 3})
"""The priorities as numbers."""

FAN_OUT = 8
"""Agents that one agent may delegate to in a hierarchy."""

_Status = TypeVar("_Status", bound=str)

SWARM_MOVES: Mapping[SwarmStatus, frozenset[SwarmStatus]] = MappingProxyType(
    {
        "initializing": frozenset[SwarmStatus]({"active", "destroyed"}),
        "active": frozenset[SwarmStatus]({"paused", "destroyed"}),
        "paused": frozenset[SwarmStatus]({"active", "destroyed"}),
        "destroyed": frozenset[SwarmStatus](),
    }
)
AGENT_MOVES: Mapping[AgentStatus, frozenset[AgentStatus]] = MappingProxyType(
    {
        "spawning": frozenset[AgentStatus]({"idle", "terminated"}),
        "idle": frozenset[AgentStatus]({"busy", "terminated"}),
        "busy": frozenset[AgentStatus]({"idle", "error", "terminated"}),
        "error": frozenset[AgentStatus]({"idle", "terminated"}),
        "terminated": frozenset[AgentStatus](),
    }
)
TASK_MOVES: Mapping[SwarmTaskStatus, frozenset[SwarmTaskStatus]] = MappingProxyType(
    {
        "pending": frozenset[SwarmTaskStatus]({"assigned", "failed", "cancelled"}),
        "assigned": frozenset[SwarmTaskStatus]({"running", "pending", "failed", "cancelled"}),
        "running": frozenset[SwarmTaskStatus]({"completed", "pending", "failed", "cancelled"}),
        "completed": frozenset[SwarmTaskStatus](),
        "failed": frozenset[SwarmTaskStatus](),
        "cancelled": frozenset[SwarmTaskStatus](),
    }
)
"""pending → failed: a task that it waits for did not complete."""


def swarm_becomes(before: SwarmStatus, after: SwarmStatus) -> SwarmStatus:
    """Return `after`.

    Raises:
        IllegalTransitionError: a swarm cannot go there from `before`.
    """
    return _becomes("swarm", before, after, SWARM_MOVES)


def agent_becomes(before: AgentStatus, after: AgentStatus) -> AgentStatus:
    """Return `after`.

    Raises:
        IllegalTransitionError: an agent cannot go there from `before`.
    """
    return _becomes("agent", before, after, AGENT_MOVES)


def task_becomes(before: SwarmTaskStatus, after: SwarmTaskStatus) -> SwarmTaskStatus:
    """Return `after`.

    Raises:
        IllegalTransitionError: a task cannot go there from `before`.
    """
    return _becomes("task", before, after, TASK_MOVES)


def _becomes(kind: str, before: _Status, after: _Status, moves: Mapping[_Status, frozenset[_Status]]) -> _Status:
    if after not in moves[before]:
        raise IllegalTransitionError(kind, before, after, moves[before])
    return after


def check_shape(topology: Topology, queen_mode: QueenMode, *, members: int, max_agents: int) -> None:
    """Refuse a swarm whose parts contradict each other.

    Raises:
        TopologyError: the message says what would be right.
    """
    if members == 0:
        raise TopologyError("a swarm needs at least one agent", "pass agents: swarm(researcher, writer)")
    if members > max_agents:
        raise TopologyError(
            f"{members} agents are more than max_agents={max_agents}", f"pass max_agents={members} or fewer instances"
        )
    if topology == "star" and queen_mode == "distributed":
        raise TopologyError(
            "a star has a hub and a hub is a leader, so queen='distributed' contradicts topology='star'",
            "use queen='centralized', or topology='mesh' for agents without a leader",
        )
    if topology == "hierarchical" and queen_mode == "distributed":
        raise TopologyError(
            "sub-leads that plan for themselves are not available, so a hierarchy needs queen='centralized'",
            "use queen='centralized', or topology='mesh' for agents without a leader",
        )
    if topology == "hierarchical" and members > FAN_OUT + 1:
        raise TopologyError(
            f"the queen of a hierarchy leads at most {FAN_OUT} agents and sub-leads are not available",
            f"use at most {FAN_OUT + 1} agents, or topology='star'",
        )
    if topology == "ring":
        raise TopologyError(
            "stages that hand on along a ring are not available",
            "use topology='star' and say the order of the tasks with after=",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """What matching needs to know of one agent."""

    id: str
    agent_type: str
    capabilities: frozenset[str]
    is_idle: bool
    is_queen: bool
    taken: int
    """Attempts it has been given so far: its load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """What matching needs to know of one task that is ready."""

    id: str
    types: frozenset[str]
    """Types of agents whose signature takes this task's input."""
    needs: frozenset[str]
    pri: int
    seq: int
    tried: frozenset[str] = frozenset()
    """Ids of agents that have failed it."""
    tried_types: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """This agent takes this task."""

    task_id: str
    agent_id: str


def urgency(task: TaskView) -> tuple[int, int]:
    """Return the sort key of tasks: the higher priority first, among equals the older one."""
    return (-task.pri, task.seq)


def match(
    ready: Iterable[TaskView], members: Sequence[MemberView], *, queen_mode: QueenMode, strategy: AgentStrategy
) -> list[Placement]:
    """Return who takes what now: each task in turn gets the best idle agent that qualifies.

    `ready` is in the order of `urgency`. A task whose agents are all busy waits and does not hold up those behind it.
    """
    placements: list[Placement] = []
    idle = {member.id for member in members if member.is_idle}
    for task in ready:
        if not idle:
            break
        candidates = [one for one in qualified(task, members, queen_mode=queen_mode) if one.id in idle]
        if candidates:
            chosen = min(candidates, key=_preference(task, strategy))
            idle.remove(chosen.id)
            placements.append(Placement(task_id=task.id, agent_id=chosen.id))
    return placements


def qualified(task: TaskView, members: Iterable[MemberView], *, queen_mode: QueenMode) -> list[MemberView]:
    """Return the agents that may be given this task, busy ones included.

    Under a queen the work is delegated: from the hub to the spokes, from the root to its children. The queen executes
    only what nobody else can, so that a star of one hub is no deadlock.
    """
    capable = [one for one in members if one.agent_type in task.types and task.needs <= one.capabilities]
    if queen_mode == "distributed":
        return capable
    return [one for one in capable if not one.is_queen] or capable


def _preference(task: TaskView, strategy: AgentStrategy) -> Callable[[MemberView], tuple[object, ...]]:
    """Return the sort key of agents for a task, best first.

    A type, then an agent, that has not failed the task yet comes first. `specialized` prefers the agent that can do the
    least else. `adaptive` decides by verified outcomes; as long as there are none it is `balanced`: least loaded first.
    """

    def key(member: MemberView) -> tuple[object, ...]:
        tried = (member.agent_type in task.tried_types, member.id in task.tried)
        breadth = len(member.capabilities - task.needs) if strategy == "specialized" else 0
        return (*tried, breadth, member.taken)

    return key


def may_retry(attempts: int, max_attempts: int) -> bool:
    """Tell whether a task whose attempt was the agent's fault gets another one."""
    return attempts < max_attempts


def kind_of(needs: Collection[str], agent_type: str | None) -> str:
    """Return what kind of task this is: never guessed from its text."""
    return "+".join(sorted(needs)) or agent_type or "general"


def chains(failed: str, dependents: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return every task that can no longer run because `failed` did not complete, each with its shortest chain.

    `dependents` maps a task to those that wait for it. A chain leads from the task it waits for to `failed`.
    """
    doomed: dict[str, tuple[str, ...]] = {}
    front = [(failed, (failed,))]
    while front:
        reached: list[tuple[str, tuple[str, ...]]] = []
        for task_id, chain in front:
            for waiting in dependents.get(task_id, ()):
                if waiting not in doomed:
                    doomed[waiting] = chain
                    reached.append((waiting, (waiting, *chain)))
        front = reached
    return doomed
