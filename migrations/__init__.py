"""Alembic migrations of the catalogue, for PostgreSQL and SQLite: from any older revision to the newest."""

from models.installation import SERVER_PACKAGES, require_packages

require_packages("server", SERVER_PACKAGES)
