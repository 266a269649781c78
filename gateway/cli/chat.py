"""`agency chat`: one message to the assistant, driven to its end in this process."""

import sys

from gateway.cli.output import print_json, progress
from gateway.errors import GatewayError
from runtime.agents import ASSISTANT
from runtime.driver import Ended, Held
from runtime.errors import ModelUnavailableError
from runtime.local import open_local
from runtime.settings import RuntimeSettings
from storage.queries import executions
from storage.settings import StorageSettings


async def chat(text: str, as_json: bool) -> None:
    """Queue an execution, drive it, print its text."""
    async with open_local(StorageSettings(), RuntimeSettings()) as local:
        async with local.database.begin(local.user_id) as db:
            session_id = await executions.create_session(db, local.user_id)
            execution_id = await executions.queue_execution(
                db, user_id=local.user_id, session_id=session_id, agent_name=ASSISTANT.name, task=text
            )
        outcome = await local.driver.run(local.user_id, execution_id)
        if isinstance(outcome, Held):
            raise GatewayError(f"execution {execution_id} waits for a person; see 'agency run show {execution_id}'")
        if not isinstance(outcome, Ended):
            raise ModelUnavailableError(f"execution {execution_id} goes on when a worker takes it up ('agency worker')")
    if as_json:
        print_json(
            {
                "executionId": execution_id,
                "sessionId": session_id,
                "model": local.model.name,
                "status": outcome.event.status,
                "text": outcome.event.text,
            }
        )
    else:
        progress.print(f"[dim]{local.model.name} model, execution {execution_id}[/dim]")
        sys.stdout.write(outcome.event.text + "\n")
    if outcome.event.status != "completed":
        raise GatewayError(f"execution {execution_id} {outcome.event.status}: {outcome.event.text}")
