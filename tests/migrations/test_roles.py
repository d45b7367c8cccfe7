"""Roles on PostgreSQL: each account has its own rights, every table has a decision, and the command may be repeated."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Column, Integer, MetaData, Table

from enginefarm.contract.errors import DatabaseUnavailable
from migrations.roles import ALL, RIGHTS, grant, main, table_statements
from migrations.upgrade import downgrade, set_up, upgrade
from models.catalogue.database import Database
from models.catalogue.rows import Row
from models.exit_codes import ExitCode
from models.lifecycle.gpu_locks import GpuInUseError, lock_gpus
from models.lifecycle.leases import claim_action, expire, renew
from models.settings import Settings
from tests.migrations.accounts import SECOND_WORKER, Accounts, accounts
from tests.models.requests import add_worker, new_request, submit_request
from tests.models.stage_runs import run_convert
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Databases
from tests.servers.server import new_data_dir


@pytest.fixture(scope="module")
def account_urls(postgres: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    """A farm that began with one account for everything and then got its accounts, as docs/operations.md says.

    One for all tests, which leave its rights as they are.
    """
    administrator_url = postgres.create()
    with accounts(administrator_url) as made:
        administrator = Database(administrator_url)
        upgrade(administrator.engine)
        made.administer("INSERT INTO file_digests VALUES ('/models/a', '1:2:3', 'sha256:0')")
        administrator.close()
        made.run_script()
        set_up(settings(made.owner, tmp_path_factory.mktemp("farm")), roles="enginefarm")
        yield made
    postgres.drop(administrator_url)


@pytest.fixture
def owner(account_urls: Accounts) -> Iterator[Database]:
    database = Database(account_urls.owner)
    yield database
    database.close()


def settings(database_url: str, folder: Path) -> Settings:
    return Settings.from_environment(environment(database_url, folder))


def environment(database_url: str, folder: Path) -> dict[str, str]:
    return {
        "ENGINEFARM_DATABASE_URL": database_url, "ENGINEFARM_BROKER_URL": "redis://127.0.0.1:1/0",
        "ENGINEFARM_STORE_URL": f"file://{folder}/store",
    }  # fmt: skip


def test_every_table_has_a_decision() -> None:
    assert set(RIGHTS) == set(Row.metadata.tables), "decide in migrations/roles.py who may do what with a new table"


@pytest.mark.parametrize("table", RIGHTS)
def test_the_decisions_name_columns_of_the_table(table: str) -> None:
    columns = {column.name for column in Row.metadata.tables[table].columns}
    for granted in (RIGHTS[table].api, RIGHTS[table].worker, RIGHTS[table].readonly):
        for named in (granted.select, granted.insert, granted.update):
            assert named == ALL or set(named) <= columns


def test_a_table_without_a_decision_is_refused() -> None:
    table = Table("secrets_of_tomorrow", MetaData(), Column("id", Integer, primary_key=True))
    with pytest.raises(ValueError, match="no decision on the table secrets_of_tomorrow"):
        list(table_statements(table, "api", "worker", "readonly"))


def privileges(accounts: Accounts) -> set[tuple[str, ...]]:
    """Every grant on a table or a column, and every policy."""
    with accounts.connect("enginefarm_owner") as connection:
        columns = connection.execute(
            "SELECT grantee, table_name, column_name, privilege_type FROM information_schema.column_privileges"
        ).fetchall()
        tables = connection.execute(
            "SELECT grantee, table_name, privilege_type FROM information_schema.table_privileges"
        ).fetchall()
        policies = connection.execute("SELECT tablename, policyname, qual, with_check FROM pg_policies").fetchall()
    return {tuple(map(str, row)) for row in (*columns, *tables, *policies)}


def test_a_second_run_changes_nothing_and_takes_back_other_rights(account_urls: Accounts, owner: Database) -> None:
    granted = privileges(account_urls)
    grant(owner.engine)
    assert privileges(account_urls) == granted
    with account_urls.connect("enginefarm_owner") as connection:
        connection.execute("GRANT SELECT ON api_keys TO enginefarm_worker")
        connection.execute("GRANT DELETE ON blobs TO PUBLIC")
    grant(owner.engine)
    assert privileges(account_urls) == granted


def test_runs_behind_a_pooler_exclude_one_another_and_leave_no_lock(account_urls: Accounts) -> None:
    """A lock of the session would stay in the server's session, which the pooler gives to its next client."""
    granted = privileges(account_urls)
    account_urls.administer("ALTER ROLE enginefarm_owner SET lock_timeout = '20s'")  # fails instead of waiting for ever
    data = new_data_dir("pgbouncer")
    with PgBouncer(data, account_urls.owner) as pooler, ThreadPoolExecutor(3) as pool:
        databases = [Database(pooler.url, pool_size=2) for _ in range(3)]
        for roles in pool.map(grant, [database.engine for database in databases]):
            assert roles == ["enginefarm_api", "enginefarm_worker", "enginefarm_readonly"]
        for database in databases:
            database.close()
        with account_urls.connect("enginefarm_owner") as connection:
            locks = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
        assert locks == (0,)
    shutil.rmtree(data)
    account_urls.administer("ALTER ROLE enginefarm_owner RESET lock_timeout")
    assert privileges(account_urls) == granted


@pytest.mark.parametrize("role", ["enginefarm_api", "enginefarm_worker", "enginefarm_readonly"])
def test_a_role_creates_and_drops_nothing(account_urls: Accounts, role: str) -> None:
    account_urls.administer(f"ALTER ROLE {role} LOGIN PASSWORD 'password-of-{role}'")
    with account_urls.connect(role) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() is not None
        for statement in (
            "CREATE TABLE public.mine (id int)", "CREATE TEMPORARY TABLE mine (id int)", "DROP TABLE engines",
            "TRUNCATE engines", "ALTER TABLE engines ADD mine int", "CREATE SCHEMA mine",
            "UPDATE alembic_version SET version_num = '0001'", "ALTER TABLE actions DISABLE ROW LEVEL SECURITY",
            "CREATE ROLE mine", "SET ROLE enginefarm_owner",
        ):  # fmt: skip
            with pytest.raises(InsufficientPrivilege):
                connection.execute(statement)


