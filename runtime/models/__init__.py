"""What can stand behind the `Model` port; users import the one they need, because an SDK is slow to import."""

__all__: list[str] = []
