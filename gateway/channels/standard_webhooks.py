"""The custom and web chat channel: Standard Webhooks, both ways.

Verifies and normalises what a site posts to us, and posts our replies, signed the same way, to the site's `replyUrl`.
No clock, no database: the accept path and the outbox dispatcher above hold both.
Specification: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

The scheme is spelled out here; the `standardwebhooks` package (1.1.0) is the independent judge of it in the tests. Its
`verify` reads the clock itself, decodes the body before checking it (bad UTF-8 must be proven and stored, not crash),
lets one malformed entry of the signature header hide a good one behind a bare ValueError, and takes `1.7e9` for a time.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from secrets import token_bytes
from typing import Literal

import anyio
import httpx2
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue
from pydantic.alias_generators import to_camel

from gateway.channels.errors import PoisonError, SignatureError, SigningError
from gateway.channels.messages import InboundMessage, Refused, Retry, SendOutcome, Sent
from gateway.channels.payload import MAX_ADDRESS_CHARS, address_field, parse_object, text_field

BODY_LIMIT_BYTES = 1024 * 1024
"""What the accept path reads of a request before it answers 413."""
TOLERANCE = timedelta(minutes=5)
"""How far a request's timestamp may be from ours, either way."""
RETRY_DELAYS_S = (0, 5, 5 * 60, 30 * 60, *(hours * 3600 for hours in (2, 5, 10, 14, 20, 24)))
"""Wait before each attempt, counted from the failure of the one before; the schedule of the specification."""
JITTER_SHARE = 0.2
"""A full jitter of 1.0 makes a delay longer by this share."""
MAX_RETRY_AFTER_S = 24 * 3600.0
"""No receiver can park a message for longer than the schedule's longest step."""
MAX_MEDIA_URLS = 20
MAX_URL_CHARS = 2048

_SECRET_PREFIX = "whsec_"  # noqa: S105 -- the public prefix of secrets
_MIN_SECRET_BYTES = 24
"""The specification's "at least 24 bytes (192 bits)"."""
_NEW_SECRET_BYTES = 32
_ANSWER_LIMIT_BYTES = 64 * 1024
_MAX_PORT = 65_535
_ID, _TIMESTAMP, _SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
# No full stop: id, timestamp and body are joined by it, so an id with one could be split another way under the same
# signature ("Signature scheme" of the specification). 255 is the width of providerMessageId.
_MESSAGE_ID = re.compile(r"[!-\-/-~]{1,255}")
_SECONDS = re.compile(r"[0-9]{1,12}")


class OutboundData(BaseModel):
    """The reply itself."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True)

    id: int
    """outboundMessages.id."""
    conversation_id: int
    to: str
    body: str
    media_urls: tuple[str, ...] = ()
    in_reply_to: str | None = None
    """The webhook-id of the message that this answers; None: nobody asked."""


class OutboundEvent(BaseModel):
    """What a site's `replyUrl` receives."""

    model_config = ConfigDict(frozen=True)

    type: Literal["message.outbound"] = "message.outbound"
    timestamp: AwareDatetime
    """When the reply was written; the same at every attempt."""
    data: OutboundData


def new_secret() -> str:
    """Make a signing secret to give to the other side."""
    return _SECRET_PREFIX + base64.b64encode(token_bytes(_NEW_SECRET_BYTES)).decode()


def verify(headers: Mapping[str, str], raw_body: bytes, secrets: Sequence[str], now: datetime) -> None:
    """Return if one of the signatures was made with one of the secrets, within five minutes of `now` (aware).

    Several secrets are in force while one is being replaced.

    Raises:
        SignatureError: in every other case, so also when no secret is set.
    """
    keys = _verification_keys(secrets)
    message_id = provider_message_id(headers)
    timestamp = _header(headers, _TIMESTAMP)
    signatures = _header(headers, _SIGNATURE).split(" ")
    _check_time(timestamp, now)
    expected = [_signature(key, message_id, timestamp, raw_body).encode() for key in keys]
    # Entries of other versions (v1a) and broken ones are no match; they do not hide a good one.
    given = [entry.encode("utf-8", "surrogatepass") for entry in signatures]
    if not any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in given):
        raise SignatureError("no_match", "sign the exact bytes of the body with the webhook's current secret")


