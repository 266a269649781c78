"""What proves who somebody is: passwords, API keys and tokens. Only hashes of them are ever stored.

A password is slow to guess only if its hash is slow (argon2id). Keys and tokens carry 256 random bits, so one SHA-256
is enough, and the hash can be looked up. Nothing of ours below.

CredentialError
├── PasswordRefusedError      empty, too long, or no valid text
└── ApiKeyFormatError         the text is not an API key
"""

import base64
import functools
import hashlib
import hmac
import re
import secrets
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pydantic import SecretStr

from storage.errors import StorageError

UNUSABLE_PASSWORD = "!"  # noqa: S105 -- the absence of a password
"""The stored value of a user who cannot log in with a password. No password verifies against it."""

MAX_PASSWORD_CHARS = 1024
_ARGON2_AT_ONCE = 4
"""Each takes 64 MiB and about 50 ms; without a bound, unauthenticated log-ins could take all memory."""
_SECRET_BYTES = 32
_PREFIX_CHARS = 12
# Lower-case base32 (RFC 4648, section 6): no '_' that would make the split ambiguous, no '-' to break a double click.
_API_KEY = re.compile(r"(ak_[a-z2-7]{12})_[a-z2-7]{52}")

_passwords = PasswordHash((Argon2Hasher(),))
_argon2_limiter: RunVar[anyio.CapacityLimiter] = RunVar("argon2_limiter")


class CredentialError(StorageError):
    """Base of every error of credentials. Messages never quote the credential."""


class PasswordRefusedError(CredentialError):
    """The password cannot be set."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the password {problem}; choose one of 1 to {MAX_PASSWORD_CHARS} characters")
        self.problem = problem


class ApiKeyFormatError(CredentialError):
    """The text is not an API key."""

    def __init__(self) -> None:
        super().__init__("not an API key; expected ak_<12 characters>_<52 characters>, as shown when the key was made")


class ParsedApiKey(NamedTuple):
    """What is looked up (`prefix`, apiKeys.keyPrefix) and what must then be equal (`key_hash`, apiKeys.keyHash)."""

    prefix: str
    key_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A key just made. `plaintext` is shown to its owner once; the rest is stored."""

    plaintext: SecretStr
    prefix: str
    """15 characters, `ak_` included."""
    key_hash: str
    """SHA-256 of the whole key, hex."""


async def hash_password(password: str) -> str:
    """Return the argon2id hash to store.

    Raises:
        PasswordRefusedError: empty, longer than 1024 characters, or no valid Unicode.
    """
    problem = _problem_of(password)
    if problem is not None:
        raise PasswordRefusedError(problem)
    return await anyio.to_thread.run_sync(_passwords.hash, _canonical(password), limiter=_limiter())


async def verify_password(password: str, password_hash: str | None) -> bool:
    """Whether the password belongs to the hash; `None` stands for "no such user".

    An unknown user and an unusable password cost the same time as a wrong password, so that the time of a log-in does
    not tell which accounts exist.
    """
    if _problem_of(password) is not None:
        return False
    return await anyio.to_thread.run_sync(_verify, _canonical(password), password_hash, limiter=_limiter())


def new_api_key() -> NewApiKey:
    """Make a key `ak_<prefix>_<secret>` with 256 random bits in the secret."""
    prefix = f"ak_{_base32(secrets.token_bytes(_PREFIX_CHARS))[:_PREFIX_CHARS]}"
    plaintext = f"{prefix}_{_base32(secrets.token_bytes(_SECRET_BYTES))}"
    return NewApiKey(plaintext=SecretStr(plaintext), prefix=prefix, key_hash=token_hash(plaintext))


def parse_api_key(text: str) -> ParsedApiKey:
    """Split a presented key into what to look up and what to compare with `same_hash`.

    Raises:
        ApiKeyFormatError: not of the form of a key.
    """
    match = _API_KEY.fullmatch(text)
    if match is None:
        raise ApiKeyFormatError
    return ParsedApiKey(prefix=match.group(1), key_hash=token_hash(text))


def same_hash(presented: str, stored: str) -> bool:
    """Compare two hashes in constant time."""
    return hmac.compare_digest(presented.encode(), stored.encode())


def new_token() -> str:
    """Make a log-in session or webhook token: 256 random bits, URL-safe, 43 characters."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def token_hash(token: str) -> str:
    """Return the SHA-256 of a token as 64 hex characters: what is stored and looked up."""
    # surrogatepass: a token comes from outside and may be no valid text; it must miss, not crash.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _problem_of(password: str) -> str | None:
    if not password:
        return "is empty"
    if len(password) > MAX_PASSWORD_CHARS:
        return f"has {len(password)} characters"
    if any("\ud800" <= character <= "\udfff" for character in password):
        return "is no valid Unicode text"
    return None


def _canonical(password: str) -> str:
    """One spelling of what looks the same: keyboards differ in how they compose é.

    https://pages.nist.gov/800-63-3/sp800-63b.html, section 5.1.1.2.
    """
    return unicodedata.normalize("NFKC", password)


def _verify(password: str, password_hash: str | None) -> bool:
    if password_hash is None or not Argon2Hasher.identify(password_hash):
        _passwords.verify(password, _decoy_hash())
        return False
    return _passwords.verify(password, password_hash)


@functools.cache
def _decoy_hash() -> str:
    """A hash with today's parameters, of a password that nobody knows."""
    return _passwords.hash(new_token())


def _limiter() -> anyio.CapacityLimiter:
    """The bound on concurrent hashing, one per event loop."""
    try:
        return _argon2_limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_ARGON2_AT_ONCE)
        _argon2_limiter.set(limiter)
        return limiter


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()
