"""Secrets at rest: AES-256-GCM envelopes that open only in the row they were sealed for.

Owns the keyring (AGENCY_SECRET_KEYS, or the key file of the embedded server) and the envelope format
`v1.<key id>.<base64url of nonce and ciphertext>`. Stored secrets of channels use it; passwords, API keys and tokens are
only ever hashed (`storage.credentials`). Nothing of ours below.

CryptoError
├── KeyringError              AGENCY_SECRET_KEYS or the key file holds no usable list of keys
├── KeyFileError              the key file cannot be used safely as it is
├── EnvelopeFormatError       the text is no envelope of this format
├── UnknownKeyError           sealed with a key that this keyring does not hold
└── EnvelopeMismatchError     altered, or read from another table, column, row or owner than it was sealed for
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import itertools
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage.errors import StorageError

KEYS_SETTING = "AGENCY_SECRET_KEYS"
"""The setting that holds the keys: base64 of 32 bytes each, comma separated, newest first."""

_KEY_BYTES = 32
_NONCE_BYTES = 12
"""96 random bits (NIST SP 800-38D, section 8.2.2): good for 2^32 envelopes per key, far beyond what is stored here."""
_TAG_BYTES = 16
_VERSION = "v1"
_ENVELOPE = re.compile(r"v1\.([0-9a-f]{16})\.([A-Za-z0-9_-]+)")
_MAKE_A_KEY = "make one with `openssl rand -base64 32`"
_FEWEST_DISTINCT_BYTES = 17
"""32 random bytes hold fewer distinct values in 2 of 10^15 cases; a repeated word or pattern always does."""


class CryptoError(StorageError):
    """Base of every error of encryption at rest."""


class KeyringError(CryptoError):
    """The list of keys is unusable."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}; {_MAKE_A_KEY}")
        self.source = source
        self.problem = problem


class KeyFileError(CryptoError):
    """The key file cannot be used safely."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"key file {str(path)!r}: {problem}")
        self.path = path
        self.problem = problem


class EnvelopeFormatError(CryptoError):
    """The text is no envelope."""

    def __init__(self) -> None:
        # The text is not quoted: a secret stored in the clear by mistake would end up in a log.
        super().__init__("the stored value is not a v1 envelope; seal the secret again to replace it")


class UnknownKeyError(CryptoError):
    """The key that sealed the value is not in the keyring."""

    def __init__(self, key_id: str, source: str) -> None:
        super().__init__(
            f"the value was sealed with key {key_id!r}, which is not in {source}; append that key after the newest one"
        )
        self.key_id = key_id
        self.source = source


class EnvelopeMismatchError(CryptoError):
    """The value was altered, or belongs somewhere else."""

    def __init__(self, *, table: str, column: str, row: str, owner: str) -> None:
        super().__init__(
            f"the value in {table}.{column} of row {row!r}, owner {owner!r} was altered or sealed for another place; "
            "enter the secret again there"
        )
        self.table = table
        self.column = column
        self.row = row
        self.owner = owner


class Keyring:
    """Keys by id, the newest of which seals; every one opens. Holds ciphers only, so no dump of it shows a key."""

    __slots__ = ("_ciphers", "_newest", "_source")

    def __init__(self, ciphers: Mapping[str, AESGCM], *, source: str) -> None:
        """`ciphers` by key id, newest first, not empty; `source` says in errors where the keys came from."""
        self._ciphers = dict(ciphers)
        self._newest = next(iter(self._ciphers))
        self._source = source

    def __repr__(self) -> str:
        return f"Keyring(key_ids={self.key_ids!r}, source={self._source!r})"

    @classmethod
    def parse(cls, text: str, *, source: str = KEYS_SETTING) -> "Keyring":
        """Read comma separated base64 keys, newest first.

        Raises:
            KeyringError: none, malformed, short, repeated or not random; the message names the position, never the key.
        """
        if not text.strip():
            raise KeyringError(source, "no key is set")
        parts = text.split(",")
        ciphers: dict[str, AESGCM] = {}
        for position, part in enumerate(parts, start=1):
            name = f"key {position} of {len(parts)}"
            key = _decode_key(part.strip(), name=name, source=source)
            key_id = _key_id(key)
            if key_id in ciphers:
                raise KeyringError(source, f"{name} is listed twice")
            ciphers[key_id] = AESGCM(key)
        return cls(ciphers, source=source)

    @classmethod
    def load_or_create(cls, path: Path) -> "Keyring":
        """Read the key file, made first (mode 0600, one new key) if there is none.

        Processes that start at once end up with the same key. The file has the syntax of the setting. Blocking.

        Raises:
            KeyFileError: others may read it, or it cannot be read or made.
            KeyringError: its content is unusable.
        """
        try:
            if not path.exists():
                _create_key_file(path)
            text = _read_private(path)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise KeyFileError(path, f"{reason}; fix that, or set {KEYS_SETTING} instead") from error
        return cls.parse(text, source=f"key file {str(path)!r}")

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Fingerprints of the keys, newest first. They are not secret."""
        return tuple(self._ciphers)

    def seal(self, plaintext: bytes | str, *, table: str, column: str, row: int | str, owner: int | str) -> str:
        """Encrypt with the newest key, for exactly this place.

        A column that holds several secrets names each of them: `column="config.signingSecret"`. Otherwise two envelopes
        of one row could be exchanged.
        """
        data = plaintext.encode() if isinstance(plaintext, str) else plaintext
        nonce = secrets.token_bytes(_NONCE_BYTES)
        place = _associated_data(self._newest, table, column, str(row), str(owner))
        sealed = self._ciphers[self._newest].encrypt(nonce, data, place)
        return f"{_VERSION}.{self._newest}.{_to_base64url(nonce + sealed)}"

    def open(self, envelope: str, *, table: str, column: str, row: int | str, owner: int | str) -> bytes:
        """Decrypt what `seal` made for the same place.

        Raises:
            EnvelopeFormatError: not an envelope.
            UnknownKeyError: its key is not in the keyring.
            EnvelopeMismatchError: altered, or sealed for another place.
        """
        key_id, payload = _parse_envelope(envelope)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise UnknownKeyError(key_id, self._source)
        place = _associated_data(key_id, table, column, str(row), str(owner))
        try:
            return cipher.decrypt(payload[:_NONCE_BYTES], payload[_NONCE_BYTES:], place)
        except InvalidTag as error:
            raise EnvelopeMismatchError(table=table, column=column, row=str(row), owner=str(owner)) from error

    def open_text(self, envelope: str, *, table: str, column: str, row: int | str, owner: int | str) -> str:
        """Like `open`, for a secret that was sealed as text."""
        return self.open(envelope, table=table, column=column, row=row, owner=owner).decode()

    def needs_reseal(self, envelope: str) -> bool:
        """Whether another key than the newest sealed it; opening and sealing it again completes a rotation.

        Raises:
            EnvelopeFormatError: not an envelope.
        """
        key_id, _ = _parse_envelope(envelope)
        return key_id != self._newest


