import anyio
from swarm import agent, swarm

@agent(capabilities={"research"}, instances=3)
async def researcher(topic: str) -> str:
    return f"notes on {topic}"

@agent(capabilities={"write"})
async def writer(brief: str, *notes: str) -> str:
    return f"{brief}: " + "; ".join(notes)

async def main() -> None:
    async with swarm(researcher, writer, topology="star") as s:
        notes = [s.submit(t, needs={"research"}) for t in ("cost", "risk")]
        print(await s.submit("report", needs={"write"}, after=notes))

anyio.run(main)
