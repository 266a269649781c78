"""The option with which `make chaos` asks for every moment; a test run takes samples."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option; it is known only where tests/faults itself is named on the command line."""
    parser.addoption("--every-moment", action="store_true", help="kill at every moment instead of at samples (minutes)")


@pytest.fixture(scope="session")
def every_moment(request: pytest.FixtureRequest) -> bool:
    """Whether to enumerate all moments."""
    return bool(request.config.getoption("--every-moment", default=False))
