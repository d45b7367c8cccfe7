"""Grant each part of the farm its own rights on PostgreSQL: `python -m migrations.roles`.

There are four kinds of account. The *owner* of the tables migrates, and runs this command. The three roles
`enginefarm_api`, `enginefarm_worker` and `enginefarm_readonly` own nothing. An account of an API process or of a worker
is one of these roles with a password, or a member of it.

Two mechanisms limit the worker's role, because a worker runs the programs of strangers and is the first to be taken
over. Grants say which tables and columns it may read and write: it never reads API keys, never deletes more than live
log pieces, and never changes what an action is to do. Row-level security says which rows: a worker's account changes
only the leases, attempts, logs and outputs of workers that registered with the same account. Two workers that share an
account can change each other's rows, so give machines that you trust differently accounts of their own.

Every declared table must have a decision in `RIGHTS`; a test compares them. Run the command again after each migration:
it takes back every right of the roles and grants those of this program. `migrations.upgrade --roles PREFIX` does so.

A later migration that changes the type of a column that a policy names must drop the policy first.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, Table, text

from models.catalogue.database import Database
from models.catalogue.rows import Row
from models.settings import Settings
from models.start import failures_reported

PREFIX = "enginefarm"
_PREFIX_FORM = re.compile(r"[a-z][a-z0-9_]{0,40}")  # needs no quotes, and leaves room for the suffix below 63 bytes
_LOCK = 0x656E67726F6C65  # PostgreSQL's advisory lock, "engrole" in ASCII

Columns = Sequence[str]
ALL: Columns = ("*",)  # the whole table, with the columns that later migrations add
NONE: Columns = ()


@dataclass(frozen=True)
class Grant:
    """What one role may do with one table."""

    select: Columns = NONE
    insert: Columns = NONE
    update: Columns = NONE
    delete: bool = False


@dataclass(frozen=True)
class TableRights:
    """The rights on one table. The conditions are SQL over its columns, for the rows that the worker's role may write.

    `update_old` is what a row must be before an update, `update_new` what it must be afterwards. A table without any
    condition has no row-level security.
    """

    api: Grant
    worker: Grant = field(default_factory=Grant)
    readonly: Grant = field(default_factory=lambda: Grant(select=ALL))
    insert: str | None = None
    update_old: str | None = None
    update_new: str | None = None
    delete: str | None = None

    @property
    def by_row(self) -> bool:
        """True if the table has row-level security."""
        return any((self.insert, self.update_old, self.update_new, self.delete))


def _own_worker(column: str) -> str:
    """A worker that registered with the account of this session. SET ROLE changes no SESSION_USER."""
    return f"EXISTS (SELECT FROM workers w WHERE w.id = {column} AND w.account = SESSION_USER)"


def _own_attempt(key: str, number: str = "t.number") -> str:
    return (
        f"EXISTS (SELECT FROM attempts t JOIN workers w ON w.id = t.worker_id "
        f"WHERE t.action_key = {key} AND t.number = {number} AND w.account = SESSION_USER)"
    )


# The action is in this very attempt, and leased to this worker: a claim, which comes first, has made it so.
_CLAIMED = (
    "EXISTS (SELECT FROM actions a JOIN workers w ON w.id = a.worker_id WHERE a.key = attempts.action_key "
    "AND a.attempt = attempts.number AND a.worker_id = attempts.worker_id AND w.account = SESSION_USER)"
)
# No later attempt of the action began: another worker's output must not be replaced.
_OWN_LAST_ATTEMPT = (
    "EXISTS (SELECT FROM attempts t JOIN workers w ON w.id = t.worker_id "
    "JOIN actions a ON a.key = t.action_key AND a.attempt = t.number "
    "WHERE t.action_key = {table}.key AND t.number = {table}.attempt AND w.account = SESSION_USER)"
)
_CONVERSION = "(SELECT a.depends_on FROM actions a WHERE a.key = builds.key)"
# What publishing writes, over a withdrawn row too. Callers decide about the others: `pinned` and `pulled_at`.
_PUBLISHED_CHECKPOINT = (
    "manifest", "attempt", "facts", "created_at", "quarantined_at", "quarantine_reason", "doomed_at"
)  # fmt: skip
_PUBLISHED_ENGINE = (
    "manifest", "attempt", "model", "toolchain", "version", "platform", "bound_to", "driver_binding", "spec",
    "provenance", "created_at", "quarantined_at", "quarantine_reason", "doomed_at",
)  # fmt: skip
_REPORT = (
    "state", "platform", "host", "capabilities", "queues", "last_seen_at", "quarantined_at", "quarantine_reason",
    "catalogue_revision",
)  # fmt: skip
_WRITE = Grant(select=ALL, insert=ALL, update=ALL)
_WRITE_AND_DELETE = Grant(select=ALL, insert=ALL, update=ALL, delete=True)

RIGHTS: Mapping[str, TableRights] = {
    "actions": TableRights(
        api=_WRITE_AND_DELETE,
        # Not `job`, `document`, `stage`, `inputs` and `depends_on`: what an action is to do comes from the API alone.
        worker=Grant(
            select=ALL,
            update=(
                "state",
                "attempt",
                "tries",
                "worker_id",
                "lease_expires_at",
                "progress",
                "message",
                "failure",
                "queue",
                "queued_at",
                "not_before",
                "avoid_worker",
                "avoid_until",
                "announced_at",
                "overtaken",
                "overtaken_at",
                "prefetched_by",
                "prefetched_until",
            ),
        ),
        # Unleased actions in flight, its own leases, and conversions: a damaged checkpoint is converted again. Never a
        # build that has ended, so that no worker opens it to publish another engine under its key.
        update_old=f"{_own_worker('actions.worker_id')} OR (worker_id IS NULL AND "
        "(state IN ('waiting', 'queued') OR stage = 'convert'))",
        update_new=f"worker_id IS NULL OR {_own_worker('actions.worker_id')}",
    ),
    "attempts": TableRights(
        api=_WRITE_AND_DELETE,
        worker=Grant(
            select=ALL,
            insert=ALL,
            update=("outcome", "ended_at", "failure", "steps", "warmth", "log_digest", "log_size"),
        ),
        insert=_CLAIMED,
        update_old=_own_worker("attempts.worker_id"),
        update_new=_own_worker("attempts.worker_id"),
    ),
    "gpu_locks": TableRights(
        api=Grant(select=ALL),
        worker=Grant(select=ALL, insert=ALL, update=("expires_at",), delete=True),
        insert=f"{_own_worker('gpu_locks.worker_id')} AND {_own_attempt('gpu_locks.action_key', 'gpu_locks.attempt')}",
        update_old=_own_worker("gpu_locks.worker_id"),
        update_new=_own_worker("gpu_locks.worker_id"),
        # A lock of another worker only once it is over, as models.fleet.gpu_use.IS_OVER says.
        delete=f"{_own_worker('gpu_locks.worker_id')} OR (expires_at < clock_timestamp() AND NOT EXISTS (SELECT FROM "
        "actions a WHERE a.key = gpu_locks.action_key AND a.attempt = gpu_locks.attempt AND a.state = 'running'))",
    ),
    "log_chunks": TableRights(
        api=Grant(select=ALL, delete=True),
        worker=Grant(select=ALL, insert=ALL, delete=True),
        insert=_own_attempt("log_chunks.action_key", "log_chunks.attempt"),
        delete=_own_attempt("log_chunks.action_key", "log_chunks.attempt"),
    ),
    "builds": TableRights(
        api=_WRITE_AND_DELETE,
        # A worker ends the builds of its action. It learns neither who requested them nor what they wrote.
        worker=Grant(select=("seq", "id", "key", "state"), update=("state", "failure", "ended_at")),
        update_old=f"state = 'open' AND ({_own_attempt('builds.key')} OR {_own_attempt(_CONVERSION)})",
        update_new="state <> 'cancelled'",
    ),
    "blobs": TableRights(
        api=_WRITE_AND_DELETE,
        worker=Grant(select=ALL, insert=ALL, update=("size", "verified_at", "damaged_at", "doomed_at")),
    ),
    "manifests": TableRights(
        api=_WRITE_AND_DELETE,
        # PostgreSQL asks for UPDATE on some column of a row that is locked. The condition lets no update through.
        worker=Grant(select=ALL, insert=ALL, update=("files",)),
        insert="true",
        update_old="true",
        update_new="false",
    ),
    "manifest_files": TableRights(
        api=Grant(select=ALL, insert=ALL, delete=True),
        worker=Grant(select=ALL, insert=ALL),
        # The files of a manifest are written before what refers to it, and never afterwards.
        insert="NOT EXISTS (SELECT FROM engines e WHERE e.manifest = manifest_files.manifest) "
        "AND NOT EXISTS (SELECT FROM checkpoints c WHERE c.manifest = manifest_files.manifest)",
    ),
    "checkpoints": TableRights(
        api=_WRITE_AND_DELETE,
        worker=Grant(select=ALL, insert=("key", *_PUBLISHED_CHECKPOINT), update=_PUBLISHED_CHECKPOINT),
        insert=_OWN_LAST_ATTEMPT.format(table="checkpoints"),
        update_old="true",
        # It may withdraw any checkpoint whose bytes it found damaged, and publish what its own attempt made.
        update_new=f"quarantined_at IS NOT NULL OR {_OWN_LAST_ATTEMPT.format(table='checkpoints')}",
    ),
    "engines": TableRights(
        api=_WRITE_AND_DELETE,
        worker=Grant(
            select=("key", "manifest", "attempt", "quarantined_at", "doomed_at"),
            insert=("key", "pinned", *_PUBLISHED_ENGINE),
            update=_PUBLISHED_ENGINE,
        ),
        insert=f"NOT pinned AND {_OWN_LAST_ATTEMPT.format(table='engines')}",
        update_old="true",
        update_new=f"quarantined_at IS NOT NULL OR {_OWN_LAST_ATTEMPT.format(table='engines')}",
    ),
    "warm_files": TableRights(
        api=_WRITE_AND_DELETE,
        worker=Grant(select=ALL, insert=ALL, update=("document", "blob", "updated_at")),
    ),
    "workers": TableRights(
        api=_WRITE_AND_DELETE,
        # Not `account`, which the server fills in, and not `draining_at` and `released_at`, which operators decide.
        worker=Grant(select=ALL, insert=("id", "name", *_REPORT), update=_REPORT),
        insert="account = SESSION_USER",
        update_old="account = SESSION_USER",
        update_new="account = SESSION_USER",
    ),
    "imports": TableRights(api=Grant(select=ALL, insert=ALL)),
    "dry_run_removals": TableRights(api=Grant(select=ALL, insert=ALL, delete=True)),
    "removals": TableRights(api=Grant(select=ALL, insert=ALL)),
    "farm": TableRights(api=Grant(select=ALL, insert=ALL)),
    # A worker that was taken over must not end a recall.
    "revocations": TableRights(api=Grant(select=ALL, insert=ALL, update=("lifted_at",))),
    # Digests of `file:` models, which the API resolves. A worker reads the files itself.
    "file_digests": TableRights(api=_WRITE),
    # Hashes of keys: for the API alone.
    "api_keys": TableRights(api=_WRITE, readonly=Grant()),
}


def grant(engine: Engine, prefix: str = PREFIX) -> list[str]:
    """Create the roles that are missing, and give each its rights and no others; returns the names of the roles.

    Connect as the owner of the tables; `engine` needs two connections. Safe on a farm at work: one table is locked at a
    time, for a moment.

    Raises:
        ValueError: the database is not PostgreSQL, `prefix` is not usable, a table has no decision, or the account may
            not create a role.
        DatabaseUnavailable: the account does not own the tables, or the database cannot be reached.
    """
    if engine.dialect.name != "postgresql":
        raise ValueError(
            "roles need PostgreSQL: SQLite has no accounts, and every process that opens its file may do all"
        )
    if not _PREFIX_FORM.fullmatch(prefix):
        raise ValueError(f"{prefix!r} cannot begin the names of roles: expected lower-case letters, digits and _")
    roles = [f"{prefix}_{kind}" for kind in ("api", "worker", "readonly")]
    with _other_runs_excluded(engine), engine.connect() as connection:
        for role in roles:
            _create_role(connection, role)
        for statement in _schema_statements(connection, roles):
            connection.execute(text(statement))
        connection.commit()
        for table in Row.metadata.sorted_tables:
            # A transaction each: with locks on several tables, this would wait for a farm at work that waits for this.
            for statement in table_statements(table, *roles):
                connection.execute(text(statement))
            connection.commit()
    return roles


@contextmanager
def _other_runs_excluded(engine: Engine) -> Iterator[None]:
    """Exclude other runs of this command by a lock that a transaction on a connection of its own holds.

    A lock of the session would stay behind a pooler, in a session of the server that other clients then use.
    """
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        yield


def _create_role(connection: Connection, role: str) -> None:
    """
    Raises:
        ValueError: the role does not exist, and this account may not create it.
    """
    if connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).first():
        return
    may_create = text("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = CURRENT_USER")
    if not connection.execute(may_create).scalar_one():
        raise ValueError(f"there is no role {role}, and this account may not create it; as an administrator: "
                         f"CREATE ROLE {role}")  # fmt: skip
    connection.execute(text(f"CREATE ROLE {role} NOLOGIN"))


def _schema_statements(connection: Connection, roles: Sequence[str]) -> Iterator[str]:
    """Rights on the database and the schema, and the rights on tables that later migrations create."""
    api, _worker, _readonly = roles
    quote = connection.dialect.identifier_preparer.quote_identifier
    database = quote(connection.execute(text("SELECT current_database()")).scalar_one())
    everybody = ", ".join(roles)
    # PUBLIC is every account of the server, those of other databases too. TEMPORARY and CREATE would make tables.
    yield f"REVOKE ALL ON DATABASE {database} FROM PUBLIC"
    yield f"GRANT CONNECT ON DATABASE {database} TO {everybody}"
    yield "REVOKE ALL ON SCHEMA public FROM PUBLIC"
    yield f"GRANT USAGE ON SCHEMA public TO {everybody}"
    yield "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC"
    yield "REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM PUBLIC"
    yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {api}"
    yield f"GRANT SELECT ON alembic_version TO {everybody}"
    # Between a migration and the next run of this command, the API may use a new table, and no one else.
    yield f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {api}"
    yield f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO {api}"
    yield "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"


def table_statements(table: Table, api: str, worker: str, readonly: str) -> Iterator[str]:
    """The rights of the three roles on one table, in place of those that they have.

    Raises:
        ValueError: `RIGHTS` has no decision on the table, or names a column that it does not have.
    """
    rights = RIGHTS.get(table.name)
    if rights is None:
        raise ValueError(f"migrations.roles has no decision on the table {table.name}: add it to RIGHTS")
    yield f"REVOKE ALL ON {table.name} FROM {api}, {worker}, {readonly}"
    for role, granted in ((api, rights.api), (worker, rights.worker), (readonly, rights.readonly)):
        for privilege, columns in (("SELECT", granted.select), ("INSERT", granted.insert), ("UPDATE", granted.update)):
            if columns == ALL:
                yield f"GRANT {privilege} ON {table.name} TO {role}"
            elif columns:
                yield f"GRANT {privilege} ({_listed(table, columns)}) ON {table.name} TO {role}"
        if granted.delete:
            yield f"GRANT DELETE ON {table.name} TO {role}"
    if not rights.by_row:
        yield f"ALTER TABLE {table.name} DISABLE ROW LEVEL SECURITY"
        return
    for name in ("api", "read", "insert", "update", "delete"):
        yield f"DROP POLICY IF EXISTS enginefarm_{name} ON {table.name}"
    yield f"CREATE POLICY enginefarm_api ON {table.name} TO {api} USING (true) WITH CHECK (true)"
    yield f"CREATE POLICY enginefarm_read ON {table.name} FOR SELECT TO {worker}, {readonly} USING (true)"
    if rights.insert:
        yield f"CREATE POLICY enginefarm_insert ON {table.name} FOR INSERT TO {worker} WITH CHECK ({rights.insert})"
    if rights.update_old:
        yield (
            f"CREATE POLICY enginefarm_update ON {table.name} FOR UPDATE TO {worker} "
            f"USING ({rights.update_old}) WITH CHECK ({rights.update_new})"
        )
    if rights.delete:
        yield f"CREATE POLICY enginefarm_delete ON {table.name} FOR DELETE TO {worker} USING ({rights.delete})"
    yield f"ALTER TABLE {table.name} ENABLE ROW LEVEL SECURITY"


def _listed(table: Table, columns: Columns) -> str:
    unknown = set(columns) - set(table.columns.keys()) - {column.name for column in table.columns}
    if unknown:
        raise ValueError(
            f"migrations.roles names columns that {table.name} does not have: {', '.join(sorted(unknown))}"
        )
    return ", ".join(f'"{column}"' for column in columns)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m migrations.roles", description="Grant the farm's roles their rights."
    )
    parser.add_argument("--prefix", default=PREFIX, help="what the roles' names begin with (default: %(default)s)")
    prefix = parser.parse_args().prefix
    with failures_reported("enginefarm"):
        settings = Settings.from_environment()
        database = Database(settings.database_url.get_secret_value(), pool_size=2)
        database.ping()
        roles = grant(database.engine, prefix)
        database.close()
    print(f"granted: {', '.join(roles)}")


if __name__ == "__main__":
    main()
