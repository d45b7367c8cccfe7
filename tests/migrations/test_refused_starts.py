"""No program starts on a database that it cannot use: it ends with one line that says what was found and what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from psycopg.sql import SQL
from sqlalchemy import make_url, text

import api.__main__
import api.keys
import migrations.roles
import migrations.upgrade
from models.catalogue.database import Database
from models.exit_codes import ExitCode
from tests.servers.postgres import Databases

_PROGRAMS: dict[str, Callable[[], object]] = {
    "api": api.__main__.main,
    "api.keys": api.keys.main,
    "migrations.upgrade": migrations.upgrade.main,
    "migrations.roles": migrations.roles.main,
}
Start = Callable[[str, str], str]


@pytest.fixture
def refused_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """Starts a program with a database's URL, and returns the line that it ends with."""

    def start(program: str, database_url: str) -> str:
        monkeypatch.setenv("ENGINEFARM_DATABASE_URL", database_url)
        monkeypatch.setenv("ENGINEFARM_BROKER_URL", "redis://127.0.0.1:1/0")
        monkeypatch.setenv("ENGINEFARM_STORE_URL", f"file://{tmp_path}/store")
        monkeypatch.setattr(sys, "argv", [program, *(["list"] if program == "api.keys" else [])])
        with pytest.raises(SystemExit) as ended:
            _PROGRAMS[program]()
        assert ended.value.code in set(ExitCode)
        [line] = capsys.readouterr().err.splitlines()
        return line

    return start


@pytest.fixture(scope="module")
def migrated_url(postgres: Databases) -> Iterator[str]:
    """A catalogue that the tests change and restore."""
    url = postgres.create_migrated()
    yield url
    postgres.drop(url)


def run(url: str, statement: str) -> None:
    with closing(Database(url)) as database, database.write() as session:
        session.execute(text(statement))


@pytest.mark.parametrize("program", _PROGRAMS)
@pytest.mark.parametrize(
    "url",
    ["mysql://ef:s3cret@h/db", "/var/catalogue.db", "postgresql://ef:s3cret@127.0.0.1:1/db", "postgresql://h/db\n"],
)
def test_a_url_that_leads_to_no_database_names_its_setting(refused_start: Start, program: str, url: str) -> None:
    line = refused_start(program, url)
    assert "ENGINEFARM_DATABASE_URL" in line
    assert "s3cret" not in line


@pytest.mark.parametrize("program", ["api", "api.keys", "migrations.roles"])
def test_a_database_without_tables_is_to_be_migrated(refused_start: Start, program: str, postgres_url: str) -> None:
    assert "run `python -m migrations.upgrade`" in refused_start(program, postgres_url)


@pytest.mark.parametrize("program", ["api", "api.keys", "migrations.upgrade"])
@pytest.mark.parametrize("version", ["9999", "1975ea83b712"])
def test_a_catalogue_of_an_unknown_version_is_left_alone(
    refused_start: Start, program: str, version: str, migrated_url: str
) -> None:
    """After a roll-back of the program, or in the database of another program that uses Alembic."""
    run(migrated_url, "CREATE TABLE kept AS SELECT * FROM alembic_version")
    run(migrated_url, f"UPDATE alembic_version SET version_num = '{version}'")
    try:
        line = refused_start(program, migrated_url)
        assert f"is at version {version}, which this program (" in line
        assert "so start that release, or ENGINEFARM_DATABASE_URL names another program's database" in line
    finally:
        run(migrated_url, "UPDATE alembic_version SET version_num = (SELECT version_num FROM kept)")
        run(migrated_url, "DROP TABLE kept")


def test_tables_of_another_program_are_in_the_way(refused_start: Start, postgres_url: str, tmp_path: Path) -> None:
    for url in (postgres_url, f"sqlite:///{tmp_path}/shared.db"):
        run(url, "CREATE TABLE builds (id int)")
        line = refused_start("migrations.upgrade", url)
        assert 'has tables of another program in the way: relation "builds" already exists' in line or (
            "shared.db has tables of another program in the way: table builds already exists" in line
        )
        assert "give the farm a database of its own" in line


def test_an_account_that_may_not_create_tables_is_named(refused_start: Start, postgres_url: str) -> None:
    run(postgres_url, "CREATE ROLE stranger LOGIN PASSWORD 'password'")
    try:
        url = make_url(postgres_url).set(username="stranger", password="password")
        line = refused_start("migrations.upgrade", url.render_as_string(hide_password=False))
        assert "refuses this account: permission denied for schema public; check the account" in line
    finally:
        run(postgres_url, "DROP ROLE stranger")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_store_every_text_is_refused(
    refused_start: Start, encoding: str, postgres: Databases
) -> None:
    statement = f"CREATE DATABASE other_encoding ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'"
    postgres.administer(SQL(statement))
    url = make_url(postgres.url).set(database="other_encoding").render_as_string(hide_password=False)
    try:
        assert f"has the encoding {encoding}: expected UTF8" in refused_start("migrations.upgrade", url)
    finally:
        postgres.drop(url)
