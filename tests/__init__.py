"""The test suite; a package, so that its modules can share what only tests need."""
