"""Operations on memory: remember, recall, forget (cf_memory_store)."""

from typing import Annotated, Any

from pydantic import Field

from runtime.operation import Context, operation
from runtime.ports import Json
from storage.memory import MemoryItem, MemoryStore
from storage.namespaces import USER, check_namespace, conversation_namespace

Key = Annotated[str, Field(min_length=1, max_length=255, description="Name under which the value is kept.")]
Namespace = Annotated[
    str | None,
    Field(max_length=255, description="Where; default: this conversation, or the user's own outside a conversation."),
]


def home_of(ctx: Context) -> str:
    """Return the namespace that a caller without a choice means."""
    return conversation_namespace(ctx.conversation.id) if ctx.conversation else USER


def memory_view(item: MemoryItem) -> Json:
    """Return a memory as models and clients see it."""
    return {
        "namespace": item.namespace,
        "key": item.key,
        "value": item.value,
        "version": item.version,
        "expiresAt": None if item.expires_at is None else item.expires_at.isoformat(),
    }


def _readable(ctx: Context, namespace: str | None) -> list[str] | None:
    """Return where to look: a conversation sees its own memories only, everybody else what they ask for."""
    if ctx.conversation:
        return [home_of(ctx)]
    return [namespace] if namespace else None


def _writable(ctx: Context, namespace: str | None) -> str:
    return home_of(ctx) if ctx.conversation or not namespace else check_namespace(namespace)


@operation(effect="db")
async def remember(
    ctx: Context,
    key: Key,
    value: Annotated[Any, Field(description="Text or JSON worth keeping.")],
    namespace: Namespace = None,
    ttl: Annotated[int | None, Field(ge=1, description="Seconds until it is forgotten; default: never.")] = None,
) -> Json:
    """Keep a value under a key, replacing what was there. A conversation keeps its memories to itself."""
    store = MemoryStore(ctx.db, ctx.user_id)
    provenance = {"door": ctx.door, "executionId": ctx.execution_id}
    return memory_view(await store.set(_writable(ctx, namespace), key, value, ttl=ttl, provenance=provenance))


@operation(effect="none")
async def recall(
    ctx: Context,
    text: Annotated[str, Field(min_length=1, max_length=500, description="Words to look for in keys and values.")],
    namespace: Namespace = None,
    limit: Annotated[int, Field(ge=1, le=100, description="At most this many.")] = 10,
) -> Json:
    """Find memories by words in their keys or values, best first. What has expired is not found."""
    store = MemoryStore(ctx.db, ctx.user_id)
    found = await store.search(text, namespaces=_readable(ctx, namespace), limit=limit)
    return {"items": [memory_view(item) for item in found], "returned": len(found)}


@operation(effect="db")
async def forget(ctx: Context, key: Key, namespace: Namespace = None) -> Json:
    """Forget the value under a key and tell whether there was one."""
    store = MemoryStore(ctx.db, ctx.user_id)
    return {"key": key, "deleted": await store.delete(_writable(ctx, namespace), key)}
