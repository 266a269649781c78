"""Services outside that operations use."""

__all__: list[str] = []
