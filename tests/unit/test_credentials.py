"""Passwords, API keys and tokens."""

import hashlib
import re

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.credentials import (
    MAX_PASSWORD_CHARS,
    UNUSABLE_PASSWORD,
    ApiKeyFormatError,
    PasswordRefusedError,
    hash_password,
    new_api_key,
    new_token,
    parse_api_key,
    same_hash,
    token_hash,
    verify_password,
)


async def test_a_password_verifies_against_its_own_argon2id_hash_only() -> None:
    stored = await hash_password("correct horse")
    assert stored.startswith("$argon2id$")
    assert len(stored) <= 255
    assert await verify_password("correct horse", stored)
    assert not await verify_password("correct horse ", stored)


async def test_equal_passwords_have_different_hashes() -> None:
    assert await hash_password("same") != await hash_password("same")


async def test_a_password_verifies_however_its_accents_are_composed() -> None:
    stored = await hash_password("caf\u00e9")
    assert await verify_password("cafe\u0301", stored)
    assert not await verify_password("cafe", stored)


@pytest.mark.parametrize("password", ["", "x" * (MAX_PASSWORD_CHARS + 1), "half \ud800"])
async def test_a_password_that_cannot_be_typed_again_is_refused_and_never_verifies(password: str) -> None:
    with pytest.raises(PasswordRefusedError) as caught:
        await hash_password(password)
    assert not password or password not in str(caught.value)
    assert not await verify_password(password, await hash_password("x"))


async def test_the_longest_password_counts_to_its_last_character() -> None:
    longest = "x" * MAX_PASSWORD_CHARS
    stored = await hash_password(longest)
    assert await verify_password(longest, stored)
    assert not await verify_password(longest[:-1], stored)


@pytest.mark.parametrize("stored", [UNUSABLE_PASSWORD, "", None, "$argon2id$broken", "$2b$12$abcdefghijklmnopqrstuv"])
@pytest.mark.parametrize("password", [UNUSABLE_PASSWORD, "x", ""])
async def test_what_is_no_hash_verifies_no_password(stored: str | None, password: str) -> None:
    assert not await verify_password(password, stored)


async def test_the_event_loop_runs_on_while_passwords_are_hashed() -> None:
    ticks = 0
    async with anyio.create_task_group() as tasks:

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(tick)
        await hash_password("x")
        tasks.cancel_scope.cancel()
    # Hashing on the loop would let the other task run once at most before it returned.
    assert ticks > 10


async def test_many_log_ins_at_once_all_get_their_answer() -> None:
    stored = await hash_password("right")
    answers: dict[int, bool] = {}

    async def log_in(number: int) -> None:
        answers[number] = await verify_password("right" if number % 2 else "wrong", stored)

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(log_in, number)
    assert answers == {number: bool(number % 2) for number in range(10)}


def test_a_new_api_key_parses_to_what_is_stored() -> None:
    key = new_api_key()
    plaintext = key.plaintext.get_secret_value()
    assert parse_api_key(plaintext) == (key.prefix, key.key_hash)
    assert key.key_hash == hashlib.sha256(plaintext.encode()).hexdigest()
    assert re.fullmatch(r"ak_[a-z2-7]{12}_[a-z2-7]{52}", plaintext)
    assert plaintext.startswith(f"{key.prefix}_")
    assert len(key.prefix) <= 20


def test_a_new_api_key_does_not_show_itself() -> None:
    key = new_api_key()
    secret = key.plaintext.get_secret_value().rpartition("_")[2]
    assert secret not in f"{key!r} {key}"
    assert key.prefix in repr(key)


def test_no_two_keys_or_tokens_are_equal() -> None:
    assert len({new_api_key().prefix for _ in range(200)}) == 200
    assert len({new_token() for _ in range(200)}) == 200


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ak_",
        "ak_abcdefghijkl",
        "ak_abcdefghijkl_",
        f"ak_abcdefghijkl_{'a' * 51}",
        f"ak_abcdefghijkl_{'a' * 53}",
        f"ak_abcdefghijkl_{'A' * 52}",
        f"ak_abcdefghijk_{'a' * 53}",
        f"ak_abcdefghij_k_{'a' * 52}",
        f"AK_abcdefghijkl_{'a' * 52}",
        f" ak_abcdefghijkl_{'a' * 52}",
        f"ak_abcdefghijkl_{'a' * 52}\n",
        f"ak_abcdefghijkl_{'a' * 51}\u0660",
        f"ak_abcdefghijkl_{'a' * 51}\0",
    ],
)
def test_text_that_is_no_api_key_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ApiKeyFormatError) as caught:
        parse_api_key(text)
    assert len(text) < 16 or text not in str(caught.value)


@given(st.text())
def test_any_text_is_either_a_key_or_refused(text: str) -> None:
    with pytest.raises(ApiKeyFormatError):
        parse_api_key(text)


@given(st.text(st.characters()))
@example("half \ud800")
def test_any_text_has_a_token_hash(text: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", token_hash(text))


def test_a_token_is_url_safe_and_hashes_to_one_value() -> None:
    token = new_token()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert token_hash(token) == token_hash(token) != token_hash(new_token())


def test_hashes_compare_by_value() -> None:
    assert same_hash(token_hash("a"), token_hash("a"))
    assert not same_hash(token_hash("a"), token_hash("b"))
    assert not same_hash(token_hash("a"), "ü")
