"""Data stays safe across versions: populated catalogues of 0001 and 0006 are led to the newest, on both databases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from enginefarm.contract.errors import Gone
from enginefarm.wire.bodies import BuildState
from migrations.drift import drift
from migrations.upgrade import config, downgrade, upgrade, versions
from models.catalogue.database import Database
from models.catalogue.rows import REVISION
from models.fleet.roster import list_workers, quarantined_workers
from models.fleet.worker_control import release
from models.fleet.worker_states import refuses_new_work
from models.lifecycle.gpu_locks import lock_gpus
from models.lifecycle.leases import claim_action, expire
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.lifecycle.revocations import revocations
from models.queries.builds import get_build, list_builds
from models.queries.engines import get_engine, list_engines
from models.queries.removals import removals
from models.security import api_keys as access
from models.security.api_keys import Scope
from models.settings import Settings
from tests.migrations import catalogue_0001, catalogue_0006
from tests.migrations.tables import Rows, insert_rows, read_rows
from tests.models.requests import ENGINE, add_worker, one_file_manifest

BUILD = catalogue_0001.BUILD
OLD_SECRET = "aB-_" * 10 + "xyz"  # as `secrets.token_urlsafe(32)` writes them
MAX_TRIES = Settings.model_fields["max_tries"].default


def _revisions() -> list[str]:
    """The oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()][::-1]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without any table."""
    on_postgresql = request.param == "postgresql"
    url = request.getfixturevalue("postgres_url") if on_postgresql else f"sqlite:///{tmp_path / 'catalogue.db'}"
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def first(empty: Database) -> Database:
    """A populated catalogue at revision 0001."""
    return _populated(empty, "0001", catalogue_0001.ROWS)


@pytest.fixture
def last_release(empty: Database) -> Database:
    """A populated catalogue at revision 0006."""
    return _populated(empty, "0006", catalogue_0006.ROWS)


def _populated(database: Database, revision: str, rows: Rows) -> Database:
    upgrade(database.engine, revision)
    with database.engine.begin() as connection:
        insert_rows(connection, rows)
    return database


def _comparable(rows: list[Any]) -> list[str]:
    return sorted(repr(sorted((name, value) for name, value in row.items() if value is not None)) for row in rows)


def _assert_rows_kept(engine: Engine, rows_by_table: Rows) -> None:
    """Every value that the old release wrote is there, and no row came or went."""
    with engine.connect() as connection:
        for name, rows in rows_by_table.items():
            written = {column for row in rows for column in row}
            assert _comparable(read_rows(connection, name, written)) == _comparable(list(rows)), name


def test_every_step_from_the_first_catalogue_keeps_every_row(first: Database) -> None:
    for revision in _revisions():
        upgrade(first.engine, revision)
        _assert_rows_kept(first.engine, catalogue_0001.ROWS)
    assert drift(first.engine) == []


def test_an_upgrade_at_once_is_the_same_as_one_step_by_step(first: Database) -> None:
    upgrade(first.engine)
    _assert_rows_kept(first.engine, catalogue_0001.ROWS)
    assert versions(first.engine) == (_revisions()[-1],) * 2
    upgrade(first.engine)  # again changes nothing
    _assert_rows_kept(first.engine, catalogue_0001.ROWS)


def test_the_code_of_today_reads_the_first_catalogue(first: Database) -> None:
    upgrade(first.engine)
    with first.read() as session:
        assert [build.state for build in list_builds(session, limit=10, cursor=None).items] == [
            BuildState.QUEUED, BuildState.FAILED, BuildState.CANCELLED, BuildState.RUNNING, BuildState.SUCCEEDED,
            BuildState.SUCCEEDED,
        ]  # fmt: skip
        assert [engine.key for engine in list_engines(session, limit=10, cursor=None).items] == [BUILD]
        assert [entry.size for entry in get_engine(session, BUILD).contents] == [0, 1 << 40]
        assert get_engine(session, BUILD).pinned
        assert get_build(session, f"{5:032x}").error is not None


def test_a_lease_of_the_first_catalogue_expires(first: Database) -> None:
    """A worker of the old version died with the upgrade: its action is free again."""
    upgrade(first.engine)
    with first.write() as session:
        expire(session, max_tries=MAX_TRIES)
    with first.read() as session:
        assert get_build(session, f"{3:032x}").state is BuildState.QUEUED


def test_an_upgrade_from_the_last_release_keeps_every_row(last_release: Database) -> None:
    """Quarantined workers too stay `draining`: their running programs refuse work only in that state."""
    upgrade(last_release.engine)
    _assert_rows_kept(last_release.engine, catalogue_0006.ROWS)
    assert drift(last_release.engine) == []


def test_a_downgrade_to_the_last_release_restores_its_rows(last_release: Database) -> None:
    upgrade(last_release.engine)
    downgrade(last_release.engine, "0006")
    _assert_rows_kept(last_release.engine, catalogue_0006.ROWS)
    upgrade(last_release.engine)
    assert drift(last_release.engine) == []


def test_engines_that_were_recalled_before_enter_the_list_of_recalls(last_release: Database) -> None:
    """Damage in the store and deletions were withdrawals, too, and are no recalls."""
    with last_release.engine.begin() as connection:
        recall = text("UPDATE engines SET quarantined_at = created_at, quarantine_reason = :reason WHERE key = :key")
        connection.execute(recall, {"reason": "bad memory", "key": BUILD})
    upgrade(last_release.engine)
    with last_release.read() as session:
        sequence, entries = revocations(session)
        assert (sequence, [(entry.key, entry.manifest, entry.reason) for entry in entries]) == (
            1, [(BUILD, catalogue_0001.ENGINE_MANIFEST, "bad memory")]
        )  # fmt: skip


def test_foreign_keys_are_enforced_again_after_an_upgrade(last_release: Database) -> None:
    upgrade(last_release.engine)
    with last_release.engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1


def test_a_row_that_dangled_before_does_not_stop_an_upgrade(last_release: Database) -> None:
    with last_release.engine.connect() as connection:
        if connection.dialect.name != "sqlite":
            pytest.skip("PostgreSQL never has such a row")
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys=OFF")
        driver.execute("INSERT INTO manifest_files (manifest, path, blob) VALUES ('gone', 'x', 'gone')")
        driver.commit()
        driver.execute("PRAGMA foreign_keys=ON")
    upgrade(last_release.engine)
    assert versions(last_release.engine)[0] == REVISION


def test_the_code_of_today_reads_the_last_release(last_release: Database) -> None:
    upgrade(last_release.engine)
    with last_release.read() as session:
        states = {worker.id: worker.state for worker in list_workers(session, include_gone=True)}
        assert states == {
            "w1": "live", "w2": "draining", "w3": "gone", "sick": "quarantined", "both": "quarantined",
            "silent": "gone", "well": "live", "import": "gone",
        }  # fmt: skip
        assert [engine.key for engine in list_engines(session, limit=10, cursor=None).items] == [BUILD]
        assert [removal.key for removal in removals(session, limit=9, cursor=None).items] == [
            catalogue_0006.REMOVED_BUILD
        ]
        with pytest.raises(Gone, match="deleted by admin"):
            get_engine(session, catalogue_0006.REMOVED_BUILD)
        with pytest.raises(Gone, match="damaged"):
            get_engine(session, catalogue_0006.IMPORTED_BUILD)
        assert get_build(session, f"{8:032x}").asked == {"model": "hf:org/tiny"}


def test_work_of_the_last_release_is_claimed_published_and_listed(last_release: Database) -> None:
    upgrade(last_release.engine)
    add_worker(last_release, "new", queues=(catalogue_0006.CONVERT_QUEUE, catalogue_0006.BUILD_QUEUE))
    with last_release.write() as session:
        for refusing in ("w2", "sick", "both"):
            assert claim_action(session, catalogue_0006.QUEUED_CONVERT, refusing, lease_seconds=30) is None
        convert = claim_action(session, catalogue_0006.QUEUED_CONVERT, "new", lease_seconds=30)
        assert convert is not None
        announcements = publish_checkpoint(session, convert, one_file_manifest("weights"), facts={}, steps={})
        assert announcements == [(catalogue_0006.WAITING_BUILD, catalogue_0006.BUILD_QUEUE)]
        build = claim_action(session, catalogue_0006.WAITING_BUILD, "new", lease_seconds=30)
        assert build is not None
        publish_engine(session, build, one_file_manifest("engine"), engine=ENGINE, steps={})
    with last_release.read() as session:
        engines = {engine.key for engine in list_engines(session, limit=10, cursor=None).items}
        assert engines == {BUILD, catalogue_0006.WAITING_BUILD}
        assert get_build(session, f"{7:032x}").state is BuildState.SUCCEEDED


def test_a_running_attempt_of_the_last_release_is_requeued_and_rebuilt(last_release: Database) -> None:
    upgrade(last_release.engine)
    add_worker(last_release, "new", queues=(catalogue_0006.BUILD_QUEUE,))
    with last_release.write() as session:
        expire(session, max_tries=MAX_TRIES)
        build = claim_action(session, catalogue_0006.RUNNING_BUILD, "new", lease_seconds=30)
    assert build is not None
    assert (build.attempt, build.checkpoint) == (2, catalogue_0001.CHECKPOINT_MANIFEST)


def test_a_gpu_is_locked_for_an_attempt_of_the_last_release_until_a_downgrade(last_release: Database) -> None:
    upgrade(last_release.engine)
    add_worker(last_release, "new", queues=(catalogue_0006.CONVERT_QUEUE,))
    with last_release.write() as session:
        convert = claim_action(session, catalogue_0006.QUEUED_CONVERT, "new", lease_seconds=30)
        assert convert is not None
        lock_gpus(session, convert, ["GPU-1"], seconds=35)
    with last_release.read() as session:
        waits_for = {worker.name: worker.waits_for for worker in list_workers(session)}
        assert waits_for["new"] is None, "workers of before report no GPUs, and wait for none"
        assert set(waits_for.values()) == {None}
    downgrade(last_release.engine, "0010")
    upgrade(last_release.engine)
    assert drift(last_release.engine) == []


def test_a_quarantine_of_the_last_release_outlives_the_upgrade_until_it_is_released(last_release: Database) -> None:
    upgrade(last_release.engine)
    with last_release.write() as session:
        [overheating] = [worker for worker in list_workers(session, include_gone=True) if worker.id == "silent"]
    add_worker(last_release, overheating.name)  # it starts again, with the program of today
    with last_release.write() as session:
        assert refuses_new_work(session, overheating.name)
        serving = {worker.id for worker in quarantined_workers(session) if catalogue_0006.BUILD_QUEUE in worker.queues}
        assert serving == {"sick", "both"}
        release(session, "sick")
        assert not refuses_new_work(session, "sick")


def test_api_keys_of_the_last_release_stay_valid_and_its_programs_go_on(last_release: Database) -> None:
    """Its statements, as it sends them to the new table while the farm is upgraded."""
    secret_hash = hashlib.sha256(OLD_SECRET.encode()).hexdigest()
    insert = text(
        "INSERT INTO api_keys (id, name, secret_hash, scopes) VALUES (:id, :name, :secret_hash, '[\"read\"]')"
    )
    with last_release.engine.begin() as connection:
        connection.execute(insert, {"id": "0123456789ab", "name": "node", "secret_hash": secret_hash})
    upgrade(last_release.engine)
    with last_release.read() as session:
        assert access.authenticate(session, f"ef_0123456789ab_{OLD_SECRET}").caller.name == "node"
    # Its `keys create` refuses a name that is taken, and makes keys that the new program accepts.
    with pytest.raises(IntegrityError), last_release.engine.begin() as connection:
        connection.execute(insert, {"id": "111111111111", "name": "node", "secret_hash": secret_hash})
    with last_release.engine.begin() as connection:
        connection.execute(insert, {"id": "222222222222", "name": "other", "secret_hash": secret_hash})
    # It accepts a key of the new program: it takes everything behind the second underscore for the secret.
    with last_release.write() as session:
        new = access.create(session, "new", [Scope.READ])
        _, key_id, new_secret = new.split("_", 2)
        select = text("SELECT secret_hash FROM api_keys WHERE id = :id AND revoked_at IS NULL")
        stored = session.execute(select, {"id": key_id}).scalar_one()
        assert stored == hashlib.sha256(new_secret.encode()).hexdigest()


def test_a_downgrade_leaves_no_key_that_was_to_end(last_release: Database) -> None:
    upgrade(last_release.engine)
    with last_release.write() as session:
        access.rotate(session, "ci", overlap=timedelta(days=1))
        access.rotate(session, "ci", overlap=timedelta(days=1))
        access.create(session, "guest", [Scope.READ], lifetime=timedelta(days=1))
        access.create(session, "old", [Scope.READ])  # a name of a revoked key
    downgrade(last_release.engine, "0006")
    with last_release.engine.connect() as connection:
        rows = connection.execute(text("SELECT name, revoked_at IS NULL FROM api_keys ORDER BY name, id")).all()
    by_name = {name: bool(is_active) for name, is_active in rows}
    assert len(by_name) == len(rows) == 6
    assert [name for name, is_active in by_name.items() if is_active] == ["ci", "old"]
    assert not by_name["guest"]
    assert not by_name["ci k1"]
    assert not by_name["old k2"]
    upgrade(last_release.engine)
    assert drift(last_release.engine) == []


def test_the_declared_revision_is_that_of_the_last_migration() -> None:
    assert _revisions()[-1] == REVISION
