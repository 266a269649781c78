"""One agent at work: events, decisions, steps, tools and models, on a journal in Postgres."""

__all__: list[str] = []
