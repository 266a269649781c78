"""Questions and changes that the entity store cannot say, each a function named after what it asks or does."""

__all__: list[str] = []
