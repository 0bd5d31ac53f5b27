"""Alembic's home: `versions` holds the steps, `storage.migrate` runs them."""
