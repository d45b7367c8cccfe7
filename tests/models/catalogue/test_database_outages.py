"""Every class of errors that concerns the database's server is an outage in one line; a wrong statement is a defect."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.database import Database


@pytest.fixture
def postgresql(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.close()


def backend(session: Session) -> int:
    """The process of the server that serves this session's connection."""
    pid: int = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    return pid


def raise_in_server(database: Database, state: str) -> None:
    with database.write() as session:
        session.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'because' USING ERRCODE = '{state}'; END $$"))


@pytest.mark.parametrize(
    ("state", "consequence"),
    [
        ("08006", "lost or refused the connection"),
        ("08P01", "lost or refused the connection"),
        ("0A000", "lacks a feature"),
        ("25006", "takes no writes"),
        ("25P03", "interrupted the transaction"),
        ("26000", "mixed up connections"),
        ("28000", "cannot be connected to"),
        ("3D000", "cannot be connected to"),
        ("40001", "undid the transaction in favour of another one"),
        ("40P01", "undid the transaction in favour of another one"),
        ("42501", "refuses this account"),
        ("42P01", "does not have the tables"),
        ("42P05", "mixed up connections"),
        ("53100", "is at a limit of its resources"),
        ("53300", "is at a limit of its resources"),
        ("55P03", "cannot do that now"),
        ("57014", "cancelled the statement"),
        ("57P01", "interrupted the transaction"),
        ("58030", "failed"),
        ("XX001", "failed"),
    ],
)
def test_an_error_of_the_server_is_an_outage_with_its_reason(
    postgresql: Database, state: str, consequence: str
) -> None:
    with pytest.raises(DatabaseUnavailable, match=f"database {consequence}.*: because") as raised:
        raise_in_server(postgresql, state)
    assert "\n" not in raised.value.detail
    postgresql.ping()


@pytest.mark.parametrize("state", ["22012", "23505", "23514", "42601", "42804", "P0001"])
def test_an_error_of_the_statement_stays_a_defect(postgresql: Database, state: str) -> None:
    with pytest.raises(DBAPIError, match="because"):
        raise_in_server(postgresql, state)
    postgresql.ping()


def test_a_statement_that_the_driver_refuses_stays_a_defect(postgresql: Database) -> None:
    with pytest.raises(DBAPIError, match="NUL"), postgresql.write() as session:
        session.execute(text("SELECT CAST(:text AS text)"), {"text": "\0"})


@pytest.mark.parametrize(
    ("state", "kept"), [("40001", True), ("57014", True), ("XX000", False), ("26000", False), ("25006", False)]
)
def test_a_connection_whose_errors_would_last_leaves_the_pool(postgresql: Database, state: str, kept: bool) -> None:
    with postgresql.read() as session:
        backend_before = backend(session)
    with pytest.raises(DatabaseUnavailable):
        raise_in_server(postgresql, state)
    with postgresql.read() as session:
        assert (backend(session) == backend_before) is kept


def test_a_session_that_the_administrator_ends_is_an_outage_of_one_transaction(postgresql: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match="terminating connection due to administrator command"):
        _run_while_the_administrator_ends_it(postgresql)
    postgresql.ping()


def _run_while_the_administrator_ends_it(database: Database) -> None:
    with database.write() as session:
        with database.read() as administrator:
            administrator.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": backend(session)})
        session.execute(text("SELECT 1"))


def test_a_connection_that_the_client_library_closed_is_an_outage(postgresql: Database) -> None:
    with postgresql.read() as session:
        connection = session.connection().connection.driver_connection
        assert connection is not None
        connection.close()
        with pytest.raises(DatabaseUnavailable, match="the connection is closed"):
            session.execute(text("SELECT 1"))
    postgresql.ping()


