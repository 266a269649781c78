"""Tables, tenancy, entity store, memory store, jobs, embedded server. Knows nothing of agents, models or HTTP."""

__all__: list[str] = []
