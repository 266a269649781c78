"""Encryption at rest: what opens, what never opens, and which keys are accepted."""

import base64
import random
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.crypto import (
    CryptoError,
    EnvelopeFormatError,
    EnvelopeMismatchError,
    KeyFileError,
    Keyring,
    KeyringError,
    UnknownKeyError,
)


class Place(TypedDict):
    """Where a secret belongs."""

    table: str
    column: str
    row: int | str
    owner: int | str


def key_text(seed: int) -> str:
    return base64.b64encode(random.Random(seed).randbytes(32)).decode()  # noqa: S311 -- the same keys in every run


OLD, NEW, OTHER = key_text(1), key_text(2), key_text(3)
KEYRING = Keyring.parse(NEW)
HOME: Place = {"table": "userWebhooks", "column": "config.signingSecret", "row": 7, "owner": 3}

places = st.fixed_dictionaries({name: st.text(st.characters(codec="utf-8"), max_size=8) for name in HOME})


def moved(**change: int | str) -> Place:
    return {**HOME, **change}  # pyright: ignore[reportReturnType] -- the changed names are those of Place


@given(st.binary(max_size=300), places)
def test_what_was_sealed_for_a_place_opens_there(plaintext: bytes, place: Place) -> None:
    assert KEYRING.open(KEYRING.seal(plaintext, **place), **place) == plaintext


@given(st.text(st.characters(codec="utf-8")))
def test_text_comes_back_as_text(plaintext: str) -> None:
    assert KEYRING.open_text(KEYRING.seal(plaintext, **HOME), **HOME) == plaintext


@given(places, places)
def test_an_envelope_opens_in_no_other_place(home: Place, elsewhere: Place) -> None:
    envelope = KEYRING.seal("whsec", **home)
    if home == elsewhere:
        assert KEYRING.open_text(envelope, **elsewhere) == "whsec"
    else:
        with pytest.raises(EnvelopeMismatchError):
            KEYRING.open(envelope, **elsewhere)


@pytest.mark.parametrize(
    "place",
    [
        moved(row=8),
        moved(owner=4),
        moved(column="config.webhookToken"),
        moved(table="apiKeys"),
        moved(row=3, owner=7),
        moved(table="userWebhooksconfig", column=".signingSecret"),
    ],
)
def test_a_moved_envelope_names_where_it_was_read(place: Place) -> None:
    envelope = KEYRING.seal("whsec", **HOME)
    with pytest.raises(EnvelopeMismatchError) as caught:
        KEYRING.open(envelope, **place)
    error = caught.value
    assert (error.table, error.column) == (place["table"], place["column"])
    assert (error.row, error.owner) == (str(place["row"]), str(place["owner"]))


@given(st.data())
def test_every_bit_flip_of_the_payload_is_noticed(data: st.DataObject) -> None:
    version, key_id, text = KEYRING.seal("a secret", **HOME).split(".")
    payload = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= 1 << data.draw(st.integers(0, 7))
    flipped = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
    with pytest.raises(EnvelopeMismatchError):
        KEYRING.open(f"{version}.{key_id}.{flipped}", **HOME)


@given(st.data(), st.characters(codec="utf-8"))
def test_every_other_character_of_the_envelope_is_noticed(data: st.DataObject, character: str) -> None:
    # Payloads of all lengths modulo 3, so that the unused bits of the last base64 character are covered.
    envelope = KEYRING.seal("x" * data.draw(st.integers(0, 5)), **HOME)
    position = data.draw(st.integers(0, len(envelope) - 1))
    altered = envelope[:position] + character + envelope[position + 1 :]
    if altered != envelope:
        with pytest.raises(CryptoError):
            KEYRING.open(altered, **HOME)


def test_only_one_spelling_of_the_last_character_opens() -> None:
    envelope = KEYRING.seal("x", **HOME)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    opened: list[str] = []
    for last in alphabet:
        try:
            KEYRING.open(envelope[:-1] + last, **HOME)
        except CryptoError:
            continue
        opened.append(last)
    assert opened == [envelope[-1]]


@given(st.text())
def test_text_that_is_no_envelope_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(EnvelopeFormatError) as caught:
        KEYRING.open(text, **HOME)
    assert len(text) < 4 or text not in str(caught.value)


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_cut_envelope_is_refused(cut: int) -> None:
    with pytest.raises(CryptoError):
        KEYRING.open(KEYRING.seal("x", **HOME)[:-cut], **HOME)


def test_no_two_envelopes_of_one_secret_are_equal() -> None:
    assert len({KEYRING.seal("x", **HOME) for _ in range(100)}) == 100


