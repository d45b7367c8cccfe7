"""`python -m api.keys`: create, list, rotate and revoke API keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import click
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from enginefarm.contract.errors import Conflict, InvalidRequest, NotFound
from migrations.upgrade import require_current
from models.catalogue.database import Database
from models.security import api_keys as access
from models.settings import Settings
from models.start import failures_reported, print_result

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=3650)


class _Duration(click.ParamType[timedelta]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"([0-9]{1,6})([mhdw])", value)
        duration = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
        if duration is None or duration > _LONGEST:
            self.fail(f"{value!r}: expected a number and m, h, d or w, such as 24h or 90d, up to 3650d", param, ctx)
        return duration


_expires = click.option(
    "--expires", type=_Duration(), help="valid for this long, such as 90d or 12h; without it, until it is revoked"
)


@contextmanager
def _transaction() -> Iterator[Session]:
    """A transaction on the catalogue; ends the program with one line if there is none or the block refuses."""
    with failures_reported("enginefarm"):
        database = Database(Settings.from_environment().database_url.get_secret_value(), pool_size=1)
        require_current(database)
        with database.write() as session:
            try:
                yield session
            except ValueError as error:
                # Of an argument, not of a setting.
                raise InvalidRequest(str(error)) from error


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("name")
@click.option("--scope", "scopes", type=click.Choice([str(s) for s in access.Scope]), multiple=True, default=["read"])
@_expires
def create(name: str, scopes: tuple[str, ...], expires: timedelta | None) -> None:
    """Make a key and print it. It cannot be shown again."""
    with failures_reported("enginefarm"):
        try:
            with _transaction() as session:
                key = access.create(session, name, [access.Scope(scope) for scope in scopes], lifetime=expires)
        except IntegrityError as error:
            raise Conflict(
                f"there is an active key named {name!r}: choose another name, `rotate` it to get a new secret, or "
                "`revoke` it first"
            ) from error
    # After the commit, so that a printed key is always valid. The catalogue has only its hash.
    print_result(key, f"the key {name!r} exists, but nobody has it: `revoke` it and create another")


@main.command()
@click.argument("name")
@click.option(
    "--overlap", type=_Duration(), default="24h", show_default=True,
    help="how long the replaced key is still accepted; 0h ends it at once",
)  # fmt: skip
@click.option(
    "--expires", type=_Duration(), help="the new key is valid for this long; without it, as long as the replaced one"
)
def rotate(name: str, overlap: timedelta, expires: timedelta | None) -> None:
    """Make a new key with the name and the scopes of an active one, and print it."""
    with _transaction() as session:
        key = access.rotate(session, name, overlap=overlap, lifetime=expires)
    print_result(key, f"nobody has the new key {name!r}: `rotate` it again")


@main.command("list")
def list_keys() -> None:
    """List keys: names, public prefixes, scopes, times. The keys themselves are not stored."""
    with _transaction() as session:
        keys = access.list_keys(session)
    rows: list[tuple[str, ...]] = [("NAME", "PREFIX", "SCOPES", "STATE", "CREATED", "EXPIRES", "LAST USED")]
    for key in keys:
        times = [
            f"{time:%Y-%m-%d %H:%M}Z" if time else "-" for time in (key.created_at, key.expires_at, key.last_used_at)
        ]
        rows.append((key.name, key.prefix, ",".join(key.scopes), key.state, *times))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print_result("  ".join(cells).rstrip(), "nothing was changed")


@main.command()
@click.argument("name_or_prefix")
def revoke(name_or_prefix: str) -> None:
    """Revoke every key of a name, or the one with this prefix (`ef_…`). APIs refuse it after a second at the latest."""
    with _transaction() as session:
        if not access.revoke(session, name_or_prefix):
            raise NotFound(f"there is no active key with the name or the prefix {name_or_prefix!r}")


if __name__ == "__main__":
    main()
