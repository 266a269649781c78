"""The main job, end to end and for real: what `agency demo` runs and then verifies in Postgres."""

__all__: list[str] = []
