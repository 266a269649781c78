"""What the demo says: the built-in conversation, or a file of yours."""

from dataclasses import dataclass
from pathlib import Path

from gateway.errors import MessageFileError

MAX_MESSAGES = 500
MAX_CHARACTERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One message of one participant."""

    sender: str
    text: str


CONVERSATION = (
    Line(sender="anna@acme.example", text="Please fix the landing page of Acme Dental by Friday, urgent"),
    Line(sender="anna@acme.example", text="Thanks! Please move it to review"),
)
"""The second message refers to the first, so it is sent after the first one's answer."""

CLIENTS = ("Acme Dental", "Bright Smiles", "Corner Bakery")
"""Clients that the demo's agency has."""


def read_messages(path: Path) -> list[Line]:
    """Return a file's lines, each as a message of a participant of its own.

    Raises:
        MessageFileError: it is not there, not UTF-8 text, empty or too long.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MessageFileError(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise MessageFileError(path, f"it is not UTF-8 (byte {error.start})") from error
    if not any(line.strip() for line in lines):
        raise MessageFileError(path, "there is no message in it")
    if len(lines) > MAX_MESSAGES:
        raise MessageFileError(path, f"it has {len(lines)} lines, and the demo takes {MAX_MESSAGES}")
    longest = max(map(len, lines))
    if longest > MAX_CHARACTERS:
        raise MessageFileError(path, f"a line has {longest} characters, and the demo takes {MAX_CHARACTERS}")
    return [Line(sender=f"line-{number}@demo.example", text=text) for number, text in enumerate(lines, start=1)]
