"""Errors of the swarm layer.

SwarmError
├── DefinitionError            an agent is defined in a way that cannot run
├── TopologyError              topology, queen and members do not fit together
├── SubmitError                the task cannot be taken
│   ├── UnknownAgentTypeError  no agent of this swarm has this type
│   └── NoCapableAgentError    no agent of this swarm has these capabilities
├── IllegalTransitionError     a swarm, agent or task cannot go from this status to that one
├── SchedulerLostError         another process schedules this swarm; nothing of ours was written
├── TaskFailed                 every attempt failed, or a task it waits for did
└── TaskCancelled              the task was given up before it ended
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class SwarmError(Exception):
    """Base of every error that a swarm raises on purpose."""


class DefinitionError(SwarmError):
    """An agent is defined in a way that cannot run."""

    def __init__(self, agent: str, problem: str, remedy: str) -> None:
        super().__init__(f"agent {agent!r} {problem}; {remedy}")
        self.agent = agent
        self.problem = problem
        self.remedy = remedy


class TopologyError(SwarmError):
    """Topology, queen and members do not fit together."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class SubmitError(SwarmError):
    """The task cannot be taken."""


class UnknownAgentTypeError(SubmitError):
    """No agent of this swarm has this type."""

    def __init__(self, agent_type: str, known: Iterable[str]) -> None:
        self.agent_type = agent_type
        self.known = tuple(sorted(known))
        super().__init__(f"no agent {agent_type!r} in this swarm; its agents: {', '.join(self.known)}")


class NoCapableAgentError(SubmitError):
    """No agent of this swarm has these capabilities together."""

    def __init__(self, needs: Iterable[str], capabilities: Iterable[str]) -> None:
        self.needs = tuple(sorted(needs))
        self.capabilities = tuple(sorted(capabilities))
        known = ", ".join(self.capabilities) or "none"
        super().__init__(f"no agent here can do {' and '.join(map(repr, self.needs))}; capabilities here: {known}")


class IllegalTransitionError(SwarmError):
    """A swarm, agent or task cannot go from this status to that one."""

    def __init__(self, kind: str, before: str, after: str, legal: Iterable[str]) -> None:
        self.kind = kind
        self.before = before
        self.after = after
        self.legal = tuple(sorted(legal))
        where = ", ".join(self.legal) or "nothing, it has ended"
        super().__init__(f"a {kind} that is {before} cannot become {after}; legal: {where}")


class SchedulerLostError(SwarmError):
    """Another process schedules this swarm; the transaction that met this wrote nothing."""

    def __init__(self, swarm_id: str, epoch: int) -> None:
        super().__init__(f"swarm {swarm_id} is no longer scheduled under epoch {epoch}: another process has taken it")
        self.swarm_id = swarm_id
        self.epoch = epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptError:
    """Why one attempt failed."""

    attempt: int
    """From 1."""
    agent: str
    error: str


class TaskFailed(SwarmError):  # noqa: N818 -- an outcome that callers await, named as one
    """Every attempt failed, or a task it waits for did."""

    def __init__(
        self, task_id: str, description: str, attempts: Sequence[AttemptError], chain: Sequence[str] = ()
    ) -> None:
        self.task_id = task_id
        self.description = description
        self.attempts = tuple(attempts)
        self.chain = tuple(chain)
        """Ids of the tasks on the way to the one that failed first, nearest first; empty: it failed itself."""
        if self.chain:
            reason = f"it waits for {' → '.join(self.chain)}, which did not complete"
        else:
            tries = [f"attempt {one.attempt} by {one.agent}: {one.error}" for one in self.attempts]
            reason = "; ".join(tries)
        super().__init__(f"task {description[:80]!r} failed: {reason}")


class TaskCancelled(SwarmError):  # noqa: N818 -- as TaskFailed
    """The task was given up before it ended."""

    def __init__(self, task_id: str, description: str) -> None:
        super().__init__(f"task {description[:80]!r} was cancelled")
        self.task_id = task_id
        self.description = description
