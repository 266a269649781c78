"""A rich run whose story is known: three turns of one conversation, with every kind of effect that a tool can have.

The model does what the task says, each line one reply, each word one call. It looks at the request and at nothing else,
so that a worker that starts again is told the same.
"""

import base64
import hashlib
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
from sqlalchemy import select, update

from gateway.delivery import Deliverer
from runtime import conversations
from runtime.agents import Agent
from runtime.clock import SystemClock
from runtime.events import ModelReplied
from runtime.journal import PostgresJournal
from runtime.journal_port import Claim
from runtime.labels import Tier
from runtime.local import Local, compose
from runtime.operation import Operation
from runtime.outbox import DELIVER
from runtime.ports import Json, Model, ModelRequest
from runtime.settings import RuntimeSettings
from runtime.testing import call_reply, text_reply
from runtime.toolbox import OPERATIONS
from runtime.tools import ExternalContext, tool
from runtime.webhooks import WebhookRequest, create_webhook
from storage.crypto import Keyring
from storage.ids import process_name
from storage.jobs import Job
from storage.models.agents import AgentExecution, AgentSession, ToolExecution
from storage.models.messaging import InboundMessage, OutboundMessage
from storage.queries import executions, messaging
from storage.queries.messaging import NewInbound
from storage.tenancy import Database
from tests.faults import ledger, turns
from tests.faults.crash import SplitJournal
from tests.faults.receiver import Receiver

AGENT = "three_turns"

TASKS = ("create_task charge\nreply", "fax\nreply", "create_task charge fax reply")
"""What the participant wants, turn by turn."""

KEYRING = Keyring.parse(base64.b64encode(hashlib.sha256(b"the keyring of these tests").digest()).decode())
"""The same in every process, because a worker opens the secrets of the webhook."""

SECRET = "whsec_" + base64.b64encode(b"a secret that signs replies").decode()

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Everything here is plain HTTP, and to load the machine's certificates for each client would cost 60 ms."""


def answer(request: ModelRequest) -> ModelReplied:
    """Return what the model says: the next line of the last task, or the end of the turn."""
    spoken = [(index, task) for index, message in enumerate(request.messages) if (task := _task_in(message))]
    turn, (index, wanted) = len(spoken), spoken[-1]
    said = sum(message["role"] == "assistant" for message in request.messages[index:])
    lines = wanted.splitlines()
    if said == len(lines):
        return text_reply(f"told them, turn {turn}")
    arguments: Mapping[str, Json] = {
        "create_task": {"title": f"Card {turn}"},
        "charge": {"amount": turn},
        "fax": {"words": f"Fax {turn}"},
        "reply": {"text": f"Done, turn {turn}."},
    }
    return call_reply(*((name, arguments[name]) for name in lines[said].split()), tag=f"{turn}.{said}.")


def _task_in(message: Json) -> str | None:
    """Return what a participant said in this message, if it is one of theirs."""
    blocks: list[Json] = message["content"] if message["role"] == "user" else []
    texts: list[str] = [block["text"] for block in blocks if block["type"] == "text"]
    return next((said for said in texts if not said.startswith("<context>")), None)


class TaskModel:
    """The model of every worker; asks nobody."""

    name = "scripted-model"

    async def reply(self, request: ModelRequest, **_options: object) -> ModelReplied:
        """Answer from the request alone."""
        await anyio.lowlevel.checkpoint()
        return answer(request)


def client() -> httpx2.AsyncClient:
    """Return a client of the receiver; the caller closes it."""
    return httpx2.AsyncClient(verify=_NO_TLS)


def tools_on(http: httpx2.AsyncClient, url: str) -> dict[str, Operation]:
    """Return the agent's tools; the effects of two of them are requests to the receiver at `url`."""

    async def post(path: str, body: Json, headers: Mapping[str, str]) -> None:
        response = await http.post(f"{url}/{path}", json=body, headers=headers)
        response.raise_for_status()

    # Both reach whoever asks for them; of a higher tier they would wait for a person each time.
    @tool(honours_key=True, tier=Tier.T3)
    async def charge(ctx: ExternalContext, amount: int) -> str:
        """Charge the client."""
        await post("charge", {"execution": ctx.execution_id, "amount": amount}, {"idempotency-key": ctx.key})
        return f"charged {amount}"

    @tool(tier=Tier.T3)
    async def fax(ctx: ExternalContext, words: str) -> str:
        """Send a fax, which nothing can recall."""
        await post("fax", {"execution": ctx.execution_id, "words": words}, {})
        return "sent"

    return {"charge": charge, "fax": fax, "create_task": OPERATIONS["create_task"], "reply": OPERATIONS["reply"]}


class ForgetfulJournal(PostgresJournal):
    """Broken on purpose: that an external tool begins is not recorded, so nobody knows whether it has begun before."""

    async def start_call(self, *_: Any, **_named: Any) -> bool:
        """Believe that every attempt is the first."""
        return True


