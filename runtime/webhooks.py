"""Webhooks of chat channels: making one, and opening its sealed secrets.

A webhook's `config` holds what the channel needs: `provider` in the open; `token`, `signingSecret` and `replySecret`
sealed, each under its own name, so that no envelope can be moved to another row, owner or purpose.
"""

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from storage.credentials import new_token, token_hash
from storage.crypto import Keyring
from storage.models.messaging import UserWebhook, WebhookType
from storage.queries import messaging

Secret = Literal["token", "signingSecret", "replySecret"]

Provider = Literal["standard"]
"""The channels that can be connected; `standard` is https://www.standardwebhooks.com."""


class WebhookConfig(BaseModel):
    """The shape of `userWebhooks.config`."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    provider: Provider = "standard"
    reply_url: str | None = Field(default=None, alias="replyUrl")
    token: str = ""
    signing_secret: str = Field(default="", alias="signingSecret")
    reply_secret: str = Field(default="", alias="replySecret")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWebhook:
    """A webhook that was just made. The token and the secrets are shown once."""

    id: int
    token: str
    """Last part of the URL that messages are posted to."""
    signing_secret: str
    """Signs what the provider sends us."""
    reply_secret: str
    """Signs what we send to `reply_url`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRequest:
    """What a webhook is made from."""

    name: str
    signing_secret: str
    reply_secret: str
    type: WebhookType = "custom"
    provider: Provider = "standard"
    reply_url: str | None = None
    system_prompt: str | None = None
    auto_respond: bool = True
    response_delay_s: int = 2


async def create_webhook(db: AsyncSession, keyring: Keyring, user_id: int, request: WebhookRequest) -> NewWebhook:
    """Insert a webhook with sealed secrets.

    The row goes in without them first, because the associated data of an envelope contains the row's id.
    """
    token = new_token()
    row = UserWebhook(
        user_id=user_id,
        name=request.name,
        type=request.type,
        webhook_token=token_hash(token),
        system_prompt=request.system_prompt,
        auto_respond=request.auto_respond,
        response_delay=request.response_delay_s,
    )
    db.add(row)
    await db.flush()
    secrets = {"token": token, "signingSecret": request.signing_secret, "replySecret": request.reply_secret}
    sealed = {
        name: keyring.seal(secret, table="userWebhooks", column=f"config.{name}", row=row.id, owner=user_id)
        for name, secret in secrets.items()
    }
    row.config = {"provider": request.provider, "replyUrl": request.reply_url} | sealed
    await db.flush()
    return NewWebhook(id=row.id, token=token, signing_secret=request.signing_secret, reply_secret=request.reply_secret)


async def ensure_webhook(
    db: AsyncSession, keyring: Keyring, user_id: int, request: WebhookRequest, *, reply_url: str
) -> NewWebhook:
    """Return the webhook with the request's name, pointing its replies to `reply_url`; made when it is missing."""
    row = await messaging.webhook_named(db, request.name)
    if row is None:
        return await create_webhook(db, keyring, user_id, replace(request, reply_url=reply_url))
    row.config = row.config | {"replyUrl": reply_url}
    await db.flush()
    return NewWebhook(
        id=row.id,
        token=webhook_secret(keyring, row, "token"),
        signing_secret=webhook_secret(keyring, row, "signingSecret"),
        reply_secret=webhook_secret(keyring, row, "replySecret"),
    )


def webhook_secret(keyring: Keyring, webhook: UserWebhook, name: Secret) -> str:
    """Open one of a webhook's secrets.

    Raises:
        CryptoError: it was sealed for another row or with a key that we do not have.
    """
    envelope: str = webhook.config.get(name, "")
    return keyring.open_text(
        envelope, table="userWebhooks", column=f"config.{name}", row=webhook.id, owner=webhook.user_id
    )
