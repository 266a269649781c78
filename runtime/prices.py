"""What a model call costs, from an offline table; an unknown price is unknown and never zero."""

import logging
from decimal import Decimal

from runtime.events import Usage

logger = logging.getLogger(__name__)

FREE_MODELS = frozenset({"offline", "scripted-model"})
"""Models of ours that run in this process."""


def cost_micros(model: str, usage: Usage) -> int | None:
    """Return millionths of a US dollar, None when the table does not know the model."""
    if model in FREE_MODELS:
        return 0
    # The table takes a quarter of a second to load, which a process without a priced model need not wait for.
    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    cached = usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    counted = PricedUsage(
        input_tokens=usage.input_tokens + cached,
        cache_write_tokens=usage.cache_creation_input_tokens,
        cache_read_tokens=usage.cache_read_input_tokens,
        output_tokens=usage.output_tokens,
    )
    try:
        price = calc_price(counted, model_ref=model, provider_id="anthropic")
    except LookupError:
        logger.warning("the price of this model is unknown", extra={"model": model})
        return None
    return int((price.total_price * Decimal(1_000_000)).to_integral_value())