def test_an_old_key_still_opens_and_its_envelopes_ask_to_be_resealed() -> None:
    before = Keyring.parse(OLD).seal("x", **HOME)
    rotated = Keyring.parse(f"{NEW}, {OLD}")
    after = rotated.seal(rotated.open(before, **HOME), **HOME)
    assert rotated.needs_reseal(before)
    assert not rotated.needs_reseal(after)
    assert Keyring.parse(NEW).open(after, **HOME) == b"x"


def test_an_unknown_key_is_named_with_the_setting_to_extend() -> None:
    envelope = Keyring.parse(OLD).seal("x", **HOME)
    with pytest.raises(UnknownKeyError) as caught:
        KEYRING.open(envelope, **HOME)
    assert caught.value.key_id == Keyring.parse(OLD).key_ids[0]
    assert caught.value.source == "AGENCY_SECRET_KEYS"
    assert "AGENCY_SECRET_KEYS" in str(caught.value)


def test_a_keyring_shows_ids_and_never_keys() -> None:
    keyring = Keyring.parse(f"{NEW},{OLD}")
    shown = f"{keyring!r} {keyring} {[getattr(keyring, name) for name in Keyring.__slots__]!r}"
    assert keyring.key_ids[0] in shown
    for text in (NEW, OLD):
        key = base64.b64decode(text)
        assert text not in shown
        assert key.hex() not in shown
        assert repr(key) not in shown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no key is set"),
        (" \n", "no key is set"),
        ("not base64!", "key 1 of 1 is not base64"),
        ("schlüssel", "key 1 of 1 is not base64"),
        (f"{NEW},", "key 2 of 2 has 0 bytes instead of 32"),
        (base64.b64encode(b"k" * 16).decode(), "key 1 of 1 has 16 bytes instead of 32"),
        (base64.b64encode(bytes(33)).decode(), "key 1 of 1 has 33 bytes instead of 32"),
        (f"{NEW},{OLD},{NEW}", "key 3 of 3 is listed twice"),
        (base64.b64encode(bytes(32)).decode(), "key 1 of 1 is a pattern or a text, not random bytes"),
        (base64.b64encode(b"\xff" * 32).decode(), "key 1 of 1 is a pattern or a text, not random bytes"),
        (base64.b64encode(bytes(range(32))).decode(), "key 1 of 1 is a pattern or a text, not random bytes"),
        (base64.b64encode(b"\xde\xad\xbe\xef" * 8).decode(), "key 1 of 1 is a pattern or a text, not random bytes"),
        (
            base64.b64encode(b"The-quick-brown-fox-jumps-over-4").decode(),
            "key 1 of 1 is a pattern or a text, not random bytes",
        ),
    ],
)
def test_a_list_of_keys_that_protects_nothing_is_refused(text: str, problem: str) -> None:
    with pytest.raises(KeyringError) as caught:
        Keyring.parse(text)
    assert caught.value.problem == problem
    assert "openssl rand -base64 32" in str(caught.value)


def test_a_key_with_a_typo_does_not_reach_the_traceback() -> None:
    with pytest.raises(KeyringError) as caught:
        Keyring.parse(NEW[:-4] + "*")
    assert NEW[:20] not in "".join(traceback.format_exception(caught.value))


def test_random_keys_are_accepted() -> None:
    for seed in range(2_000):
        Keyring.parse(key_text(seed))


def test_the_key_file_is_made_private_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "data" / "secret.key"
    first = Keyring.load_or_create(path)
    second = Keyring.load_or_create(path)
    assert second.open(first.seal("x", **HOME), **HOME) == b"x"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text().strip() not in repr(first)


def test_processes_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from storage.crypto import Keyring\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print([Keyring.load_or_create(Path(sys.argv[1]) / str(n)).key_ids[0] for n in range(50)])"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    assert len(set(answers)) == 1
    assert len(list(tmp_path.iterdir())) == 50


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_file_that_others_can_touch_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret.key"
    Keyring.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError) as caught:
        Keyring.load_or_create(path)
    assert caught.value.path == path
    assert "chmod 600" in str(caught.value)


def test_a_damaged_key_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(KeyringError) as caught:
        Keyring.load_or_create(path)
    assert str(path) in caught.value.source
    assert path.read_bytes() == b"\xff\xfe"


def test_an_empty_key_file_is_refused_rather_than_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    path.touch(mode=0o600)
    with pytest.raises(KeyringError):
        Keyring.load_or_create(path)


def test_a_path_that_cannot_hold_a_file_is_reported_with_the_alternative(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "secret.key"):
        with pytest.raises(KeyFileError) as caught:
            Keyring.load_or_create(path)
        assert "AGENCY_SECRET_KEYS" in str(caught.value)


def test_a_dangling_link_is_never_written_through(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError):
        Keyring.load_or_create(path)
    assert not (tmp_path / "elsewhere").exists()
