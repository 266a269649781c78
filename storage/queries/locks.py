"""Taking turns, where no row stands for what must not happen twice at once."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession


async def one_at_a_time(db: AsyncSession, user_id: int, what: str) -> None:
    """Wait until nobody else of this tenant is at `what`, and keep others waiting until the transaction ends."""
    await db.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{user_id}:{what}", 0))))
