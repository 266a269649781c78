"""Chat channels: each module verifies, normalises and sends for one provider; none touches the database."""

__all__: list[str] = []