def provider_message_id(headers: Mapping[str, str]) -> str:
    """Return the id that duplicates are found by. It is proven only once `verify` has returned.

    Raises:
        SignatureError: missing, given twice, or malformed.
    """
    message_id = _header(headers, _ID)
    if _MESSAGE_ID.fullmatch(message_id) is None:
        raise SignatureError("malformed_header", f"{_ID} is 1 to 255 visible ASCII characters without full stops")
    return message_id


def normalise(raw_body: bytes, *, provider_message_id: str) -> InboundMessage:
    """Read a verified body: `{"type", "timestamp", "data": {"from", "to", "body", "mediaUrls"}}`.

    Of these only `from` must be there; what else the body holds is kept in `raw_payload`.

    Raises:
        PoisonError: it cannot be processed; its text belongs on the row, beside the raw body.
    """
    payload = parse_object(raw_body)
    data = payload.get("data")
    if not isinstance(data, dict):
        raise PoisonError("field", "'data' is not an object; expected {'from': ..., 'body': ...} in it")
    sender = address_field(data, "from")
    if not sender:
        raise PoisonError("field", "'data.from' is missing; it says who wrote the message")
    return InboundMessage(
        provider_message_id=provider_message_id,
        sender=sender,
        to=address_field(data, "to"),
        body=text_field(data, "body"),
        media_urls=_media_urls(data),
        raw_payload=payload,
    )


