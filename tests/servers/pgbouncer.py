"""PgBouncer, a connection pooler for PostgreSQL, as Debian packages it: transaction pooling, TCP, a password."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url

from tests.servers.server import Program, Server
from tests.servers.system_programs import system_program

_NOBODY = 65534  # PgBouncer refuses to run as root


def pgbouncer_program() -> str | None:
    """The path of PgBouncer if it is installed. Debian puts it where the PATH of ordinary users does not lead."""
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


class PgBouncer(Server):
    """A pooler in front of the PostgreSQL server of `server_url`, a URL with a password.

    `settings` replaces lines of its configuration, such as `{"max_client_conn": "5"}`.
    """

    def __init__(self, data: Path, server_url: str, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(data)
        self._server = make_url(server_url)
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(data / "users"),
            "admin_users": self._server.username or "",
            "pool_mode": "transaction",
            "default_pool_size": "8",
            "max_client_conn": "200",
            **(settings or {}),
        }

    @property
    def url(self) -> str:
        """The database of `server_url` through the pooler."""
        return self.through(self._server)

    def through(self, database_url: str | URL) -> str:
        """The URL of a database of the same server, through the pooler."""
        pooled = make_url(database_url).set(host="127.0.0.1", port=self.port)
        return pooled.render_as_string(hide_password=False)

    def programs(self) -> Sequence[Program]:
        configuration = self.data / "pgbouncer.ini"
        lines = [f"{name} = {value}" for name, value in self._settings.items()]
        lines += ["[databases]", f"* = host={self._server.host} port={self._server.port}"]
        configuration.write_text("\n".join(["[pgbouncer]", *lines, ""]))
        users = self.data / "users"
        users.write_text(f'"{self._server.username}" "{self._server.password}"\n')
        identity = {}
        if os.geteuid() == 0:
            identity = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            for file in (configuration, users):
                os.chown(file, _NOBODY, _NOBODY)
        argv = [pgbouncer_program() or system_program("pgbouncer"), str(configuration)]
        return [Program("pgbouncer", argv, popen=identity)]

    def check(self) -> None:
        self.command("SHOW VERSION")

    def command(self, statement: str) -> None:
        """Run a command of the administrator's console, such as "PAUSE"."""
        console = make_url(self.url).set(drivername="postgresql", database="pgbouncer")
        with psycopg.connect(
            console.render_as_string(hide_password=False), autocommit=True, connect_timeout=5
        ) as connection:
            connection.execute(statement.encode())
