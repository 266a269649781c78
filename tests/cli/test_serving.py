"""`agency serve`, `worker` and `webhook`: long-running processes end when asked, and hold their port alone."""

import json
import signal
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.user import Agency, Started, assert_one_line

WEBHOOK = {"id", "name", "type", "isActive", "autoRespond", "messageCount", "lastMessageAt"}


def test_serve_answers_holds_its_port_and_stops_when_asked(agency: Agency, started: Started) -> None:
    with started("serve", "--port", "0") as serve:
        words = serve.wait_for("serving on ").split()
        url = words[2]
        assert words[3:6] == ["with", "the", "offline"]
        assert httpx2.get(f"{url}/readyz").status_code == 200
        assert_one_line(agency("serve", "--port", str(urlsplit(url).port)), code=5, complaint="--port")
        ended = serve.stop()
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_stops_when_asked(started: Started, by: signal.Signals) -> None:
    with started("worker") as worker:
        worker.wait_for("working with the offline model")
        ended = worker.stop(by)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_webhook_shows_its_secrets_once(agency: Agency) -> None:
    made = agency("webhook", "add", "web chat", "--reply-url", "https://chat.example.com/replies", "--json")
    assert (made.returncode, made.stderr) == (0, "")
    webhook = json.loads(made.stdout)
    assert webhook.keys() == {"id", "path", "signingSecret", "replySecret"}

    listed = agency("webhook", "list", "--json")
    (row,) = [row for row in json.loads(listed.stdout)["items"] if row["id"] == webhook["id"]]
    assert row.keys() == WEBHOOK
    assert (row["name"], row["isActive"], row["messageCount"]) == ("web chat", True, 0)
    for secret in ("signingSecret", "replySecret"):
        assert webhook[secret].removeprefix("whsec_") not in listed.stdout

    wrong = agency("webhook", "add", "typo", "--reply-url", "chat.example.com/replies")
    assert_one_line(wrong, code=2, complaint="https://chat.example.com/replies")