def _decode_key(text: str, *, name: str, source: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        # `from None`: the cause would carry the text of the key into a traceback.
        raise KeyringError(source, f"{name} is not base64") from None
    if len(key) != _KEY_BYTES:
        raise KeyringError(source, f"{name} has {len(key)} bytes instead of {_KEY_BYTES}")
    if _looks_chosen(key):
        raise KeyringError(source, f"{name} is a pattern or a text, not random bytes")
    return key


def _looks_chosen(key: bytes) -> bool:
    is_repetitive = len(set(key)) < _FEWEST_DISTINCT_BYTES
    is_text = key.isascii() and key.decode("ascii").isprintable()
    is_series = len({(after - before) % 256 for before, after in itertools.pairwise(key)}) == 1
    return is_repetitive or is_text or is_series


def _key_id(key: bytes) -> str:
    """A fingerprint that tells nothing of the key: a PRF under the key itself, cut to 64 bits."""
    return hmac.new(key, b"agency secret key id v1", hashlib.sha256).hexdigest()[:16]


def _associated_data(key_id: str, *place: str) -> bytes:
    """Length-prefixed fields, so that ("ab", "c") and ("a", "bc") differ."""
    fields = [field.encode() for field in (_VERSION, key_id, *place)]
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def _to_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _parse_envelope(envelope: str) -> tuple[str, bytes]:
    """Return the key id and nonce + ciphertext + tag."""
    match = _ENVELOPE.fullmatch(envelope)
    if match is None:
        raise EnvelopeFormatError
    key_id, text = match.groups()
    try:
        payload = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise EnvelopeFormatError from None
    # Unpadded base64 has unused bits at its end: only one spelling of an envelope is valid.
    if len(payload) < _NONCE_BYTES + _TAG_BYTES or _to_base64url(payload) != text:
        raise EnvelopeFormatError
    return key_id, payload


def _create_key_file(path: Path) -> None:
    """Write a whole new file beside `path`, then link it into place: the first process wins, none sees half a key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster; its key is the key
            path.hardlink_to(draft)
    finally:
        draft.unlink()
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Make the new name survive a power cut: what is sealed with a lost key is lost."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_private(path: Path) -> str:
    with path.open("rb") as file:
        # The open file is checked, not the path, which could be exchanged in between.
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise KeyFileError(
                path,
                f"mode {mode:04o} lets other users read or change it; run `chmod 600` on it, "
                "and replace the key if they may have read it",
            )
        return file.read().decode("ascii", errors="replace").strip()
