"""Several agents at work: who is in a swarm, what waits for what, who takes which task.

```python
async with swarm(researcher, writer) as s:
    print(await s.submit("report", needs={"write"}))
```
"""

from storage.queries.swarm import Overview
from swarm.agents import Agent, Ctx, Limits, agent
from swarm.coordinator import Swarm, run, swarm
from swarm.errors import (
    AttemptError,
    DefinitionError,
    IllegalTransitionError,
    NoCapableAgentError,
    SchedulerLostError,
    SubmitError,
    SwarmError,
    TaskCancelled,
    TaskFailed,
    TopologyError,
    UnknownAgentTypeError,
)
from swarm.tasks import Task

__all__ = [
    "Agent",
    "AttemptError",
    "Ctx",
    "DefinitionError",
    "IllegalTransitionError",
    "Limits",
    "NoCapableAgentError",
    "Overview",
    "SchedulerLostError",
    "SubmitError",
    "Swarm",
    "SwarmError",
    "Task",
    "TaskCancelled",
    "TaskFailed",
    "TopologyError",
    "UnknownAgentTypeError",
    "agent",
    "run",
    "swarm",
]
