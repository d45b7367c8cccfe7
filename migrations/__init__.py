"""Alembic migrations of the catalogue, for PostgreSQL and SQLite: from any older revision to the newest."""
