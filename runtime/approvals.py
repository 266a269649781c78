"""What an approval is bound to. Pure; `runtime.operations.approvals` decides them, the journal uses them up."""

import hashlib
import json
from dataclasses import dataclass

from runtime.events import ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """An approval, and the call that it is to be used for."""

    approval_id: int
    call: ToolCall


def request_hash(user_id: int, execution_id: int, call: ToolCall) -> str:
    """Return the SHA-256 over tenant, execution, call, tool and canonical arguments, hexadecimal.

    Not over the lease's epoch, which changes while nobody holds the execution.
    """
    bound = [user_id, execution_id, call.id, call.name, call.arguments]
    canonical = json.dumps(bound, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