def test_one_of_two_deadlocked_transactions_is_undone_with_a_reason(postgresql: Database) -> None:
    barrier = threading.Barrier(2)
    reasons: list[str] = []

    def lock_both(first: int, second: int) -> None:
        try:
            with postgresql.write() as session:
                session.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": first})
                barrier.wait(10)
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": second})
        except DatabaseUnavailable as error:
            reasons.append(error.detail)

    threads = [threading.Thread(target=lock_both, args=keys) for keys in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(reasons) == 1
    assert "deadlock detected; try again" in reasons[0]


def test_defaults_of_the_database_do_not_change_the_farms_transactions(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database, database.write() as session:
        name = session.execute(text("SELECT current_database()")).scalar_one()
        session.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"))
    with closing(Database(postgres_url)) as database, database.write() as session:
        assert session.execute(text("SHOW transaction_isolation")).scalar_one() == "read committed"


def test_a_database_that_takes_no_writes_is_not_ready(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.write() as session:
        name = session.execute(text("SELECT current_database()")).scalar_one()
        session.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    database.close()
    with pytest.raises(DatabaseUnavailable, match=r"takes no writes.*lead to the primary"):
        database.ping()
    with pytest.raises(DatabaseUnavailable, match="read-only transaction"), database.write() as session:
        session.execute(text("CREATE TABLE t (n int)"))
    database.close()


def test_psycopg_prepares_no_statement(postgresql: Database) -> None:
    with postgresql.read() as session:
        for _ in range(12):
            session.execute(text("SELECT 1"))
        assert session.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one() == 0


def sqlite_database(folder: Path) -> Database:
    return Database(f"sqlite:///{folder / 'catalogue.db'}")


def test_a_missing_folder_of_sqlite_is_named(tmp_path: Path) -> None:
    with closing(sqlite_database(tmp_path / "absent")) as database:
        with pytest.raises(
            DatabaseUnavailable, match=r"absent/catalogue\.db cannot be opened: .*ENGINEFARM_DATABASE_URL: .*must exist"
        ):
            database.ping()
        (tmp_path / "absent").mkdir()
        database.ping()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalogue.db").write_text("no database " * 100)
    with (
        closing(sqlite_database(tmp_path)) as database,
        pytest.raises(DatabaseUnavailable, match=r"is no SQLite database: .*ENGINEFARM_DATABASE_URL"),
    ):
        database.ping()


def test_a_damaged_file_is_an_outage(tmp_path: Path) -> None:
    with closing(sqlite_database(tmp_path)) as database, database.write() as session:
        session.execute(text("CREATE TABLE t (n TEXT)"))
        session.execute(text("INSERT INTO t VALUES (hex(randomblob(100000)))"))
    with (tmp_path / "catalogue.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    with (
        closing(sqlite_database(tmp_path)) as database,
        pytest.raises(DatabaseUnavailable, match=r"is damaged: .*malformed"),
        database.read() as session,
    ):
        session.execute(text("SELECT * FROM t"))


def test_a_lock_of_another_process_is_an_outage(tmp_path: Path) -> None:
    with closing(sqlite_database(tmp_path)) as database:
        event.listen(database.engine, "connect", lambda driver, _: driver.execute("PRAGMA busy_timeout=1"))
        with closing(sqlite3.connect(tmp_path / "catalogue.db", isolation_level=None)) as other:
            database.ping()
            other.execute("BEGIN IMMEDIATE")
            with (
                pytest.raises(DatabaseUnavailable, match="is locked by another process"),
                database.write() as session,
            ):
                session.connection()
        with database.write() as session:
            session.connection()


@pytest.mark.parametrize(
    ("pragma", "consequence"),
    [("query_only = on", "takes no writes: attempt to write a readonly"), ("max_page_count = 1", "is at a limit")],
)
def test_a_file_that_cannot_be_written_is_an_outage(tmp_path: Path, pragma: str, consequence: str) -> None:
    with closing(sqlite_database(tmp_path)) as database:
        event.listen(database.engine, "connect", lambda driver, _: driver.execute(f"PRAGMA {pragma}"))
        with pytest.raises(DatabaseUnavailable, match=consequence), database.write() as session:
            session.execute(text("CREATE TABLE t (n int)"))


def test_a_wrong_statement_of_sqlite_stays_a_defect(tmp_path: Path) -> None:
    with (
        closing(sqlite_database(tmp_path)) as database,
        pytest.raises(DBAPIError, match="syntax error"),
        database.read() as session,
    ):
        session.execute(text("SELEKT 1"))


def test_a_missing_table_is_explained(tmp_path: Path, postgresql: Database) -> None:
    with closing(sqlite_database(tmp_path)) as database:
        for each in (database, postgresql):
            with (
                pytest.raises(DatabaseUnavailable, match=r"tables of this program: .*migrations\.upgrade"),
                each.read() as session,
            ):
                session.execute(text("SELECT * FROM absent"))