class UnfencedJournal(PostgresJournal):
    """Broken on purpose: whoever writes is taken for the holder of the lease."""

    async def record_reply(self, claim: Claim, *others: Any, **named: Any) -> Any:
        """Record a reply of anybody."""
        return await super().record_reply(await self._of_today(claim), *others, **named)

    @asynccontextmanager
    async def ending(self, claim: Claim, *others: Any, **named: Any) -> AsyncGenerator[Any]:
        """Let anybody end the execution."""
        async with super().ending(await self._of_today(claim), *others, **named) as end:
            yield end

    async def _of_today(self, claim: Claim) -> Claim:
        async with self._database.begin(claim.user_id, read_only=True) as db:
            session = await db.get_one(AgentSession, claim.session_id)
        return replace(claim, epoch=session.lease_epoch)


JOURNALS: Mapping[str, Callable[[Database, str], PostgresJournal]] = {
    "sound": PostgresJournal,
    "split": SplitJournal,
    "forgetful": ForgetfulJournal,
    "unfenced": UnfencedJournal,
}
"""The product's, and those that are broken on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One process's share: a driver with the agent's tools, and what delivers its replies."""

    local: Local
    owner: str
    """What its leases say."""
    deliverer: Deliverer

    async def work(self, execution_ids: Sequence[int]) -> None:
        """Drive executions to their ends and deliver what they have said, one after the other."""
        for execution_id in execution_ids:
            await self.local.driver.run(self.local.user_id, execution_id)
            for outbound_id in await unsent(self.local, [execution_id]):
                await self.deliverer(Job(kind=DELIVER, user_id=self.local.user_id, id=outbound_id, attempt=1))


def system_of(database: Database, user_id: int, model: Model | None = None) -> Local:
    """Return a system with the keys of these tests, and no tools of its own yet."""
    settings = RuntimeSettings(model="offline", timezone="UTC")
    return compose(database=database, user_id=user_id, model=model or TaskModel(), keyring=KEYRING, settings=settings)


@asynccontextmanager
async def working_on(
    database: Database, user_id: int, url: str, *, journal: str = "sound", model: Model | None = None
) -> AsyncGenerator[Worker]:
    """Yield a worker on `database` whose outside world is at `url`; `journal` names one of `JOURNALS`."""
    local = system_of(database, user_id, model)
    async with client() as http:
        tools = tools_on(http, url)
        agent = Agent(name=AGENT, instructions="Do as you are told.", tools=tuple(tools))
        owner = process_name()
        kept = JOURNALS[journal](database, owner)
        driver = local.driver.varied(agents=lambda _: agent, tools=tools.__getitem__, journal=kept)
        deliverer = Deliverer(database=database, keyring=KEYRING, client=http, clock=SystemClock())
        yield Worker(local=replace(local, driver=driver, journal=kept), owner=owner, deliverer=deliverer)


async def make_webhook(database: Database, user_id: int, url: str) -> int:
    """Add the webhook whose replies go to the receiver, and return its id."""
    request = WebhookRequest(name="chat", signing_secret=SECRET, reply_secret=SECRET, reply_url=f"{url}/replies")
    async with database.begin(user_id) as db:
        return (await create_webhook(db, KEYRING, user_id, request)).id


async def begin(
    database: Database, user_id: int, webhook_id: int, sender: str, tasks: Sequence[str] = TASKS
) -> list[int]:
    """Let a participant say all of `tasks`, each in a turn of its own, and return their executions, oldest first."""
    local = system_of(database, user_id)
    found: list[int] = []
    async with database.begin(user_id) as db:
        webhook = await messaging.webhook(db, webhook_id)
        for number, task in enumerate(tasks):
            message = message_of(local, webhook_id, sender, number, task)
            inbound_id = await conversations.accept(db, local.jobs, webhook, message)
            conversation = await messaging.open_conversation(
                db, user_id=user_id, webhook_id=webhook_id, participant_id=sender
            )
            assert conversation.agent_session_id is not None
            execution_id = await executions.queue_execution(
                db, user_id=user_id, session_id=conversation.agent_session_id, agent_name=AGENT, task=task
            )
            (await db.get_one(InboundMessage, inbound_id)).execution_id = execution_id
            found.append(execution_id)
    return found


def message_of(local: Local, webhook_id: int, sender: str, number: int, body: str) -> NewInbound:
    """Return the `number`-th message of `sender`, as a channel would hand it over."""
    return NewInbound(
        user_id=local.user_id,
        webhook_id=webhook_id,
        provider_message_id=f"{sender}-{number}",
        raw_body=body.encode(),
        sender=sender,
        recipient="bot",
        body=body,
        media_urls=[],
    )


