"""An attacker has a worker's accounts of the database and of the store. API keys, other workers' leases, published
engines and other buckets stay closed, and nothing is deleted.

A worker's accounts are the ones to steal, because its machine runs the programs of strangers. What the account of the
store may do is in tests/deployment/test_store_server.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from minio import Minio
from psycopg.errors import InsufficientPrivilege

from enginefarm.contract import digest
from enginefarm.contract.errors import DatabaseUnavailable
from migrations.roles import grant
from models.catalogue.database import Database
from models.store.protocol import blob_name
from tests.doubles.weights import weights
from tests.farm.conftest import fresh_broker
from tests.farm.running_farm import RunningFarm
from tests.farm.test_end_to_end import require_downloadable
from tests.migrations.accounts import SECOND_WORKER, Accounts, accounts
from tests.servers.redis import Valkey
from tests.servers.s3 import SeaweedFS

PREFIX = "ENGINEFARM_"


@pytest.fixture
def account_urls(postgres_url: str) -> Iterator[Accounts]:
    with accounts(postgres_url) as made:
        yield made


@pytest.fixture
def farm(account_urls: Accounts, valkey: Valkey, store_server: SeaweedFS, tmp_path: Path) -> Iterator[RunningFarm]:
    """The accounts of Compose: the migrations, the API and the worker have one each, in the database and the store."""
    settings = {
        "DATABASE_URL": account_urls.owner, "BROKER_URL": fresh_broker(valkey), "STORE_URL": store_url(store_server),
        "S3_ENDPOINT": f"http://{store_server.endpoint}", "S3_ACCESS_KEY": store_server.access_key,
        "S3_SECRET_KEY": store_server.secret_key,
    }  # fmt: skip
    farm = RunningFarm(tmp_path, settings)
    try:
        grant(farm.database.engine)
        farm.environment[f"{PREFIX}DATABASE_URL"] = account_urls.api
        farm.add_api()
        farm.add_worker("w1", worker_environment(store_server, account_urls.worker))
        yield farm
    finally:
        farm.close()


def store_url(server: SeaweedFS) -> str:
    return f"s3://{server.bucket}/attacked"


def worker_environment(server: SeaweedFS, database_url: str) -> dict[str, str]:
    access_key, secret_key = server.worker
    return {
        f"{PREFIX}DATABASE_URL": database_url, f"{PREFIX}S3_ACCESS_KEY": access_key,
        f"{PREFIX}S3_SECRET_KEY": secret_key,
    }  # fmt: skip


PUBLISHED = (
    "SELECT key, manifest, attempt, spec::text, provenance::text, pinned, quarantined_at, doomed_at FROM engines"
)

# What no worker's account may do, whatever the rows are.
REFUSED = (
    "SELECT secret_hash FROM api_keys",
    "SELECT count(*) FROM api_keys",
    "INSERT INTO api_keys (id, name, secret_hash, scopes) VALUES ('mine', 'mine', 'x', '[\"admin\"]')",
    "UPDATE api_keys SET revoked_at = NULL",
    "SELECT requested_by FROM builds",
    "SELECT spec FROM builds",
    "INSERT INTO builds (id) VALUES ('mine')",
    "INSERT INTO actions (key) VALUES ('mine')",
    "UPDATE actions SET job = '{}'",
    "UPDATE actions SET document = '{}', stage = 'convert'",
    "UPDATE actions SET depends_on = NULL",
    "UPDATE attempts SET worker_id = 'mine'",
    "UPDATE workers SET account = SESSION_USER",
    "UPDATE workers SET released_at = now()",
    "INSERT INTO workers (id, name, state, account) VALUES ('mine', 'mine', 'live', 'enginefarm_worker')",
    "UPDATE engines SET pinned = true",
    "UPDATE engines SET key = 'mine'",
    "UPDATE manifest_files SET blob = 'mine'",
    "UPDATE blobs SET digest = 'mine'",
    "SELECT * FROM imports",
    "INSERT INTO imports (action_key, attempt, envelope, signer) VALUES ('mine', 1, '{}', 'mine')",
    "INSERT INTO removals (kind, key, manifest, size, reason) VALUES ('engine', 'mine', 'mine', 1, 'mine')",
    "INSERT INTO file_digests VALUES ('/models/a', '1', 'sha256:0')",
    *(
        f"DELETE FROM {table}"
        for table in ("blobs", "engines", "checkpoints", "manifests", "actions", "builds", "attempts", "workers")
    ),
    "TRUNCATE log_chunks",
    "DROP TABLE engines",
    "ALTER TABLE actions DISABLE ROW LEVEL SECURITY",
    "DROP POLICY enginefarm_update ON actions",
    "CREATE TABLE public.mine (id int)",
    "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "GRANT SELECT ON api_keys TO enginefarm_worker",
    "SET ROLE enginefarm_api",
    "SET ROLE enginefarm_owner",
    "SET SESSION AUTHORIZATION enginefarm_owner",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_terminate_backend(pg_backend_pid()) FROM pg_authid",
)


def test_a_workers_account_does_no_more_than_its_work(
    farm: RunningFarm, account_urls: Accounts, store_server: SeaweedFS
) -> None:
    """One farm for all attacks: while they run, a build runs, and it succeeds with the right bytes."""
    model = farm.add_model(content=weights())
    published = farm.submit(farm.spec(model, salt="published"))
    assert farm.ended(published["id"])["state"] == "succeeded"
    running = farm.submit(farm.spec(model, salt="running", seconds=4))
    farm.running(running["id"], "build")
    with farm.database.engine.connect() as connection:
        engine_before = connection.exec_driver_sql(PUBLISHED).fetchall()
        manifest, attempt = connection.exec_driver_sql("SELECT manifest, attempt FROM engines").one()
        key_of_work = connection.exec_driver_sql("SELECT key FROM actions WHERE state = 'running'").scalar_one()

    for account in ("enginefarm_worker", SECOND_WORKER):
        with account_urls.connect(account) as stolen:
            for statement in REFUSED:
                with pytest.raises(InsufficientPrivilege):
                    stolen.execute(statement)
            # By row: what it may write in general, but not here.
            assert changed(stolen, "UPDATE actions SET state = 'queued' WHERE key = %s", published["key"]) == 0
            assert changed(stolen, "UPDATE builds SET state = 'succeeded' WHERE key = %s", published["key"]) == 0
            refused_by_row(stolen, "UPDATE manifests SET files = 0 WHERE digest = %s", manifest)
            refused_by_row(
                stolen, "INSERT INTO manifest_files (manifest, path, blob) SELECT %s, 'evil', min(digest) FROM blobs",
                manifest,
            )  # fmt: skip
            refused_by_row(stolen, insert_attempt(), published["key"])

    # A worker on another machine: the leases, logs and outputs of the first one are closed to it.
    with account_urls.connect(SECOND_WORKER) as stolen:
        stolen.execute(
            "INSERT INTO workers (id, name, state, platform, host, capabilities, queues) "
            "VALUES ('evil', 'w1', 'live', '{}', '{}', '[]', '[]')"
        )
        for statement in (
            "UPDATE actions SET lease_expires_at = lease_expires_at - interval '1 hour' WHERE key = %s",
            "UPDATE actions SET worker_id = 'evil' WHERE key = %s",
            "UPDATE actions SET state = 'queued', worker_id = NULL, lease_expires_at = NULL WHERE key = %s",
            "UPDATE attempts SET outcome = 'failed', ended_at = now() WHERE action_key = %s",
            "DELETE FROM log_chunks WHERE action_key = %s",
            "UPDATE builds SET state = 'succeeded', ended_at = now() WHERE key = %s",
        ):
            assert changed(stolen, statement, key_of_work) == 0, statement
        assert changed(stolen, "UPDATE workers SET state = 'gone' WHERE name = %s AND id <> 'evil'", "w1") == 0
        refused_by_row(stolen, insert_attempt(), key_of_work)
        refused_by_row(
            stolen, "INSERT INTO log_chunks (action_key, attempt, start, data) VALUES (%s, 1, 999999, 'evil')",
            key_of_work,
        )  # fmt: skip
        refused_by_row(stolen, insert_engine(manifest), key_of_work)
        refused_by_row(stolen, "UPDATE engines SET spec = '{}' WHERE key = %s", published["key"])
        refused_by_row(stolen, f"UPDATE engines SET attempt = {attempt + 1} WHERE key = %s", published["key"])

    ended = farm.ended(running["id"])
    assert ended["state"] == "succeeded", ended["error"]
    assert farm.outcomes() == {("convert", "succeeded"): 1, ("build", "succeeded"): 2}, "no attempt was disturbed"
    require_downloadable(farm, running["key"])
    require_downloadable(farm, published["key"])
    with farm.database.engine.connect() as connection:
        kept = connection.exec_driver_sql(f"{PUBLISHED} WHERE key = '{published['key']}'").fetchall()
    assert kept == engine_before
    require_every_way_to_end_works(farm, account_urls, store_server, model)


def require_every_way_to_end_works(farm: RunningFarm, account_urls: Accounts, server: SeaweedFS, model: str) -> None:
    """The rarer writes of a worker: a failure, and a damaged checkpoint that another account's worker converted."""
    refused = farm.submit(farm.spec(model, behave="refuse"))
    assert farm.ended(refused["id"])["state"] == "failed"
    farm.processes[1].stop()
    # The cache of the host has the right bytes.
    no_cache = {"ENGINEFARM_WORKER_CACHE": "off"}
    farm.add_worker("w2", worker_environment(server, account_urls.second_worker) | no_cache)
    client = Minio(server.endpoint, server.access_key, server.secret_key, secure=False, region=server.region)
    damaged = b"x" * len(weights())
    name = f"attacked/{blob_name(digest.of_bytes(weights()))}"
    assert client.stat_object(server.bucket, name).size == len(damaged)
    client.put_object(server.bucket, name, io.BytesIO(damaged), len(damaged))
    rebuilt = farm.ended(farm.submit(farm.spec(model, salt="after the damage"))["id"])
    assert rebuilt["state"] == "succeeded", rebuilt["error"]
    assert farm.outcomes()["convert", "succeeded"] == 2
    for process in farm.processes:
        log = process.log.read_text()
        assert "permission denied" not in log, log
        assert "row-level security" not in log, log


def insert_attempt() -> str:
    return (
        "INSERT INTO attempts (action_key, number, worker_id, outcome, steps) "
        "SELECT %s, 77, min(id), 'running', '{}' FROM workers"
    )


def insert_engine(manifest: str) -> str:
    return (
        "INSERT INTO engines (key, manifest, attempt, model, toolchain, version, driver_binding, pinned, platform, "
        f"bound_to, spec, provenance) VALUES (%s, '{manifest}', 1, 'm', 'quick', '1.0', 'branch', false, "
        "'{}', '{}', '{}', '{}')"
    )


def changed(connection: psycopg.Connection, statement: str, key: str) -> int:
    """How many rows the statement changed."""
    return connection.execute(statement, (key,)).rowcount


def refused_by_row(connection: psycopg.Connection, statement: str, key: str) -> None:
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        connection.execute(statement, (key,))


def test_a_missing_right_is_one_line_with_the_remedy(account_urls: Accounts) -> None:
    database = Database(account_urls.worker)
    with (
        pytest.raises(DatabaseUnavailable, match=r"permission denied .*python -m migrations\.roles"),
        database.read() as session,
    ):
        session.connection().exec_driver_sql("SELECT * FROM pg_authid")
    database.close()
