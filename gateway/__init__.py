"""The doors: chat channels, HTTP application, command line, worker. Wires everything below; owns no domain logic."""

__all__: list[str] = []
