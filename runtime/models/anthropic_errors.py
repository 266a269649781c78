"""The one translation from failures of the Messages API, its SDK and its HTTP client to the errors of the runtime.

Two moments differ: until the response's head has arrived a failure says that the provider cannot or will not answer;
after it, that the reply was cut. Texts carry what the provider said, never what we sent: a request holds people's
words.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime

import anthropic
import httpx2

from runtime.errors import ModelError, ModelReplyInvalidError, ModelRequestError, ModelUnavailableError

_PASSING_STATUSES = frozenset({408, 409, 425, 429, 499})
_REFUSALS = frozenset(
    {
        "authentication_error",
        "billing_error",
        "invalid_request_error",
        "not_found_error",
        "permission_error",
        "request_too_large",
    }
)
"""Error types that the same request meets again (https://platform.claude.com/docs/en/api/errors)."""

_HINTS = {
    401: "the API key is not accepted; check ANTHROPIC_API_KEY",
    402: "the account cannot pay for it; see the provider's billing page",
    403: "this API key may not use model {model!r}; check the key's workspace or AGENCY_MODEL",
    404: "no model {model!r} behind this base URL; check AGENCY_MODEL and the base URL",
    413: "it is larger than the provider takes; send less history",
}
_MAX_TEXT = 500
"""Characters kept of what the provider said; a proxy may answer with a whole page."""


def provider_error(kind: str, message: str) -> ModelError:
    """Return our error for an `error` object that the API sent inside a response that began well."""
    reason = f"{kind}: {message[:_MAX_TEXT]}"
    return ModelRequestError(reason) if kind in _REFUSALS else ModelUnavailableError(reason)


@contextmanager
def translated_opening(model: str) -> Generator[None]:
    """Translate what goes wrong until the response's head has arrived."""
    try:
        yield
    except anthropic.APIStatusError as error:
        raise _status_error(error, model) from error
    except anthropic.APITimeoutError as error:
        raise ModelUnavailableError(f"no answer in time from {error.request.url.host!r}") from error
    except anthropic.APIConnectionError as error:
        raise _connection_error(error) from error
    except anthropic.AnthropicError as error:
        raise ModelRequestError(f"the SDK refused to send it ({type(error).__name__})") from error
    except httpx2.HTTPError as error:
        raise ModelUnavailableError(f"the connection failed ({type(error).__name__})") from error
    except ValueError as error:
        # Lone surrogates and NaN in the history; the SDK lets the encoder's own error escape.
        raise ModelRequestError(f"it cannot be written as JSON ({type(error).__name__})") from error


@contextmanager
def translated_reading() -> Generator[None]:
    """Translate what goes wrong while the body is read; the SDK lets bare httpx2 and codec errors escape here."""
    try:
        yield
    except httpx2.TimeoutException as error:
        raise ModelUnavailableError(f"the reply stalled ({type(error).__name__})") from error
    except httpx2.HTTPError as error:
        raise ModelReplyInvalidError(f"the connection broke in mid-reply ({type(error).__name__})") from error
    except ValueError as error:
        raise ModelReplyInvalidError(f"its bytes cannot be decoded ({type(error).__name__})") from error


def is_about_grammar(error: ModelRequestError) -> bool:
    """Tell whether the provider refuses to compile the schemas of strict tools; only its words say so."""
    said = error.reason.lower()
    return error.status == 400 and any(word in said for word in ("grammar", "schema", "strict"))


def _status_error(error: anthropic.APIStatusError, model: str) -> ModelError:
    status = error.status_code
    said = error.api_message if isinstance(error.api_message, str) else "no explanation"  # pyright: ignore[reportUnnecessaryIsInstance] -- the SDK copies it from the body unchecked
    request = "" if error.request_id is None else f", request {error.request_id}"
    reason = f"{said[:_MAX_TEXT]} (HTTP {status}{request})"
    if status in _PASSING_STATUSES or status >= 500:
        return ModelUnavailableError(reason, retry_after_s=retry_after_s(error.response.headers))
    hint = _HINTS.get(status)
    if hint is not None:
        reason = f"{hint.format(model=model)}; the provider said: {reason}"
    return ModelRequestError(reason, status=status)


def _connection_error(error: anthropic.APIConnectionError) -> ModelError:
    cause = type(error.__cause__).__name__
    if isinstance(error.__cause__, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        return ModelRequestError(f"it cannot be sent to {str(error.request.url)!r} ({cause}); check the base URL")
    return ModelUnavailableError(f"no connection to {error.request.url.host!r} ({cause})")


def retry_after_s(headers: httpx2.Headers) -> float | None:
    """Return how many seconds the provider asks us to wait, None when it does not say or says nonsense.

    Reads `retry-after-ms`, then `Retry-After` as seconds or as an HTTP date (RFC 9110 section 10.2.3). A date counts
    from the response's own `Date`, so that our clock's error does not enter.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _seconds(value)
    if seconds is not None:
        return seconds
    until, sent_at = _moment(value), _moment(headers.get("date"))
    if until is None or sent_at is None:
        return None
    return max(0.0, (until - sent_at).total_seconds())


def _seconds(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _moment(value: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    # A date without a zone cannot be compared; HTTP dates always say GMT.
    return moment if moment.tzinfo is not None else None
