"""A program of a user's own: one agent, and the tool that only this program has."""

from runtime import Agent, tool


@tool(effect="none")
async def opening_hours(day: str) -> str:
    """Tell when the shop is open on a day."""
    return f"{day}: 9 to 17"


concierge = Agent(name="concierge", instructions="Answer shortly.", tools=(opening_hours, "remember"))
