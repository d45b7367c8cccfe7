"""Alembic: the way from any older catalogue to this one, on PostgreSQL and SQLite."""
