"""`python -m migrations.drift` fails if the migrations do not lead to the tables that the code declares."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine

from migrations.upgrade import upgrade
from models.catalogue.database import Database
from models.catalogue.rows import Row


def drift(engine: Engine) -> list[object]:
    """The changes that Alembic would still make to a migrated database."""
    with engine.connect() as connection, warnings.catch_warnings():
        # SQLAlchemy does not read these of SQLite; those of PostgreSQL are compared.
        warnings.filterwarnings("ignore", message=".*expression-based index")
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Row.metadata))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'catalogue.db'}")
        upgrade(database.engine)
        changes = drift(database.engine)
        database.close()
    if changes:
        sys.exit("migrations and tables differ:\n" + "\n".join(f"  {change}" for change in changes))
    print("migrations lead to the declared tables")


if __name__ == "__main__":
    main()
