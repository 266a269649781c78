"""Errors of the channels.

ChannelError
├── SignatureError     the request does not prove who sent it: answer 401, store nothing
├── PoisonError        the sender is proven, the content unusable: store it, mark it, answer 2xx
└── SigningError       we cannot sign with this secret or message id
"""

from typing import Literal

SignatureReason = Literal[
    "no_secret",
    "unusable_secret",
    "missing_header",
    "repeated_header",
    "malformed_header",
    "timestamp_too_old",
    "timestamp_too_new",
    "no_match",
]
PoisonReason = Literal["not_utf8", "not_json", "not_an_object", "nul", "surrogate", "number", "too_deep", "field"]


class ChannelError(Exception):
    """Base of every error that a channel raises on purpose."""


class SignatureError(ChannelError):
    """The request is not signed by somebody who knows the secret."""

    def __init__(self, reason: SignatureReason, advice: str) -> None:
        super().__init__(f"signature refused ({reason}): {advice}")
        self.reason: SignatureReason = reason


class PoisonError(ChannelError):
    """A signed message that cannot be processed; its text is safe to store on the row."""

    def __init__(self, reason: PoisonReason, problem: str) -> None:
        super().__init__(problem)
        self.reason: PoisonReason = reason


class SigningError(ChannelError):
    """An outgoing event cannot be signed."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"cannot sign: {problem}")
        self.problem = problem
