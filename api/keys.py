"""`python -m api.keys`: make, list and revoke API keys."""

from __future__ import annotations

import sys

import click
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from models.catalogue.database import Database
from models.catalogue.rows import ApiKeyRow
from models.security import api_keys as access
from models.settings import Settings


def _database() -> Database:
    try:
        return Database(Settings.from_environment().database_url.get_secret_value())
    except ValueError as error:
        sys.exit(str(error))


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("name")
@click.option("--scope", "scopes", type=click.Choice([str(s) for s in access.Scope]), multiple=True, default=["read"])
def create(name: str, scopes: tuple[str, ...]) -> None:
    """Make a key and print it, once."""
    try:
        with _database().write() as session:
            key = access.create(session, name, [access.Scope(scope) for scope in scopes])
    except IntegrityError:
        sys.exit(f"there is a key named {name!r} already: revoke it, or choose another name")
    click.echo(key)


@main.command("list")
def list_keys() -> None:
    """Names and scopes; the keys themselves are not kept."""
    with _database().read() as session:
        for row in session.execute(select(ApiKeyRow).order_by(ApiKeyRow.created_at)).scalars():
            state = "revoked" if row.revoked_at else "active"
            click.echo(f"{row.name}\t{','.join(row.scopes)}\t{state}\t{row.created_at:%Y-%m-%d}")


@main.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Make a key useless from now on."""
    with _database().write() as session:
        if not access.revoke(session, name):
            sys.exit(f"there is no active key named {name!r}")


if __name__ == "__main__":
    main()
