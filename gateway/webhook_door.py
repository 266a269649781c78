"""The door for chat channels: `POST /webhooks/{token}`.

Verify the signature on the raw bytes, store the message and its job in one transaction, answer. The model is never
called inside the request. The token routes, the signature authenticates.
"""

import logging
from collections.abc import AsyncIterator

import anyio
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.channels import standard_webhooks
from gateway.channels.errors import PoisonError, SignatureError
from runtime import conversations
from runtime.clock import Clock
from runtime.webhooks import webhook_secret
from storage.credentials import token_hash
from storage.crypto import Keyring
from storage.errors import DatabaseUnavailableError
from storage.jobs import Jobs
from storage.queries import messaging
from storage.queries.messaging import NewInbound
from storage.tenancy import Database

logger = logging.getLogger(__name__)

ACCEPT_TIMEOUT_S = 10
"""Providers give up after some 10 to 15 seconds; an answer later than that is none."""


class BodyTooLargeError(Exception):
    """The body is longer than standard_webhooks.BODY_LIMIT_BYTES."""


class WebhookDoor:
    """Accepts messages for every webhook of every tenant."""

    def __init__(self, *, database: Database, jobs: Jobs, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._jobs = jobs
        self._keyring = keyring
        self._clock = clock

    async def receive(self, request: Request) -> Response:
        """Answer 202 for a new message, 200 for one that was here before; 401, 404, 413 and 503 as their names say."""
        try:
            with anyio.fail_after(ACCEPT_TIMEOUT_S):
                raw_body = await read_body(request.stream())
                return await self._accept(request, raw_body)
        except BodyTooLargeError:
            return _answer(413, error=f"the body is longer than {standard_webhooks.BODY_LIMIT_BYTES} bytes")
        except SignatureError as error:
            return _answer(401, error=str(error))
        except (SQLAlchemyError, DatabaseUnavailableError, TimeoutError):
            logger.exception("a message could not be stored")
            return _answer(503, error="the message could not be stored; send it again", retry_after_s=5)

    async def _accept(self, request: Request, raw_body: bytes) -> Response:
        async with self._database.begin_dispatch() as db:
            owner = await messaging.webhook_owner(db, token_hash(request.path_params["token"]))
        if owner is None:
            return _answer(404, error="no such webhook")
        async with self._database.begin(owner.user_id) as db:
            webhook = await messaging.webhook(db, owner.webhook_id)
            secret = webhook_secret(self._keyring, webhook, "signingSecret")
            standard_webhooks.verify(request.headers, raw_body, [secret], self._clock.now())
            new = _inbound(owner, standard_webhooks.provider_message_id(request.headers), raw_body)
            inbound_id = await conversations.accept(db, self._jobs, webhook, new)
        if inbound_id is None:
            return _answer(200, status="duplicate")
        return _answer(202, status="accepted" if new.error is None else "stored with an error", id=inbound_id)


def _inbound(owner: messaging.WebhookOwner, message_id: str, raw_body: bytes) -> NewInbound:
    """Read the message; one that cannot be read is stored with its reason instead of being lost."""
    try:
        message = standard_webhooks.normalise(raw_body, provider_message_id=message_id)
    except PoisonError as error:
        return NewInbound(
            user_id=owner.user_id,
            webhook_id=owner.webhook_id,
            provider_message_id=message_id,
            raw_body=raw_body,
            media_urls=[],
            error=str(error),
        )
    return NewInbound(
        user_id=owner.user_id,
        webhook_id=owner.webhook_id,
        provider_message_id=message.provider_message_id,
        raw_body=raw_body,
        sender=message.sender,
        recipient=message.to,
        body=message.body,
        media_urls=list(message.media_urls),
        raw_payload=message.raw_payload,
    )


async def read_body(chunks: AsyncIterator[bytes]) -> bytes:
    """Read a body, giving up as soon as it is too long.

    Raises:
        BodyTooLargeError: it is longer than standard_webhooks.BODY_LIMIT_BYTES.
    """
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > standard_webhooks.BODY_LIMIT_BYTES:
            raise BodyTooLargeError
    return bytes(body)


def _answer(status_code: int, *, retry_after_s: int | None = None, **body: object) -> Response:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
    return JSONResponse(body, status_code=status_code, headers=headers)