async def unsent(local: Local, execution_ids: Sequence[int]) -> list[int]:
    """Return the replies of executions that no receiver has confirmed yet."""
    statement = select(OutboundMessage.id).where(
        OutboundMessage.execution_id.in_(execution_ids), OutboundMessage.status.in_(("pending", "sending"))
    )
    async with local.database.begin(local.user_id, read_only=True) as db:
        return list(await db.scalars(statement.order_by(OutboundMessage.id)))


async def is_over(local: Local, execution_ids: Sequence[int]) -> bool:
    """Tell whether nothing is left to do for these executions."""
    open_ones = select(AgentExecution.id).where(
        AgentExecution.id.in_(execution_ids), AgentExecution.completed_at.is_(None)
    )
    async with local.database.begin(local.user_id, read_only=True) as db:
        if await db.scalar(open_ones.limit(1)) is not None:
            return False
    return not await unsent(local, execution_ids)


async def let_time_pass(database: Database, user_id: int) -> None:
    """Let leases lapse, and let come whatever was put off after a failure."""
    await ledger.let_leases_lapse(database, user_id)
    async with database.begin(user_id) as db:
        await db.execute(update(AgentExecution).values({AgentExecution.run_after: None}))


async def finish(worker: Worker, execution_ids: Sequence[int]) -> None:
    """Let time pass and another worker go on, until nothing is left to do."""
    with anyio.fail_after(20):
        # The server may commit for a client that is dead already, so that its lease appears after this looked.
        while not await is_over(worker.local, execution_ids):
            await let_time_pass(worker.local.database, worker.local.user_id)
            await worker.work(execution_ids)
            await anyio.lowlevel.checkpoint()


Story = list[dict[str, Any]]


async def story(database: Database, user_id: int, execution_ids: Sequence[int]) -> Story:
    """Return everything that these executions have left, without ids and times."""
    return [await turns.story(database, user_id, execution_id) for execution_id in execution_ids]


def as_if_known(told: Story) -> Story:
    """Return a story in which a fax whose outcome nobody knows counts as sent, which a crash may cost."""

    def known(name: str, state: str) -> str:
        return "done" if (name, state) == ("fax", "unknown") else state

    return [
        turn
        | {
            "tools": sorted((name, known(name, state), attempt) for name, state, attempt in turn["tools"]),
            "projection": [(name, known(name, state)) for name, state in turn["projection"]],
        }
        for turn in told
    ]


def unknown_in(told: Story) -> int:
    """Return how many faxes nobody knows the outcome of."""
    return sum(state == "unknown" for turn in told for _, state, _ in turn["tools"])


async def broken_outside(database: Database, user_id: int, receiver: Receiver) -> list[str]:
    """Compare the outside world with our rows and return every promise that it shows to be broken.

    A charge has one key, which one call has, and the same words under it each time. A fax that is done was sent once,
    one whose outcome is unknown at most once. A reply that was confirmed arrived, under its own key.
    """
    async with database.begin(user_id, read_only=True) as db:
        calls = (await db.scalars(select(ToolExecution))).all()
        replies = (await db.scalars(select(OutboundMessage))).all()
    return [
        *_broken_charges(calls, receiver),
        *_broken_faxes(calls, receiver),
        *_broken_replies(replies, receiver),
    ]


def _broken_charges(calls: Sequence[ToolExecution], receiver: Receiver) -> list[str]:
    words = {(post.key, str(post.body)) for post in receiver.to("charge")}
    charged = Counter(key for key, _ in words)
    wanted = {call.idempotency_key for call in calls if call.tool_name == "charge"}
    done = {call.idempotency_key for call in calls if call.tool_name == "charge" and call.state == "done"}
    return [
        *(f"charge {key} arrived with different words" for key, times in charged.items() if times > 1),
        *(f"charge {key} is of no call" for key in charged.keys() - wanted),
        *(f"charge {key} is done and never arrived" for key in done - charged.keys()),
    ]


def _broken_faxes(calls: Sequence[ToolExecution], receiver: Receiver) -> list[str]:
    sent = [post.body["execution"] for post in receiver.to("fax")]
    found: list[str] = []
    for call in calls:
        if call.tool_name != "fax":
            continue
        times = sent.count(call.execution_id)
        if times > 1:
            found.append(f"the fax of execution {call.execution_id} was sent {times} times")
        if call.state == "done" and times == 0:
            found.append(f"the fax of execution {call.execution_id} is done and was never sent")
    return found


def _broken_replies(replies: Sequence[OutboundMessage], receiver: Receiver) -> list[str]:
    arrived = receiver.keys("replies")
    wanted = {f"out_{row.id}" for row in replies}
    sent = {f"out_{row.id}" for row in replies if row.status == "sent"}
    return [
        *(f"reply {key} arrived and is of no row" for key in arrived.keys() - wanted),
        *(f"reply {key} is confirmed and never arrived" for key in sent - arrived.keys()),
    ]
