"""Memory: what agents and people have left for later."""

from typing import Annotated, Any

from mcp_types import CallToolResult
from pydantic import Field

from mcp_server.app import CurrentApp
from mcp_server.parameters import Limit
from mcp_server.results import Page, Receipt, page_result, receipt_result
from mcp_server.verbs import perform_verb

Namespace = Annotated[
    str | None, Field(max_length=255, description="user, client/<id>, conversation/<id>, files/<agent>, swarm/<id>.")
]


async def memory_search(
    app: CurrentApp,
    text: Annotated[str, Field(min_length=1, max_length=500, description="Words in keys or values.")],
    namespace: Namespace = None,
    limit: Limit = 10,
) -> Annotated[CallToolResult, Page]:
    """Find remembered values by words, best first, in all namespaces unless one is given.

    Use it before asking the user for something they may have said before. What has expired is not found.
    """
    found = await perform_verb(app, "memory_search", text=text, namespace=namespace, limit=limit)
    hint = None if found["items"] else "Nothing is remembered under these words; try fewer or other ones."
    if found["returned"] == limit:
        hint = "There may be more: raise limit, or use entity_find(entity='cf_memory_store') with a cursor."
    return page_result(found["items"], hint=hint, untrusted=True)


async def memory_write(
    app: CurrentApp,
    key: Annotated[str, Field(min_length=1, max_length=255, description="Name to find it by.")],
    value: Annotated[Any, Field(description="Text or JSON.")],
    namespace: Namespace = None,
    ttl: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="Seconds until it is forgotten.")] = None,
) -> Annotated[CallToolResult, Receipt]:
    """Remember a value under a key (in namespace user by default), replacing what was there.

    Use it for what should be known in later sessions. Fails when the value is over 256 KB or cannot be stored.
    """
    kept = await perform_verb(app, "memory_write", key=key, value=value, namespace=namespace, ttl=ttl)
    item = {name: kept[name] for name in ("namespace", "key", "version", "expiresAt")}
    return receipt_result(f"Remembered {kept['namespace']} {kept['key']!r}, version {kept['version']}", item)
