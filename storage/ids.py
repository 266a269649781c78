"""Keys that we make ourselves: a short prefix and a time-ordered UUIDv7 (RFC 9562, section 5.7)."""

import os
import socket
from typing import Literal

import uuid_utils

Prefix = Literal["swm", "agt", "tsk", "asg", "mem", "pat", "his"]
"""swarm, agent, task, assignment, memory, pattern, history."""


def new_id(prefix: Prefix) -> str:
    """Return a fresh key such as `tsk_01937b4e...`; keys made later sort later."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def process_name() -> str:
    """Return a name for this process that no other process has or will have, for leases."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid_utils.uuid4().hex[:12]}"
