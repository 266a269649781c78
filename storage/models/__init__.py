"""Every table, by domain. Importing this package fills `Base.metadata`."""

from storage.models import agents, audit, automation, crm, identity, knowledge, messaging, runtime, swarm

__all__ = ["agents", "audit", "automation", "crm", "identity", "knowledge", "messaging", "runtime", "swarm"]
