"""Which stored text may come from outside, so that it is fenced: everything but what only staff and we ourselves write.

A table that nobody has thought about yet is therefore fenced.
"""

from typing import Any

from storage.registry import EntitySpec

_WRITTEN_BY_US = frozenset(
    {
        "apiKeys",
        "auditLogs",
        "automationWorkflows",
        "cf_task_dependencies",
        "clientProfiles",
        "userProfiles",
        "userWebhooks",
        "user_credits",
        "users",
    }
)


def is_untrusted(spec: EntitySpec[Any]) -> bool:
    """Whether rows of this entity may hold text from participants, models, tools or the web."""
    return spec.name not in _WRITTEN_BY_US
