"""Set a farm up, or bring it to this version: `python -m migrations.upgrade`.

It creates or migrates the catalogue's tables and creates the store's bucket or folders. Any number of processes may
run it at once: the first one migrates, the others wait for it and then change nothing. With `--roles PREFIX` it then
grants the roles of that name their rights, which new tables need: see `migrations.roles`.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from migrations.roles import grant
from models.catalogue.database import Database
from models.opening import open_store
from models.settings import Settings
from models.start import StartRefusedError, failures_reported

# PostgreSQL's advisory lock, "engine" in ASCII: any number will do that no other user of this database takes.
_LOCK = 0x656E67696E65


def config() -> Config:
    """Alembic's configuration, made here so that there is no alembic.ini to keep in step."""
    alembic = Config()
    alembic.set_main_option("script_location", str(Path(__file__).parent))
    return alembic


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the migrations up to `revision` in one transaction: all of them, or none."""
    with _migrating(engine) as alembic:
        command.upgrade(alembic, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Undo the migrations after `revision` in one transaction: all of them, or none."""
    with _migrating(engine) as alembic:
        command.downgrade(alembic, revision)


@contextmanager
def _migrating(engine: Engine) -> Iterator[Config]:
    """Alembic's configuration with a connection in a transaction that excludes other migrations."""
    alembic = config()
    with engine.execution_options(begin="IMMEDIATE").connect() as connection:
        on_sqlite = connection.dialect.name == "sqlite"
        if on_sqlite:
            _enforce_foreign_keys(connection, enforce=False)
        try:
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                alembic.attributes["connection"] = connection
                dangling_before = _dangling_rows(connection) if on_sqlite else set()
                yield alembic
                dangling = (_dangling_rows(connection) if on_sqlite else set()) - dangling_before
                if dangling:
                    raise ValueError(
                        f"the migration is undone: it would leave rows whose foreign keys refer to no row, such as "
                        f"{min(dangling)} (table, row id, table referred to); please report this as a defect"
                    )
        finally:
            if on_sqlite:
                _enforce_foreign_keys(connection, enforce=True)


def _dangling_rows(connection: Connection) -> set[tuple[str, int, str]]:
    """(table, row id, table referred to) of every SQLite row whose foreign key refers to no row."""
    rows = connection.execute(text("PRAGMA foreign_key_check")).all()
    return {(row[0], row[1], row[2]) for row in rows}


def _enforce_foreign_keys(connection: Connection, *, enforce: bool) -> None:
    """SQLite changes a CHECK by copying and dropping the table, which foreign keys to it would forbid.

    The PRAGMA does nothing inside a transaction, so this goes to the driver's connection, which has none open.
    """
    driver = connection.connection.driver_connection
    assert driver is not None, "a connection that was just opened has a driver's connection"
    driver.execute(f"PRAGMA foreign_keys={'ON' if enforce else 'OFF'}")


def versions(engine: Engine) -> tuple[str | None, str | None]:
    """The catalogue's revision (None: the database has no catalogue), and the newest that this program knows."""
    with engine.connect() as connection:
        heads = MigrationContext.configure(connection).get_current_heads()
    # Several belong to another program: this one has a single line of migrations.
    current = ", ".join(sorted(heads)) or None
    return current, ScriptDirectory.from_config(config()).get_current_head()


def require_current(database: Database) -> None:
    """Check that the database has a catalogue of this program's version.

    Raises:
        StartRefusedError: it has another one, or none.
        DatabaseUnavailable: it does not answer.
    """
    database.ping()
    catalogue_version, program_version = versions(database.engine)
    if catalogue_version == program_version:
        return
    if catalogue_version is not None and not _knows(catalogue_version):
        raise StartRefusedError(
            f"the catalogue is at version {catalogue_version}, which this program ({program_version}) does not know: "
            "either a newer release migrated it, so start that release, or ENGINEFARM_DATABASE_URL names another "
            "program's database"
        )
    raise StartRefusedError(
        f"the catalogue is at version {catalogue_version or 'none'}, this program needs {program_version}: "
        "run `python -m migrations.upgrade`"
    )


def _knows(revision: str) -> bool:
    """True if this program has the migration to `revision`."""
    return any(script.revision == revision for script in ScriptDirectory.from_config(config()).walk_revisions())


def _require_utf8(engine: Engine) -> None:
    """
    Raises:
        StartRefusedError: it is a database of PostgreSQL that cannot store every text of a caller.
    """
    if engine.dialect.name != "postgresql":
        return
    with engine.connect() as connection:
        encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise StartRefusedError(
            f"the catalogue's database has the encoding {encoding}: expected UTF8; make it anew with "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def set_up(settings: Settings, *, roles: str | None = None) -> tuple[str | None, str | None]:
    """Prepare the catalogue and the store, which an API or a worker needs before it starts.

    `roles` is what the names of the roles begin with that get their rights; None: no roles.

    Returns the catalogue's revision before (None: there was none) and now.

    Raises:
        ValueError: the settings do not describe a store, or the roles cannot be granted.
        StartRefusedError: the database is another program's or a newer release's, or its encoding is not UTF-8.
        EnginefarmError: the database or the store cannot be reached.
    """
    database = Database(settings.database_url.get_secret_value(), pool_size=2)
    database.ping()
    before, head = versions(database.engine)
    if before is None:
        _require_utf8(database.engine)
    elif not _knows(before):
        require_current(database)
    upgrade(database.engine)
    if roles is not None and database.engine.dialect.name == "postgresql":
        grant(database.engine, roles)
    database.close()
    open_store(settings, link_secret=secrets.token_bytes(32)).prepare()  # the set-up signs no links
    return before, head


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m migrations.upgrade", description="Set a farm up, or migrate it.")
    parser.add_argument(
        "--roles", metavar="PREFIX", help="then grant the roles PREFIX_api, PREFIX_worker, … their rights"
    )
    roles = parser.parse_args().roles
    with failures_reported("enginefarm"):
        before, head = set_up(Settings.from_environment(), roles=roles)
    print(f"catalogue: {before or 'empty'} → {head}" if before != head else f"catalogue: already at {head}")


if __name__ == "__main__":
    main()