def sign(secret: str, message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers that prove a body; `timestamp` (aware) is the time of this attempt.

    Raises:
        SigningError: the secret is no base64 or under 24 bytes, or the id holds a full stop or an invisible character.
    """
    if _MESSAGE_ID.fullmatch(message_id) is None:
        raise SigningError(f"message id {message_id!r} is not 1 to 255 visible ASCII characters without full stops")
    seconds = str(int(timestamp.timestamp()))
    return {
        _ID: message_id,
        _TIMESTAMP: seconds,
        _SIGNATURE: _signature(_decode_secret(secret), message_id, seconds, body),
    }


async def send(
    client: httpx2.AsyncClient,
    *,
    url: str,
    secret: str,
    event_id: str,
    payload: OutboundEvent,
    timeout_s: float,
    now: datetime,
) -> SendOutcome:
    """Post one signed event and say what became of it; the whole exchange takes at most `timeout_s` seconds.

    `event_id` is the receiver's idempotency key and the same at every attempt: that is what makes `Retry` safe after a
    lost answer. Redirects are not followed. The answer's body is read only after a 2xx, and no more than 64 KiB of it.
    Which addresses may be reached is the business of the client's transport.

    Raises:
        SigningError: the secret or the event id is unusable; nothing was sent.
    """
    body = payload.model_dump_json().encode()
    headers = sign(secret, event_id, now, body) | {"content-type": "application/json", "accept-encoding": "identity"}
    target = _target(url)
    if target is None:
        return Refused(reason="the reply URL cannot be called; enter an http or https URL with a host")
    outcome: SendOutcome | None = None
    with anyio.move_on_after(timeout_s):
        try:
            # No timeout per read: it would let an answer drip for ever. The deadline around all of it is the timeout.
            async with client.stream(
                "POST", target, content=body, headers=headers, follow_redirects=False, timeout=None
            ) as response:
                # Decided by the status alone: what goes wrong while the body is read cannot unsend the message.
                outcome = _judge(response.status_code, response.headers.get("retry-after"), now)
                if isinstance(outcome, Sent):
                    outcome = Sent(external_id=await _external_id(response))
        except httpx2.TransportError as error:
            return outcome or Retry(reason=f"no answer ({type(error).__name__})")
    return outcome or Retry(reason=f"no answer within {timeout_s:g} s")


def delay_before(attempt: int, jitter: float) -> float | None:
    """Return the seconds to wait before the attempt to be made next (the first is 1), or None when none is left.

    `jitter` from 0 to 1 is the caller's random number; it only ever lengthens the delay.
    """
    if attempt > len(RETRY_DELAYS_S):
        return None
    return RETRY_DELAYS_S[attempt - 1] * (1 + JITTER_SHARE * jitter)


def _verification_keys(secrets: Sequence[str]) -> list[bytes]:
    if not secrets:
        raise SignatureError("no_secret", "set a signing secret for this webhook")
    try:
        return [_decode_secret(secret) for secret in secrets]
    except SigningError as error:
        raise SignatureError("unusable_secret", error.problem) from None


def _decode_secret(secret: str) -> bytes:
    text = secret.removeprefix(_SECRET_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        # `from None`: the cause would carry the secret into a traceback.
        raise SigningError(f"the secret is not {_SECRET_PREFIX} and base64; make a new one") from None
    if len(key) < _MIN_SECRET_BYTES:
        raise SigningError(f"the secret has {len(key)} bytes; at least {_MIN_SECRET_BYTES} are needed; make a new one")
    return key


def _header(headers: Mapping[str, str], name: str) -> str:
    # By items: starlette's mapping shows a repeated header there and hides it elsewhere.
    values = [value for key, value in headers.items() if key.lower() == name]
    match values:
        case []:
            raise SignatureError("missing_header", f"send {_ID}, {_TIMESTAMP} and {_SIGNATURE}; {name} is not there")
        case [value]:
            return value
        case _:
            raise SignatureError("repeated_header", f"send {name} once")


def _check_time(timestamp: str, now: datetime) -> None:
    if _SECONDS.fullmatch(timestamp) is None:
        raise SignatureError("malformed_header", f"{_TIMESTAMP} is a whole number of seconds since 1970")
    age_s = now.timestamp() - int(timestamp)
    if age_s > TOLERANCE.total_seconds():
        raise SignatureError("timestamp_too_old", "sign each attempt with its own time; check both clocks")
    if age_s < -TOLERANCE.total_seconds():
        raise SignatureError("timestamp_too_new", "check both clocks")


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _media_urls(data: dict[str, JsonValue]) -> tuple[str, ...]:
    urls = data.get("mediaUrls") or []
    if not isinstance(urls, list):
        raise PoisonError("field", f"'mediaUrls' is a {type(urls).__name__}; expected a list of URLs")
    if len(urls) > MAX_MEDIA_URLS:
        raise PoisonError("field", f"'mediaUrls' holds {len(urls)} URLs; at most {MAX_MEDIA_URLS} are allowed")
    return tuple(_media_url(url) for url in urls)


def _media_url(url: JsonValue) -> str:
    if not isinstance(url, str) or not url.lower().startswith(("https://", "http://")) or len(url) > MAX_URL_CHARS:
        raise PoisonError(
            "field", f"'mediaUrls' holds something else than http URLs of up to {MAX_URL_CHARS} characters"
        )
    return url


def _target(url: str) -> httpx2.URL | None:
    """Return the URL if it can be called. A port beyond 65535 would leave httpx2 as a bare ExceptionGroup."""
    try:
        target = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeEncodeError):
        return None
    is_callable = target.scheme in {"http", "https"} and target.host and 0 < (target.port or 443) <= _MAX_PORT
    return target if is_callable else None


def _judge(status: int, retry_after: str | None, now: datetime) -> SendOutcome:
    match status:
        case _ if 200 <= status < 300:
            return Sent()
        case 410:
            return Refused(reason="the receiver wants no more messages (410)", status=status, gone=True)
        case _ if status in {408, 429} or status >= 500:
            reason = f"the receiver cannot take it yet ({status})"
            return Retry(reason=reason, status=status, after_s=_retry_after_s(retry_after, now))
        case _ if 300 <= status < 400:
            reason = f"the receiver redirects ({status}), which is not followed; enter the final reply URL"
            return Refused(reason=reason, status=status)
        case _:
            return Refused(reason=f"the receiver refuses the message ({status})", status=status)


def _retry_after_s(value: str | None, now: datetime) -> float | None:
    """Read both forms of Retry-After (RFC 9110, section 10.2.3); what is neither is ignored."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return min(max((aware - now).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


async def _external_id(response: httpx2.Response) -> str | None:
    """Return the string `id` of a small JSON answer, if it is one."""
    received = bytearray()
    async for chunk in response.aiter_raw():
        received += chunk
        if len(received) > _ANSWER_LIMIT_BYTES:
            return None
    try:
        answer_id = parse_object(bytes(received)).get("id")
    except PoisonError:
        return None
    return answer_id if isinstance(answer_id, str) and 0 < len(answer_id) <= MAX_ADDRESS_CHARS else None
