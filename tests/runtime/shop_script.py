"""A script that runs the shop's agent, with everything else from the settings, and may be killed at it."""

import anyio

from runtime import Runtime
from tests.runtime.shop_app import concierge


async def main() -> None:
    async with Runtime(concierge) as runtime:
        await runtime.run(concierge, "When are you open on Monday?")


if __name__ == "__main__":
    anyio.run(main)
