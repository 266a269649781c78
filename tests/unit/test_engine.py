"""Addresses as people and hosters write them, turned into what the driver takes."""

from typing import Any, cast

import pytest
from asyncpg import connect_utils

from storage.engine import Address, clean_dsn, connect
from storage.errors import DatabaseUnavailableError


def understood(dsn: str) -> tuple[list[Any], str, str | None, str]:
    """Return where, who, by which password and to which database asyncpg itself would connect."""
    parse = cast("Any", connect_utils)._parse_connect_dsn_and_args  # the judge itself, which has no type stubs
    keywords = (
        "host port user password passfile database ssl service servicefile direct_tls server_settings "
        "target_session_attrs krbsrvname gsslib"
    )
    addresses, parameters, *_ = parse(dsn=clean_dsn(dsn), **dict.fromkeys(keywords.split()))
    settings: dict[str, str] | None = parameters.server_settings
    assert not settings, "a parameter would reach the server as a setting, which refuses it"
    return list(addresses), parameters.user, parameters.password, parameters.database


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgres+psycopg"])
def test_every_usual_scheme_is_the_driver_s(scheme: str) -> None:
    assert clean_dsn(f" {scheme}://me@db.example/app\n") == "postgresql://me@db.example/app"


@pytest.mark.parametrize(
    "parameters",
    [
        "channel_binding=require",
        "pgbouncer=true&connection_limit=5&schema=public",
        "application_name=x&options=-c%20geqo%3Doff",
        "prepared_statement_cache_size=0",
        "",
        "sslmode=",
        "&&",
    ],
)
def test_what_the_driver_does_not_know_never_reaches_the_server(parameters: str) -> None:
    assert understood(f"postgresql://me@db.example/app?{parameters}") == ([("db.example", 5432)], "me", None, "app")


@pytest.mark.parametrize(
    "parameter",
    [
        "sslmode=verify-full",
        "sslrootcert=%2Fetc%2Fca%20file.pem",
        "sslnegotiation=direct",
        "ssl_min_protocol_version=TLSv1.3",
        "target_session_attrs=read-write",
        "passfile=%2Fhome%2Fme%2Fpass",
        "krbsrvname=postgres",
    ],
)
def test_what_the_driver_knows_is_kept_because_dropping_it_could_make_the_connection_less_safe(parameter: str) -> None:
    assert clean_dsn(f"postgresql://me@db.example/app?{parameter}").endswith(f"/app?{parameter}")


@pytest.mark.parametrize("password", ["p@ss/w?rd#1", "100%", "a+b c", "ünï:çode", "[brackets]", "%41", "=&;"])
def test_a_password_arrives_as_it_is(password: str) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in password.encode())
    where = [("db.example", 5432)]
    assert understood(f"postgres://me:{quoted}@db.example/app?sslmode=disable") == (where, "me", password, "app")
    assert understood(f"postgres://db.example/app?user=me&password={quoted}") == (where, "me", password, "app")


@pytest.mark.parametrize(
    ("dsn", "where"),
    [
        ("postgresql://me@[::1]:5433/app", [("::1", 5433)]),
        ("postgresql://me@[2001:db8::7]/app", [("2001:db8::7", 5432)]),
        ("postgresql://me@/app?host=/run/pg&port=5499", ["/run/pg/.s.PGSQL.5499"]),
        ("postgresql:///app?host=/run/pg&user=me", ["/run/pg/.s.PGSQL.5432"]),
        ("postgresql://me@%2Frun%2Fpg:5499/app", ["/run/pg/.s.PGSQL.5499"]),
        ("postgresql://me@one:5433,two:5434/app", [("one", 5433), ("two", 5434)]),
        ("postgresql://me@db.example/ignored?dbname=app", [("db.example", 5432)]),
    ],
)
def test_hosts_of_every_kind_are_found(dsn: str, where: list[Any]) -> None:
    addresses, user, password, _ = understood(dsn)
    assert (addresses, user, password) == (where, "me", None)


UNREADABLE = "the address in DATABASE_URL, which cannot be read (special characters are written as %XX),"

BROKEN = [
    "postgresql://me:p[ss@db.example/app",
    "postgresql://me@db.example:many/app",
    "postgresql://me@db.example:99999/app",
    "mysql://me@db.example/app",
    "postgresql://me@db.example/app?sslmode=perhaps",
    "nonsense",
]


@pytest.mark.parametrize("dsn", BROKEN)
async def test_an_address_that_means_nothing_is_one_error_that_names_no_password(dsn: str) -> None:
    with pytest.raises(DatabaseUnavailableError) as refused:
        await connect(Address(dsn=dsn, direct_dsn=dsn, pooled=True, connect_timeout_s=1))
    assert "p[ss" not in str(refused.value)


@pytest.mark.parametrize(
    ("dsn", "label"),
    [
        ("postgresql://me:secret@db.example:5433/app", "db.example:5433/app"),
        ("postgres://me:secret@db.example/app?sslmode=require", "db.example:5432/app"),
        ("postgresql://me:secret@one:5433,two:5434/app", "one:5433,two:5434/app"),
        ("postgresql://me:secret@[::1]/app", "[::1]:5432/app"),
        ("postgresql:///app?host=/run/pg&password=secret", "/run/pg/app"),
        ("postgresql://me:se[cret@db.example/app", UNREADABLE),
    ],
)
def test_a_label_says_where_and_never_the_password(dsn: str, label: str) -> None:
    assert Address(dsn=dsn, direct_dsn=dsn, pooled=True).label == label
