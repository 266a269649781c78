"""The namespaces of memory: who a remembered value is about.

`user` · `client/<id>` · `conversation/<id>` · `files/<agent>` (key = path) · `swarm/<id>[/<name>]`
"""

import re

from storage.errors import InvalidValueError
from storage.values import check_text

USER = "user"
"""What holds for the user in general; the default of everything that is not about somebody or something else."""

FORMS = (USER, "client/<id>", "conversation/<id>", "files/<agent>", "swarm/<id>", "swarm/<id>/<name>")

_LEGAL = re.compile(r"user|(client|conversation)/[1-9][0-9]*|files/[^/]+|swarm/[^/]+(/[^/]+)?")

_LONGEST = 255


def client_namespace(client_id: int) -> str:
    """Return where what is known of one client is kept."""
    return f"client/{client_id}"


def conversation_namespace(conversation_id: int) -> str:
    """Return where what was remembered in one conversation is kept."""
    return f"conversation/{conversation_id}"


def files_namespace(agent: str) -> str:
    """Return where the files of the memory tool of `agent` (`module:qualname`) are kept; a key is a path."""
    return check_namespace(f"files/{agent}")


def swarm_namespace(swarm_id: str, name: str | None = None) -> str:
    """Return the blackboard of a swarm, or the part of it called `name`."""
    return check_namespace(f"swarm/{swarm_id}" if name is None else f"swarm/{swarm_id}/{name}")


def check_namespace(namespace: str) -> str:
    """Return `namespace` when it has one of the legal forms.

    Raises:
        InvalidValueError: it has none of them, or is too long.
    """
    if len(namespace) > _LONGEST:
        raise InvalidValueError(
            "namespace", f"is {len(namespace):,} characters long; at most {_LONGEST} fit, shorten it"
        )
    check_text(namespace, "namespace")
    if not _LEGAL.fullmatch(namespace):
        raise InvalidValueError("namespace", f"{namespace!r} is none of the forms {', '.join(FORMS)}")
    return namespace
