"""The outbox's other end: send a pending message through its channel and record what became of it."""

import random
from datetime import timedelta

import httpx2

from gateway.channels import standard_webhooks
from gateway.channels.messages import Refused, Retry, SendOutcome, Sent
from gateway.channels.standard_webhooks import OutboundData, OutboundEvent
from runtime.clock import Clock
from runtime.webhooks import WebhookConfig, webhook_secret
from storage import jobs
from storage.crypto import Keyring
from storage.models.messaging import OutboundMessage, UserWebhook
from storage.queries import messaging
from storage.tenancy import Database

SEND_TIMEOUT_S = 15.0


class Deliverer:
    """Sends outbound messages; the handler of `deliver` jobs."""

    def __init__(self, *, database: Database, keyring: Keyring, client: httpx2.AsyncClient, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._client = client
        self._clock = clock

    async def __call__(self, job: jobs.Job) -> jobs.Outcome:
        """Send one message. The row's id is the receiver's idempotency key, so a repeated send is recognised."""
        outbound_id = int(job.id)
        async with self._database.begin(job.user_id) as db:
            message = await messaging.claim_outbound(db, outbound_id)
            if message is None:
                return jobs.Done()
            webhook = await messaging.webhook(db, message.webhook_id)
        outcome = await self._send(message, webhook)
        delay = standard_webhooks.delay_before(message.attempts + 1, random.random())  # noqa: S311 -- jitter
        async with self._database.begin(job.user_id) as db:
            match outcome:
                case Sent(external_id=external_id):
                    await messaging.record_delivery(db, outbound_id, status="sent", external_id=external_id)
                    return jobs.Done()
                case Retry(reason=reason, after_s=after_s) if delay is not None:
                    wait_s = max(delay, after_s or 0)
                    due = self._clock.now() + timedelta(seconds=wait_s)
                    await messaging.record_delivery(
                        db, outbound_id, status="pending", error=reason, next_attempt_at=due
                    )
                    return jobs.Snooze(until=due)
                case Retry(reason=reason) | Refused(reason=reason):
                    await messaging.record_delivery(db, outbound_id, status="failed", error=reason)
                    return jobs.Cancel(reason=reason)

    async def _send(self, message: OutboundMessage, webhook: UserWebhook) -> SendOutcome:
        config = WebhookConfig.model_validate(webhook.config)
        if config.reply_url is None:
            return Refused(reason="the webhook has no replyUrl in its config")
        now = self._clock.now()
        data = OutboundData(
            id=message.id,
            conversation_id=message.conversation_id,
            to=message.to,
            body=message.body,
            in_reply_to=None if message.inbound_message_id is None else str(message.inbound_message_id),
        )
        return await standard_webhooks.send(
            self._client,
            url=config.reply_url,
            secret=webhook_secret(self._keyring, webhook, "replySecret"),
            event_id=f"out_{message.id}",
            payload=OutboundEvent(timestamp=now, data=data),
            timeout_s=SEND_TIMEOUT_S,
            now=now,
        )
