"""The schema's history, run by alembic through `storage.migrate`."""
