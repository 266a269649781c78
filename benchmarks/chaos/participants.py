"""The load: participants who say three things each, one after the other, as soon as the one before was answered."""

from dataclasses import dataclass, field

import anyio
from sqlalchemy import select

from runtime import conversations
from storage.models.messaging import InboundMessage
from storage.queries import messaging
from storage.tenancy import Database
from tests.faults import three_turns

AT_ONCE = 12
"""Conversations at once; most of the time of each is the two seconds in which the bot lets people go on typing."""


@dataclass(slots=True)
class Crowd:
    """People who talk to one webhook until they are told to stop."""

    database: Database
    user_id: int
    webhook_id: int
    acknowledged: list[int] = field(default_factory=list[int])
    """Messages that were accepted."""
    is_leaving: bool = False
    """True: whoever has been answered three times does not come again."""

    async def talk(self) -> None:
        """Talk until all have left."""
        async with anyio.create_task_group() as tasks:
            for seat in range(AT_ONCE):
                tasks.start_soon(self._sit, seat)

    async def _sit(self, seat: int) -> None:
        visit = 0
        while not self.is_leaving:
            visit += 1
            for number, task in enumerate(three_turns.TASKS):
                inbound_id = await self._say(f"seat-{seat}-{visit}", number, task)
                while not await self._is_answered(inbound_id):  # noqa: ASYNC110 -- the worker is another process
                    await anyio.sleep(0.2)

    async def _say(self, sender: str, number: int, task: str) -> int:
        local = three_turns.system_of(self.database, self.user_id)
        message = three_turns.message_of(local, self.webhook_id, sender, number, task)
        async with self.database.begin(self.user_id) as db:
            webhook = await messaging.webhook(db, self.webhook_id)
            inbound_id = await conversations.accept(db, local.jobs, webhook, message)
        assert inbound_id is not None  # noqa: S101 -- a sender does not say a thing twice
        self.acknowledged.append(inbound_id)
        return inbound_id

    async def _is_answered(self, inbound_id: int) -> bool:
        statement = select(InboundMessage.status).where(InboundMessage.id == inbound_id)
        async with self.database.begin(self.user_id, read_only=True) as db:
            return await db.scalar(statement) in ("processed", "error")
