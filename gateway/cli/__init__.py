"""The command line. `parser` declares every command; the modules beside it do the work and are imported when run."""

from gateway.cli.parser import app


def main() -> None:
    """Run `agency`."""
    app()


__all__ = ["main"]