def test_readers_see_everything_but_api_keys(account_urls: Accounts) -> None:
    account_urls.administer("ALTER ROLE enginefarm_readonly LOGIN PASSWORD 'password-of-enginefarm_readonly'")
    with account_urls.connect("enginefarm_readonly") as connection:
        for table in set(RIGHTS) - {"api_keys"}:
            connection.execute(f"SELECT * FROM {table}")
            with pytest.raises(InsufficientPrivilege):
                connection.execute(f"DELETE FROM {table}")
        with pytest.raises(InsufficientPrivilege):
            connection.execute("SELECT id FROM api_keys")


def test_the_api_keeps_records_that_are_never_removed(account_urls: Accounts) -> None:
    with account_urls.connect("enginefarm_api") as connection:
        for table in ("api_keys", "imports", "removals", "revocations", "farm"):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(f"DELETE FROM {table}")


def test_the_api_may_use_a_new_table_before_the_rights_are_granted_again(account_urls: Accounts) -> None:
    with account_urls.connect("enginefarm_owner") as connection:
        connection.execute("CREATE TABLE of_tomorrow (id bigserial PRIMARY KEY)")
    with account_urls.connect("enginefarm_api") as connection:
        connection.execute("INSERT INTO of_tomorrow DEFAULT VALUES")
    for role in ("enginefarm_worker", "enginefarm_worker_2"):
        with account_urls.connect(role) as connection, pytest.raises(InsufficientPrivilege):
            connection.execute("SELECT * FROM of_tomorrow")
    with account_urls.connect("enginefarm_owner") as connection:
        connection.execute("DROP TABLE of_tomorrow")


def test_a_worker_takes_over_a_gpu_only_when_its_lock_is_over(account_urls: Accounts) -> None:
    api, first, second = (Database(url) for url in (account_urls.api, account_urls.worker, account_urls.second_worker))
    builds = [new_request("on a GPU", limits) for limits in ("a", "b")]
    for request in builds:
        submit_request(api, request)
    add_worker(first, "gpu-1")
    add_worker(second, "gpu-2")
    run_convert(first, builds[0], "gpu-1")

    def claim(database: Database, number: int, worker: str) -> None:
        with database.write() as session:
            claimed = claim_action(session, builds[number].build.key, worker, lease_seconds=30)
            assert claimed is not None
            renew(session, lock_gpus(session, claimed, ["GPU-1"], seconds=35), lease_seconds=30)

    claim(first, 0, "gpu-1")
    with pytest.raises(GpuInUseError):
        claim(second, 1, "gpu-2")
    with account_urls.connect(SECOND_WORKER) as stolen:
        assert stolen.execute("DELETE FROM gpu_locks").rowcount == 0
        assert stolen.execute("UPDATE gpu_locks SET expires_at = now() - interval '1 day'").rowcount == 0
        with pytest.raises(InsufficientPrivilege):
            stolen.execute("UPDATE gpu_locks SET worker_id = 'gpu-2'")
    with account_urls.connect("enginefarm_owner") as owner:
        owner.execute("UPDATE gpu_locks SET expires_at = now() - interval '1 s'")
        owner.execute("UPDATE actions SET lease_expires_at = now() - interval '1 s' WHERE state = 'running'")
    with pytest.raises(GpuInUseError):
        claim(second, 1, "gpu-2")
    with api.write() as session:
        expire(session, max_tries=3)
    claim(second, 1, "gpu-2")
    for database in (api, first, second):
        database.close()


def test_a_changed_password_takes_effect_when_the_script_runs_again(account_urls: Accounts) -> None:
    before = privileges(account_urls)
    account_urls.run_script(worker="another-password")
    account_urls.connect("enginefarm_worker", "another-password").close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        account_urls.connect("enginefarm_worker")
    assert privileges(account_urls) == before
    account_urls.run_script()


def test_a_catalogue_of_before_keeps_its_rows(account_urls: Accounts) -> None:
    with account_urls.connect("enginefarm_api") as connection:
        assert connection.execute("SELECT path FROM file_digests").fetchall() == [("/models/a",)]


def test_the_rights_go_with_a_downgrade(account_urls: Accounts, owner: Database) -> None:
    """The release before knows no policies: row-level security without them would refuse every worker."""
    downgrade(owner.engine, "0007")
    with account_urls.connect("enginefarm_owner") as connection:
        secured = connection.execute("SELECT relname FROM pg_class WHERE relrowsecurity").fetchall()
    assert secured == []
    upgrade(owner.engine)
    grant(owner.engine)


def test_sqlite_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment(f"sqlite:///{tmp_path}/catalogue.db", tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["migrations.roles"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == ExitCode.SETTINGS
    assert re.fullmatch(r"enginefarm: roles need PostgreSQL: SQLite has no accounts.*\n", capsys.readouterr().err)


def test_only_the_owner_grants(account_urls: Accounts, owner: Database) -> None:
    worker = Database(account_urls.worker)
    with pytest.raises(DatabaseUnavailable, match="migrations need the owner of the tables"):
        grant(worker.engine)
    with pytest.raises(ValueError, match="CREATE ROLE other_api"):
        grant(worker.engine, "other")
    with pytest.raises(ValueError, match="cannot begin the names of roles"):
        grant(worker.engine, 'x"; DROP TABLE engines; --')
    worker.close()
