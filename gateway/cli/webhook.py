"""`agency webhook ...`: doors for chat channels."""

from urllib.parse import urlsplit

from gateway.channels.standard_webhooks import new_secret
from gateway.cli.output import print_record, print_rows
from gateway.errors import ArgumentError
from runtime.local import open_local
from runtime.settings import RuntimeSettings
from runtime.webhooks import WebhookRequest, create_webhook
from storage.queries import messaging
from storage.settings import StorageSettings


async def add(name: str, reply_url: str | None, prompt: str | None, draft: bool, as_json: bool) -> None:
    """Make a webhook and print its path and secrets, which are not shown again."""
    if reply_url is not None and not _is_web_address(reply_url):
        raise ArgumentError("--reply-url", reply_url, "an http or https address, e.g. https://chat.example.com/replies")
    request = WebhookRequest(
        name=name,
        signing_secret=new_secret(),
        reply_secret=new_secret(),
        reply_url=reply_url,
        system_prompt=prompt,
        auto_respond=not draft,
    )
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id) as db,
    ):
        made = await create_webhook(db, local.keyring, local.user_id, request)
    shown = {
        "id": made.id,
        "path": f"/webhooks/{made.token}",
        "signingSecret": made.signing_secret,
        "replySecret": made.reply_secret,
    }
    print_record(shown, as_json=as_json)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, or a port that is no number
        return False


async def listing(as_json: bool) -> None:
    """Print the webhooks of this user."""
    async with (
        open_local(StorageSettings(), RuntimeSettings()) as local,
        local.database.begin(local.user_id, read_only=True) as db,
    ):
        rows = [
            {
                "id": row.id,
                "name": row.name,
                "type": row.type,
                "isActive": row.is_active,
                "autoRespond": row.auto_respond,
                "messageCount": row.message_count,
                "lastMessageAt": None
                if row.last_message_at is None
                else row.last_message_at.isoformat(timespec="seconds"),
            }
            for row in await messaging.webhooks(db)
        ]
    columns = ("id", "name", "type", "isActive", "autoRespond", "messageCount", "lastMessageAt")
    print_rows(rows, columns, as_json=as_json)
