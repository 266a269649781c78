"""How much the next model call may use, when an execution has an allowance of tokens or money. Pure.

A reply cannot be stopped at a price, but it can be stopped at a number of tokens: so the request says how many it may
write, and the most that it can come to is set aside before it is made.
"""

from collections.abc import Callable
from dataclasses import dataclass

from runtime.decide import Limits, Spent
from runtime.events import Usage

CHARACTERS_PER_TOKEN = 3
"""Fewer than in any language that we have measured, so that a request is not taken for smaller than it is."""

SHORTEST_REPLY = 64
"""Tokens; a reply that must be shorter is not worth asking for."""

Price = Callable[[Usage], int | None]
"""Millionths of a US dollar; None: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What the next call may use at most."""

    max_tokens: int
    """Of the reply."""
    tokens: int
    cost_micros: int


def reserve(
    limits: Limits, spent: Spent, *, input_tokens: int, max_tokens: int, price: Price
) -> Reservation | str | None:
    """Return what to set aside for a call; None: nothing is limited; or why there is not enough left for it."""
    if limits.tokens is None and limits.cost_micros is None:
        return None
    allowed = max_tokens
    if limits.tokens is not None:
        left = limits.tokens - spent.tokens
        allowed = min(allowed, left - input_tokens)
        if allowed < SHORTEST_REPLY:
            return f"the next call needs about {input_tokens + SHORTEST_REPLY:,} tokens; {max(left, 0):,} are left"
    cost = price(Usage(input_tokens=input_tokens, output_tokens=allowed))
    if limits.cost_micros is not None:
        affordable = _affordable(limits.cost_micros - (spent.cost_micros or 0), input_tokens, allowed, price)
        if isinstance(affordable, str):
            return affordable
        allowed = affordable
        cost = price(Usage(input_tokens=input_tokens, output_tokens=allowed))
    return Reservation(max_tokens=allowed, tokens=input_tokens + allowed, cost_micros=cost or 0)


def _affordable(left: int, input_tokens: int, max_tokens: int, price: Price) -> int | str:
    """Return how many tokens of a reply the money is good for, or why for none."""
    asking = price(Usage(input_tokens=input_tokens))
    whole = price(Usage(input_tokens=input_tokens, output_tokens=max_tokens))
    if asking is None or whole is None:
        return "the price of the model is unknown, so the limit of its cost cannot be kept; set a limit of tokens"
    if whole <= left:
        return max_tokens
    allowed = (left - asking) * max_tokens // max(whole - asking, 1)
    if allowed < SHORTEST_REPLY:
        return f"the next call costs at least {asking / 1e6:g} USD; {max(left, 0) / 1e6:g} USD are left"
    return allowed
