"""The farm's accounts on a PostgreSQL server, as docker/postgres/accounts.sql makes them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url

from tests.servers.postgres import binaries
from tests.servers.server import CHECKOUT

SCRIPT = CHECKOUT / "docker" / "postgres" / "accounts.sql"
SECOND_WORKER = "enginefarm_worker_2"  # a worker on another machine, with an account of its own
_LOGINS = ("owner", "api", "worker")
_ROLES = (SECOND_WORKER, *(f"enginefarm_{kind}" for kind in ("worker", "api", "readonly", "owner")))


class Accounts:
    """The URLs of one database, by account. `administrator` is the URL of the server's own account."""

    def __init__(self, administrator: str) -> None:
        self._administrator = make_url(administrator)

    def url(self, role: str, password: str | None = None) -> str:
        """The URL of the account `role`, in SQLAlchemy's form."""
        url = self._administrator.set(username=role, password=password or password_of(role))
        return url.render_as_string(hide_password=False)

    @property
    def owner(self) -> str:
        return self.url("enginefarm_owner")

    @property
    def api(self) -> str:
        return self.url("enginefarm_api")

    @property
    def worker(self) -> str:
        return self.url("enginefarm_worker")

    @property
    def second_worker(self) -> str:
        return self.url(SECOND_WORKER)

    def connect(self, role: str, password: str | None = None) -> psycopg.Connection:
        """A connection that commits each statement."""
        url = make_url(self.url(role, password)).set(drivername="postgresql")
        return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True, connect_timeout=5)

    def administer(self, *statements: str) -> None:
        with psycopg.connect(_libpq(self._administrator), autocommit=True, connect_timeout=5) as connection:
            for statement in statements:
                connection.execute(sql.SQL(statement))

    def run_script(self, **passwords: str) -> None:
        """Run the script that Compose runs, with psql; `passwords` by login."""
        values = {login: password_of(f"enginefarm_{login}") for login in _LOGINS} | passwords
        variables = {f"{login.upper()}_PASSWORD": password for login, password in values.items()}
        argv = [str(binaries() / "psql"), "--no-psqlrc", "--quiet", "--file", str(SCRIPT), _libpq(self._administrator)]
        subprocess.run(argv, check=True, capture_output=True, env={**os.environ, **variables})


def password_of(role: str) -> str:
    return f"password-of-{role}"


@contextmanager
def accounts(administrator: str) -> Iterator[Accounts]:
    """The accounts of the farm in an empty database; they are dropped afterwards, with what they own."""
    made = Accounts(administrator)
    made.run_script()
    made.administer(
        f"CREATE ROLE {SECOND_WORKER} LOGIN PASSWORD '{password_of(SECOND_WORKER)}' IN ROLE enginefarm_worker"
    )
    try:
        yield made
    finally:
        # Roles belong to the whole server: a test that follows creates them anew.
        made.administer(*(f"DROP OWNED BY {role} CASCADE" for role in _ROLES))
        made.administer(*(f"ALTER DATABASE {make_url(administrator).database} OWNER TO CURRENT_USER",))
        made.administer(*(f"DROP ROLE {role}" for role in _ROLES))


def _libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
