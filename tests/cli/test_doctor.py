"""`agency doctor`, and settings that mean nothing."""

import json
from pathlib import Path
from typing import Any

from storage.engine import Address
from tests.user import Agency, assert_one_line

NAMES = ["python", "config", "model", "database", "schema", "keys", "user", "workers"]


def settings_file(config_home: Path, content: str) -> Path:
    file = config_home / "agency" / "config.toml"
    file.parent.mkdir()
    file.write_text(content, encoding="utf-8")
    return file


def findings(stdout: str) -> dict[str, Any]:
    document = json.loads(stdout)
    assert document.keys() == {"ok", "findings"}
    assert all(found.keys() == {"name", "ok", "detail"} for found in document["findings"])
    assert document["ok"] is all(found["ok"] for found in document["findings"])
    return {found["name"]: found for found in document["findings"]}


def test_a_new_user_has_nothing_to_do(agency: Agency, tmp_path: Path) -> None:
    ran = agency("doctor", "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    found = findings(ran.stdout)
    assert list(found) == NAMES
    assert found["model"]["detail"].startswith("offline")
    assert "not there, not needed" in found["config"]["detail"]
    file = settings_file(tmp_path, 'model = "offline"\n')
    shown = agency("doctor", XDG_CONFIG_HOME=str(tmp_path))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"{file} (read)" in shown.stdout
    assert [line.split()[:2] for line in shown.stdout.splitlines()] == [["ok", name] for name in NAMES]


def test_an_unreachable_database_is_named_and_the_rest_still_looked_at(agency: Agency) -> None:
    ran = agency("doctor", DATABASE_URL="postgresql://nobody:hush@127.0.0.1:1/nothing")
    assert ran.returncode == 1
    assert [line.split()[:2] for line in ran.stdout.splitlines()] == [
        *(["ok", name] for name in NAMES[:3]),
        ["BAD", "database"],
    ]
    assert "127.0.0.1:1/nothing" in ran.stdout
    assert "DATABASE_URL" in ran.stdout
    assert "hush" not in ran.stdout + ran.stderr
    assert ran.stderr == "agency: something is wrong; the lines marked BAD say what to do\n"


async def test_a_database_of_ones_own_wants_keys_and_a_name(agency: Agency, address: Address) -> None:
    ran = agency("doctor", "--json", DATABASE_URL=address.dsn)
    assert ran.returncode == 1
    found = findings(ran.stdout)
    assert [name for name in found if not found[name]["ok"]] == ["keys", "user"]
    assert "AGENCY_SECRET_KEYS" in found["keys"]["detail"]
    assert "AGENCY_API_KEY" in found["user"]["detail"]
    assert "AGENCY_USER" in found["user"]["detail"]


def test_a_setting_that_means_nothing_is_one_line(agency: Agency, tmp_path: Path) -> None:
    assert_one_line(agency("task", "list", AGENCY_POOL_SIZE="many"), code=2, complaint="AGENCY_POOL_SIZE")
    file = settings_file(tmp_path, "pool_size = \n")
    assert_one_line(agency("doctor", XDG_CONFIG_HOME=str(tmp_path)), code=2, complaint=str(file))
