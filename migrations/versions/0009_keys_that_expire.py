"""API keys expire, are rotated, and show their last use; a revoked key gives its name up

A program older than this migration ignores `expires_at`: it accepts an expired key, and a replaced one after its
overlap, until it is stopped.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME, now

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_CURRENT = sa.text("revoked_at IS NULL AND replaced_at IS NULL")


def upgrade() -> None:
    with op.batch_alter_table("api_keys", copy_from=_api_keys(sa.UniqueConstraint("name", name=_NAME))) as batch:
        batch.add_column(sa.Column("expires_at", TIME, nullable=True))
        batch.add_column(sa.Column("replaced_at", TIME, nullable=True))
        batch.add_column(sa.Column("last_used_at", TIME, nullable=True))
        batch.drop_constraint(_NAME, type_="unique")
    op.create_index(
        "uq_api_keys_current_name", "api_keys", ["name"], unique=True, postgresql_where=_CURRENT, sqlite_where=_CURRENT
    )


def downgrade() -> None:
    # The older program knows no expiry: a key that was to end must not be valid forever.
    end_at = "clock_timestamp()" if op.get_context().dialect.name == "postgresql" else now().text
    op.execute(f"UPDATE api_keys SET revoked_at = {end_at} WHERE revoked_at IS NULL AND expires_at IS NOT NULL")  # noqa: S608
    # It allows one row of a name: the rows but the newest get their id appended to it.
    op.execute(
        "UPDATE api_keys SET name = substr(name, 1, 50) || ' ' || id WHERE EXISTS (SELECT 1 FROM api_keys AS newer"
        " WHERE newer.name = api_keys.name AND (newer.created_at, newer.id) > (api_keys.created_at, api_keys.id))"
    )
    op.drop_index("uq_api_keys_current_name", "api_keys")
    upgraded = _api_keys(
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("replaced_at", TIME, nullable=True),
        sa.Column("last_used_at", TIME, nullable=True),
    )
    with op.batch_alter_table("api_keys", copy_from=upgraded) as batch:
        batch.create_unique_constraint(_NAME, ["name"])
        batch.drop_column("expires_at")
        batch.drop_column("replaced_at")
        batch.drop_column("last_used_at")


_NAME = "uq_api_keys_name"


def _api_keys(*more: sa.Column[object] | sa.UniqueConstraint) -> sa.Table:
    """The table. SQLite drops a constraint by copying the table, and Alembic must know all of it."""
    return sa.Table(
        "api_keys",
        sa.MetaData(),
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, server_default=now(), nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        *more,
    )
