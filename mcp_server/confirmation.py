"""The gate before what cannot be undone: a token that only the first of two calls gives out.

It is bound to the caller, to the arguments and to five minutes, and holds nothing but its expiry and a MAC: no state,
no secrets. The key lives as long as the process, so a restart asks again.
"""

import base64
import binascii
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mcp_server.errors import ConfirmationError
from runtime.clock import Clock

VALID_FOR = timedelta(minutes=5)

_MAC_BYTES = 24
_EXPIRY_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What the second call has to bring."""

    token: str
    expires_at: datetime


class Confirmations:
    """Issues and checks tokens."""

    def __init__(self, clock: Clock, *, key: bytes | None = None) -> None:
        self._clock = clock
        self._key = key or secrets.token_bytes(32)

    def issue(self, user_id: int, action: Sequence[str]) -> Confirmation:
        """Return the token that confirms `action` for this caller."""
        # Whole seconds, because that is what the token holds.
        expires_at = (self._clock.now() + VALID_FOR).replace(microsecond=0)
        expiry = int(expires_at.timestamp())
        packed = expiry.to_bytes(_EXPIRY_BYTES, "big") + self._mac(user_id, action, expiry)
        return Confirmation(token=base64.urlsafe_b64encode(packed).decode(), expires_at=expires_at)

    def check(self, token: str, user_id: int, action: Sequence[str]) -> None:
        """Return when `token` confirms `action` for this caller now.

        Raises:
            ConfirmationError: it is for another call or caller, was never issued here, or has expired.
        """
        try:
            packed = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            packed = b""
        if len(packed) != _EXPIRY_BYTES + _MAC_BYTES:
            raise ConfirmationError("is not one that was issued here")
        expiry = int.from_bytes(packed[:_EXPIRY_BYTES], "big")
        if not hmac.compare_digest(packed[_EXPIRY_BYTES:], self._mac(user_id, action, expiry)):
            raise ConfirmationError("was issued for another call, or before a restart")
        if datetime.fromtimestamp(expiry, UTC) < self._clock.now():
            raise ConfirmationError("has expired")

    def _mac(self, user_id: int, action: Sequence[str], expiry: int) -> bytes:
        bound = json.dumps([user_id, list(action), expiry]).encode()
        return hmac.digest(self._key, bound, "sha256")[:_MAC_BYTES]
