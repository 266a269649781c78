"""A database that is not the embedded one: who am I, and is it ready?"""

import base64
import json
import secrets

import pytest
from sqlalchemy import select

from storage.engine import Address
from storage.models.crm import AgencyTask
from storage.tenancy import Database
from storage.testing import fresh_address
from tests.user import Agency, Ran, assert_one_line

KEY = {"id", "name", "keyPrefix", "permissions", "isActive", "lastUsedAt", "expiresAt", "revokedAt"}


@pytest.fixture
def secret_keys() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


async def test_a_user_and_their_key_from_made_to_revoked(
    agency: Agency, address: Address, database: Database, secret_keys: str
) -> None:
    def ran(*arguments: str, **who: str) -> Ran:
        return agency(*arguments, DATABASE_URL=address.dsn, AGENCY_SECRET_KEYS=secret_keys, **who)

    nobody = ran("task", "list")
    assert_one_line(nobody, code=4, complaint="AGENCY_API_KEY")
    assert_one_line(nobody, code=4, complaint="AGENCY_USER")

    anna = ran("user", "add", "Anna", "--email", "Anna@acme.example", "--json")
    assert (anna.returncode, anna.stderr) == (0, "")
    made = json.loads(anna.stdout)
    assert (made.keys(), made["username"], made["email"]) == ({"id", "username", "email"}, "anna", "anna@acme.example")
    again = ran("user", "add", "anna", "--email", "other@acme.example")
    assert_one_line(again, code=5, complaint="'username'")

    created = ran("key", "create", "my script", "--days", "90", "--scope", "board", "--json", AGENCY_USER="ANNA")
    assert (created.returncode, created.stderr) == (0, "")
    key = json.loads(created.stdout)
    assert (key.keys(), key["scopes"]) == ({"id", "name", "key", "scopes"}, ["board"])

    added = ran("task", "add", "by key", "--json", AGENCY_API_KEY=key["key"])
    assert added.returncode == 0, added.stderr
    async with database.begin(made["id"]) as db:
        assert (await db.scalars(select(AgencyTask.title))).all() == ["by key"]

    (row,) = json.loads(ran("key", "list", "--json", AGENCY_USER="anna").stdout)["items"]
    assert row.keys() == KEY
    assert (row["isActive"], row["lastUsedAt"] is None, row["revokedAt"]) == (True, False, None)
    assert key["key"] not in json.dumps(row)
    revoked = ran("key", "revoke", row["keyPrefix"], AGENCY_USER="anna")
    assert (revoked.returncode, revoked.stdout) == (0, "")
    assert_one_line(ran("task", "list", AGENCY_API_KEY=key["key"]), code=4, complaint="agency key create")


def test_an_address_that_is_none_is_refused(agency: Agency) -> None:
    assert_one_line(agency("user", "add", "bob", "--email", "bob"), code=2, complaint="anna@example.com")


async def test_an_empty_database_wants_an_upgrade_and_gets_it(
    agency: Agency, server_dsn: str, secret_keys: str
) -> None:
    async with fresh_address(server_dsn, "template1") as address:
        settings = {"DATABASE_URL": address.dsn, "AGENCY_SECRET_KEYS": secret_keys, "AGENCY_USER": "anna"}

        def ran(*arguments: str) -> Ran:
            return agency(*arguments, **settings)

        assert_one_line(ran("task", "list"), code=6, complaint="agency db upgrade")
        upgraded = ran("db", "upgrade")
        assert (upgraded.returncode, upgraded.stdout) == (0, ""), upgraded.stderr
        checked = ran("db", "check")
        assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr
        assert_one_line(ran("task", "list"), code=4, complaint="no user 'anna'; add one with 'agency user add'")


async def test_without_keys_for_secrets_it_says_how_to_make_one(agency: Agency, address: Address) -> None:
    ran = agency("task", "list", DATABASE_URL=address.dsn, AGENCY_USER="anna")
    assert_one_line(ran, code=6, complaint="openssl rand -base64 32")
