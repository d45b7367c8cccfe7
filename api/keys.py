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
    """Make a key and print it. It cannot be shown again."""
    try:
        with _database().write() as session:
            key = access.create(session, name, [access.Scope(scope) for scope in scopes])
    except IntegrityError:
        # The names of revoked keys stay taken: removals and builds are recorded under them.
        sys.exit(f"there is a key named {name!r} already: choose another name; a revoked key keeps its name")
    # After the commit, so that a printed key is always valid. The catalogue has only its hash.
    click.echo(key)


@main.command("list")
def list_keys() -> None:
    """List names and scopes. The keys themselves are not stored."""
    with _database().read() as session:
        for row in session.execute(select(ApiKeyRow).order_by(ApiKeyRow.created_at)).scalars():
            state = "revoked" if row.revoked_at else "active"
            click.echo(f"{row.name}\t{','.join(row.scopes)}\t{state}\t{row.created_at:%Y-%m-%d}")


@main.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Revoke a key. API processes refuse it after a second at the latest."""
    with _database().write() as session:
        if not access.revoke(session, name):
            sys.exit(f"there is no active key named {name!r}")


if __name__ == "__main__":
    main()
