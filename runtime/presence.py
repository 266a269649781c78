"""Whether somebody is there to take up an execution."""

from runtime.names import PROCESS
from storage.queries import workers
from storage.tenancy import Database


async def nobody_for(database: Database, agent_name: str) -> str | None:
    """Return why no living worker takes up an execution of this agent, and what to do; None: one does."""
    if agent_name.startswith(PROCESS):
        return f"only the program that defined {agent_name!r} can run it: start it again and call resume()"
    async with database.begin_dispatch() as db:
        if await workers.someone_has(db, agent_name):
            return None
    module, is_of_a_program, _ = agent_name.partition(":")
    command = f"agency worker --app {module}" if is_of_a_program else "agency worker"
    return f"no living worker knows the agent {agent_name!r}: start one with '{command}'"
