"""A URL that the farm cannot use is refused in one line that names the setting and shows no part of a password."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.database import Database
from models.catalogue.database_url import parse_database_url, sqlite_file


@pytest.mark.parametrize(
    ("url", "finding"),
    [
        ("mysql://u:s3cret@h/db", "begins with 'mysql'"),
        ("postgresql+foo://u:s3cret@h/db", r"begins with 'postgresql\+foo'"),
        ("sqlite+aiosqlite:////x", r"begins with 'sqlite\+aiosqlite'"),
        ('"postgresql://u:s3cret@h/db"', "begins with '\"postgresql'"),
        ("u:s3cret@h://x", "begins with something else"),
        ("/var/lib/catalogue.db", "has no scheme"),
        ("s3cret", "has no scheme"),
        ("", "has no scheme"),
        ("postgresql://u:s3cret@h/db\n", "white space or a line break"),
        (" postgresql://u:s3cret@h/db", "white space or a line break"),
        ("postgresql://u:s3\ncret@h/db", "white space or a line break"),
        ("postgresql://u:p@s3cret@h/db", "an @ in its user or password.*%40"),
        ("postgresql://u:p@s3cret/x@h/db", "an @ in its user or password.*%40"),
        ("postgresql://u:p@s3:cret@h/db", "an @ in its user or password.*%40"),
        ("postgresql://u:p@s3?cret@h/db", "an @ in its user or password.*%40"),
        ("postgresql://u:s3cret@h:54x32/db", "cannot be parsed"),
        ("postgresql://u:s3cret@h1:5432,h2:5432/db", "several hosts.*host=first:5432"),
        ("sqlite://var/catalogue.db", "two slashes"),
        ("sqlite:///file:/x?uri=true", "begins with file:"),
        ("sqlite:///var/catalogue.db", "depends on where a process starts.*four slashes"),
        ("sqlite:////x?timeout=5", "the option 'timeout'.*without options"),
        ("postgresql://u:s3cret@h/db?schema=public", "the option 'schema'.*search_path"),
        ("postgresql://u:s3cret@h/db?pgbouncer=true&ssl=require", "the option 'pgbouncer'"),
        ("postgresql://u:s3cret@h/db?ssl=require", "the option 'ssl'"),
        ("postgresql://u:s3cret@h/db?connect_timeout=5&connect_timeout=6", "the option 'connect_timeout' 2 times"),
    ],
)
def test_a_wrong_url_is_refused_with_a_remedy(url: str, finding: str) -> None:
    with pytest.raises(ValueError, match=f"^ENGINEFARM_DATABASE_URL .*{finding}") as raised:
        parse_database_url(url)
    refusal = str(raised.value)
    assert "\n" not in refusal
    assert "s3" not in refusal
    assert "cret" not in refusal


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@h/db",
        "postgresql://u:p@h:5433/db",
        "postgresql+psycopg2://u:p@h/db",
        "postgresql+asyncpg://u:p%40%2F@h/db",
        "postgresql://user@tenant:p@h/db",
        "postgresql://u:a/b#c:d?e@h/db",
        "postgresql:///db?host=first:5432&host=second:5432&target_session_attrs=read-write",
        "postgresql://u:p@[::1]:5432/db",
        "postgresql://u:p@h/db?options=a@b",
    ],
)
def test_every_usual_form_of_postgresql_is_understood(url: str) -> None:
    assert parse_database_url(url).drivername == "postgresql+psycopg"


def test_the_file_of_a_url_is_the_one_that_is_opened(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a%20b.db"
    with closing(Database(url)) as database:
        database.ping()
    assert sqlite_file(url) == tmp_path / "a b.db"
    assert (tmp_path / "a b.db").exists()
    assert sqlite_file("postgresql://u:p@h/db") is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ef:s3cret@{address}/{name}", "password authentication failed"),
        ("{account}@{address}/absent", 'database "absent" does not exist'),
        ("{account}@127.0.0.1:1/{name}", "Connection refused"),
        ("{account}@absent.invalid/{name}", r"absent\.invalid"),
        ("{account}@{address}/{name}?sslmode=require", "server does not support SSL"),
        ("{account}@{address}/{name}?connect_timeout=soon", "connect_timeout"),
        ("{account}@/{name}?host=127.0.0.1:1&host=127.0.0.1:2", "port 1 failed.*port 2 failed"),
    ],
)
def test_a_database_that_cannot_be_connected_to_is_explained_in_one_line(
    postgres_url: str, url: str, reason: str
) -> None:
    server = make_url(postgres_url)
    account, address = f"ef:{server.password}", f"127.0.0.1:{server.port}"
    full_url = "postgresql://" + url.format(account=account, address=address, name=server.database)
    remedy = "check ENGINEFARM_DATABASE_URL"
    with (
        closing(Database(full_url)) as database,
        pytest.raises(DatabaseUnavailable, match=f"cannot be connected to: .*({reason}).*{remedy}") as raised,
    ):
        database.ping()
    assert "\n" not in raised.value.detail
    assert "s3cret" not in raised.value.detail
    assert str(server.password) not in raised.value.detail
