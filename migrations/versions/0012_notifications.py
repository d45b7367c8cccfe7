"""Triggers notify of changes that watchers of builds wait for

On PostgreSQL every transaction that changes an action, a build or a log sends a notification when it commits, also
that of an older program. SQLite has no notifications: a process asks it whether anything was committed.
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# By function: the channel, and the column with the action's key.
_FUNCTIONS = {
    "notify_action": ("enginefarm_actions", "key"),
    "notify_log": ("enginefarm_logs", "action_key"),
}
_WATCHED_COLUMNS = ("state", "attempt", "queue", "progress", "message", "not_before")
_OLD = ", ".join(f"OLD.{column}" for column in _WATCHED_COLUMNS)
_NEW = ", ".join(f"NEW.{column}" for column in _WATCHED_COLUMNS)
# By table: the function, the event and its condition. A heartbeat that only extends a lease notifies nobody. A new row
# of `builds` does not either: a submit that finds its engine would otherwise notify every API process.
_TRIGGERS = {
    "actions": ("notify_action", "UPDATE", f"({_OLD}) IS DISTINCT FROM ({_NEW})"),
    "builds": ("notify_action", "UPDATE", "OLD.state IS DISTINCT FROM NEW.state"),
    "log_chunks": ("notify_log", "INSERT", "true"),
    "attempts": ("notify_log", "UPDATE", "OLD.log_digest IS DISTINCT FROM NEW.log_digest"),
}


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    # PostgreSQL sends equal notifications of one transaction once.
    for function, (channel, column) in _FUNCTIONS.items():
        op.execute(
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM pg_notify('{channel}', NEW.{column}); RETURN NULL; END $$"
        )
    for table, (function, event, condition) in _TRIGGERS.items():
        op.execute(
            f"CREATE TRIGGER {table}_notify AFTER {event} ON {table} FOR EACH ROW WHEN ({condition}) "
            f"EXECUTE FUNCTION {function}()"
        )


def downgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    for table in _TRIGGERS:
        op.execute(f"DROP TRIGGER {table}_notify ON {table}")
    for function in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}()")
