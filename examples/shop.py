"""A shop's own agent, for `agency worker --app examples.shop` and for scripts that import it."""

import anyio

from runtime import Agent, Runtime, tool


@tool(effect="none")
async def opening_hours(day: str) -> str:
    """Tell when the shop is open on a day."""
    return f"{day}: 9 to 17"


concierge = Agent(
    name="concierge",
    instructions="Answer shortly. Remember what the guest likes.",
    tools=(opening_hours, "remember", "recall"),
)


async def main() -> None:
    async with Runtime(concierge) as runtime:
        run = await runtime.run(concierge, "Remember that Anna likes tea")
        print(run.status, run.text)


if __name__ == "__main__":
    anyio.run(main)
