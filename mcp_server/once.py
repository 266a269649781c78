"""Calls that a client may repeat under a key of its own: the work is done once, the answer comes every time."""

from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncSession

from mcp_server.results import Item
from storage.idempotency import Claim, Outcome, argument_hash, claim, settle


async def once(
    db: AsyncSession, call: tuple[int, str], key: str | None, arguments: Item, work: Callable[[], Awaitable[Item]]
) -> tuple[Item, bool]:
    """Do the work in the caller's transaction, unless `call` (user id, tool) did it under this key before.

    Returns the result, JSON, and whether it is of an earlier call.

    Raises:
        EntityConflictError: the key was used with other arguments.
    """
    if key is None:
        return await work(), False
    user_id, tool = call
    claimed = Claim(user_id=user_id, operation=tool, key=key, argument_hash=argument_hash(arguments))
    earlier = await claim(db, claimed)
    if earlier is not None:
        return earlier.result, True
    result = await work()
    await settle(db, claimed, Outcome(result=result))
    return result, False
