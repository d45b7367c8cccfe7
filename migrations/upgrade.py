"""Set a farm up, or bring it to this version: `python -m migrations.upgrade`.

It creates or migrates the catalogue's tables and creates the store's bucket or folders. Any number of processes may
run it at once, and on PostgreSQL the farm may be at work: the first one migrates, the others wait for it and then
change nothing. With `--roles PREFIX` it then grants the roles of that name their rights, which new tables need: see
`migrations.roles`.
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.event import listen
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random

from enginefarm.contract.errors import DatabaseUnavailable
from migrations.roles import grant
from models.catalogue.database import Database
from models.opening import open_store
from models.settings import Settings
from models.start import StartRefusedError, failures_reported

# PostgreSQL's advisory lock, "engine" in ASCII: any number will do that no other user of this database takes.
_LOCK = 0x656E67696E65
_LOCK_POLL_SECONDS = 0.2
_LOCK_TIMEOUT_SECONDS = 3  # for which a statement of a migration waits for a table
_LOCK_ATTEMPTS = 60


def config() -> Config:
    """Alembic's configuration, made here so that there is no alembic.ini to keep in step."""
    alembic = Config()
    alembic.set_main_option("script_location", str(Path(__file__).parent))
    return alembic


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the migrations up to `revision`.

    On PostgreSQL each is a transaction of its own, or a step that may be repeated, and the farm works meanwhile: see
    `migrations.online`. An upgrade that was interrupted continues with the next call. On SQLite all of them run in one
    transaction: all, or none.

    Raises:
        DatabaseUnavailable: it does not answer, or other transactions kept a table locked for minutes.
    """
    _retry_if_locked(engine, partial(command.upgrade, revision=revision))


def downgrade(engine: Engine, revision: str) -> None:
    """Undo the migrations after `revision`, in transactions as `upgrade`."""
    _retry_if_locked(engine, partial(command.downgrade, revision=revision))


def _retry_if_locked(engine: Engine, run: Callable[[Config], None]) -> None:
    for attempt in Retrying(
        retry=retry_if_exception(_is_lock_timeout),
        stop=stop_after_attempt(_LOCK_ATTEMPTS),
        wait=wait_random(1, 3),
        reraise=True,
    ):
        with attempt, _migrating(engine) as alembic:
            run(alembic)


def _is_lock_timeout(error: BaseException) -> bool:
    """True if a statement waited for a table for longer than `lock_timeout`. Its migration was rolled back."""
    return isinstance(error, DatabaseUnavailable) and isinstance(error.__cause__, psycopg.errors.LockNotAvailable)


@contextmanager
def _migrating(engine: Engine) -> Iterator[Config]:
    """Alembic's configuration with a connection, while other migrations are excluded."""
    alembic = config()
    if engine.dialect.name == "sqlite":
        with _sqlite_transaction(engine) as connection:
            alembic.attributes["connection"] = connection
            yield alembic
        return
    # The lock is held by the transaction of another connection: the migrations commit several times, and a lock of the
    # session would stay behind a pooler, in a session of the server that other clients then use.
    # READ COMMITTED, whatever the database's default is: with another level, the holder would keep the snapshot of its
    # statement until its end, for which CREATE INDEX CONCURRENTLY waits.
    engine = engine.execution_options(isolation_level="READ COMMITTED")
    with engine.connect() as lock_holder, engine.connect() as connection:
        _exclude_other_migrations(lock_holder)
        listen(connection, "begin", _limit_lock_waits)
        alembic.attributes["connection"] = connection
        yield alembic


def _exclude_other_migrations(connection: Connection) -> None:
    """Begin a transaction that holds the lock of migrations."""
    while not connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK}).scalar_one():
        # Not pg_advisory_xact_lock: a statement that waits holds a snapshot. CREATE INDEX CONCURRENTLY of the migration
        # that has the lock would wait for the end of that snapshot, and both for ever.
        connection.rollback()
        time.sleep(_LOCK_POLL_SECONDS)
    # Migrations may take longer than a server lets a transaction of others be idle. These statements also end the
    # snapshot of the SELECT, which PostgreSQL keeps until the next statement.
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    connection.execute(text("SET LOCAL transaction_timeout = 0"))


def _limit_lock_waits(connection: Connection) -> None:
    """Every statement that comes after one that waits for a table waits, too: give up, and let them pass."""
    if connection.get_isolation_level() != "AUTOCOMMIT":  # there SET LOCAL has no effect
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s'")


@contextmanager
def _sqlite_transaction(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that is undone if it leaves rows whose foreign keys refer to no row."""
    with engine.execution_options(begin="IMMEDIATE").connect() as connection:
        _enforce_foreign_keys(connection, enforce=False)
        try:
            with connection.begin():
                dangling_before = _dangling_rows(connection)
                yield connection
                dangling = _dangling_rows(connection) - dangling_before
                if dangling:
                    raise ValueError(
                        f"the migration is undone: it would leave rows whose foreign keys refer to no row, such as "
                        f"{min(dangling)} (table, row id, table referred to); please report this as a defect"
                    )
        finally:
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
