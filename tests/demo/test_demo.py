"""`agency demo`, as a new user runs it, and what it leaves in Postgres."""

import base64
import json
import secrets
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from gateway.http_server import listen
from runtime.local import open_local
from runtime.settings import RuntimeSettings
from storage.models.crm import AgencyTask, ClientProfile
from storage.models.messaging import InboundMessage
from storage.settings import StorageSettings
from tests.demo.unseen import FOR_A_PERSON, MESSAGES, Wanted
from tests.user import Agency, assert_one_line


def test_it_verifies_every_step_and_its_card_is_found_by_the_other_doors(agency: Agency) -> None:
    ran = agency("demo", "--json")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)

    assert (report["ok"], report["model"]) == (True, "offline")
    first, second = report["messages"]
    assert [tool["toolName"] for tool in first["tools"]].count("create_task") == 1
    assert {"remember", "reply"} <= {tool["toolName"] for tool in first["tools"]}
    assert [tool["toolName"] for tool in second["tools"]].count("update_task") == 1
    card = first["cards"][-1]
    assert (card["title"], card["priority"], card["client"]) == ("Fix the landing page", "urgent", "Acme Dental")
    assert report["swarm"]["tasks"] == {"completed": 4}
    assert report["mcp"]["card"]["id"] == report["messages"][0]["cards"][0]["id"]

    listed = agency("task", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    moved = {item["id"]: item["status"] for item in json.loads(listed.stdout)["items"]}
    assert moved[report["mcp"]["card"]["id"]] == "done"


async def test_messages_it_has_never_seen_become_the_right_cards(
    agency: Agency, data_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "messages.txt"
    file.write_text("\n".join(text for text, _ in MESSAGES) + "\n", encoding="utf-8")

    ran = agency("demo", "--json", "--messages", str(file))

    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert len(report["messages"]) == len(MESSAGES) == 20
    ids = [message["id"] for message in report["messages"]]
    async with (
        open_local(StorageSettings(data_dir=data_dir), RuntimeSettings(model="offline")) as local,
        local.database.begin(local.user_id, read_only=True) as db,
    ):
        received = {row.id: row for row in await db.scalars(select(InboundMessage).where(InboundMessage.id.in_(ids)))}
        rows = (
            await db.execute(
                select(AgencyTask, ClientProfile.name).outerjoin(
                    ClientProfile, ClientProfile.id == AgencyTask.client_id
                )
            )
        ).all()
    for inbound_id, (text, expected) in zip(ids, MESSAGES, strict=True):
        message = received[inbound_id]
        assert message.status == "processed"
        assert message.body == text
        cards = [row for row in rows if row[0].execution_id is not None and row[0].execution_id == message.execution_id]
        found = sorted((described(card, client) for card, client in cards), key=str)
        assert found == sorted(wanted(expected, text, message.received_at), key=str), text
    unknown = next(card for card, _ in rows if card.title == "Fix the map")
    assert (unknown.client_id, unknown.extracted_data["client"]) == (None, "Zenith Motors")


def described(card: AgencyTask, client: str | None) -> dict[str, Any]:
    if card.task_type == "question":
        return {"question": card.description}
    return {"title": card.title, "priority": card.priority, "due": card.due_date, "client": client}


def wanted(expected: list[Wanted] | str, text: str, received: datetime) -> list[dict[str, Any]]:
    if expected == FOR_A_PERSON:
        return [{"question": text}]
    if isinstance(expected, str):
        return []
    today = received.astimezone(UTC).date()
    cards: list[dict[str, Any]] = []
    for card in expected:
        due = card.due(today)
        end = None if due is None else datetime.combine(due, time(23, 59, 59), tzinfo=UTC)
        cards.append({"title": card.title, "priority": card.priority, "due": end, "client": card.client})
    return cards


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"\xff\xfe\x00", "UTF-8"), (b"\n \n", "no message"), (b"x" * 20_000, "characters"), (b"hi\n" * 600, "lines")],
)
def test_a_wrong_file_is_one_clear_line(agency: Agency, tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "messages.txt"
    file.write_bytes(content)
    assert_one_line(agency("demo", "--messages", str(file)), code=2, complaint=complaint)


def test_a_missing_file_is_one_clear_line(agency: Agency, tmp_path: Path) -> None:
    ran = agency("demo", "--messages", str(tmp_path / "nowhere.txt"))
    assert_one_line(ran, code=2, complaint="nowhere.txt")


def test_an_unreachable_database_is_one_clear_line(agency: Agency) -> None:
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    ran = agency("demo", DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing", AGENCY_SECRET_KEYS=key)
    assert_one_line(ran, code=6, complaint="DATABASE_URL")


def test_a_taken_port_is_one_clear_line(agency: Agency) -> None:
    taken = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    try:
        assert_one_line(agency("demo", "--port", str(port)), code=5, complaint="--port")
    finally:
        taken.close()
