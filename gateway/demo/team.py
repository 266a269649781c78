"""The demo's swarm: three agents around a hub, a small plan, and the cf_ rows that tell its tale."""

from gateway.errors import DemoFailedError
from runtime.local import Local
from runtime.ports import Json
from storage.queries import demo as queries
from swarm import agent, swarm


@agent(capabilities={"plan"})
async def lead(topic: str) -> str:
    """Name what has to be known about a topic."""
    return f"outline: audience, keywords of {topic}"


@agent(capabilities={"research"})
async def researcher(part: str, outline: str) -> str:
    """Find out one part."""
    return f"{part} ({outline.partition(':')[0]})"


@agent(capabilities={"write"})
async def writer(brief: str, *notes: str) -> str:
    """Write it up."""
    return f"{brief}: " + "; ".join(notes)


async def work_together(local: Local) -> Json:
    """Let the swarm work, then read its rows.

    Raises:
        DemoFailedError: the rows do not tell of four completed tasks.
    """
    async with swarm(lead, researcher, writer, topology="star", name="demo", local=local) as team:
        outline = team.submit("landing page", needs={"plan"})
        notes = [team.submit(part, needs={"research"}, after=[outline]) for part in ("audience", "keywords")]
        report = await team.submit("brief for the landing page", needs={"write"}, after=notes)
        swarm_id = team.id
    async with local.database.begin(local.user_id, read_only=True) as db:
        found = await queries.swarm_tale(db, swarm_id)
    if found["tasks"] != {"completed": 4} or found["assignments"] != {"completed": 4} or found["agents"] != 3:
        raise DemoFailedError(f"the swarm's rows do not tell of four completed tasks of three agents: {found}")
    return {"id": swarm_id, "report": report, **found}
