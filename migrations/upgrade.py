"""Set a farm up, or bring it to this version: `python -m migrations.upgrade`. The catalogue's tables, and the
store's bucket or folders. Safe to run from many processes at once."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from enginefarm.contract.errors import EnginefarmError
from models.catalogue.database import Database
from models.opening import open_store
from models.settings import Settings

_LOCK = 0x656E67696E65  # "engine": any number, as long as nobody else of this database uses it


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    return made


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the migrations in one transaction: all of them, or none."""
    alembic = config()
    with engine.execution_options(begin="IMMEDIATE").begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, revision)


def versions(engine: Engine) -> tuple[str | None, str | None]:
    """(of the database, of this program)"""
    with engine.connect() as connection:
        ours = MigrationContext.configure(connection).get_current_revision()
    return ours, ScriptDirectory.from_config(config()).get_current_head()


def set_up(settings: Settings) -> tuple[str | None, str | None]:
    """Everything that must be there before an API or a worker starts; returns the catalogue's version before and now.

    Raises:
        ValueError, FarmError: a part cannot be reached or is not described.
    """
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    before, head = versions(database.engine)
    upgrade(database.engine)
    database.close()
    open_store(settings, link_secret=secrets.token_bytes(32)).prepare()  # nothing is linked to here
    return before, head


def main() -> None:
    try:
        before, head = set_up(Settings.from_environment())
    except (ValueError, EnginefarmError) as error:
        sys.exit(f"enginefarm: {error}")
    print(f"catalogue: {before or 'empty'} → {head}" if before != head else f"catalogue: already at {head}")


if __name__ == "__main__":
    main()
