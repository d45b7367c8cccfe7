"""Imports of engines from other farms keep every promise, whatever else happens to their actions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
from sqlalchemy import select, update

from enginefarm.contract.errors import Conflict, IntegrityError
from enginefarm.contract.key import build_document, convert_document, key_of
from enginefarm.contract.manifest import Manifest
from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage
from enginefarm.trust.provenance import VerifiedRecord
from enginefarm.wire.bodies import BuildState, Disposition, Failure, Fault
from enginefarm.wire.recall import Recall
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, BlobRow, EngineRow, ImportRow
from models.catalogue.states import ActionState, Fenced
from models.fleet.worker_control import release
from models.incidents.recall import recall
from models.lifecycle.imports import import_worker_name, original_envelope, publish_import
from models.lifecycle.leases import renew
from models.lifecycle.publication import publish_engine
from models.lifecycle.submission import NewAction, Request, can_submit_again, cancel
from models.lifecycle.transitions import fail_action
from models.queries.builds import get_build
from models.queries.engines import get_engine
from models.queries.estimates import usual_seconds
from models.retention import removal
from tests.models.collection import correct_all_marks, removable_blobs, remove_unused_manifests, withdrawn_engines
from tests.models.imported_records import SIGNER, STARTED_AT, imported_record
from tests.models.requests import CPU, ENGINE, SPEC, add_worker, claim_now, new_work, one_file_manifest, submit_request
from tests.models.stage_runs import run_convert
from tests.promises import broken_promises

CONVERT = convert_document(
    toolchain="aoti", version="2.13.0", model={"commit": "0" * 40}, precision=SPEC.precision,
    parallelism=SPEC.parallelism, options={},
)  # fmt: skip
BUILD = build_document(
    convert=key_of(CONVERT), toolchain="aoti", version="2.13.0", limits=SPEC.limits, options={},
    platform={"arch": "x86_64", "cpu_isa": "x86-64-v3", "os": "linux"},
)  # fmt: skip
KEY = key_of(BUILD)


def same() -> Request:
    """What somebody asks for here, who wants this engine."""
    return Request(
        convert=NewAction(key_of(CONVERT), Stage.CONVERT, "convert.q", CONVERT, new_work(Stage.CONVERT)),
        build=NewAction(KEY, Stage.BUILD, "build.q", BUILD, new_work(Stage.BUILD)),
        model=SPEC.model, toolchain="aoti", version="2.13.0", spec=SPEC.model_dump(mode="json"),
        platform=CPU.model_dump(), platform_label=CPU.label(), requested_by=None,
    )  # fmt: skip


def engine(content: str = "engine") -> VerifiedRecord:
    return imported_record(same(), content)


def imported(database: Database, came: VerifiedRecord | None = None) -> bool:
    with database.write() as session:
        return publish_import(session, came or engine(), imported_by="admin")


def promised(database: Database) -> None:
    with database.read() as session:
        assert broken_promises(session) == []


def test_an_imported_engine_is_served_like_one_built_here(database: Database) -> None:
    assert imported(database)
    with database.read() as session:
        engine = get_engine(session, KEY)
        row = session.get_one(EngineRow, KEY)
        assert (engine.manifest, engine.model, engine.document) == (
            one_file_manifest("engine").digest,
            SPEC.model,
            BUILD,
        )
        assert (engine.checkpoint_document, engine.provenance) == (CONVERT, {"worker": "of the other farm"})
        assert original_envelope(session, row) == {"payload": "as it came"}
        assert session.get_one(ImportRow, (KEY, row.attempt)).imported_by == "admin"
    accepted = submit_request(database, same())
    assert accepted.disposition is Disposition.CACHED
    with database.read() as session:
        build = get_build(session, accepted.id)
        assert [attempt.worker for attempt in build.attempts] == [import_worker_name(SIGNER)]
    promised(database)


def test_a_second_import_changes_nothing(database: Database) -> None:
    assert imported(database)
    with database.read() as session:
        before = [(row.attempt, row.manifest, row.created_at) for row in session.execute(select(EngineRow)).scalars()]
    assert not imported(database)
    assert not imported(database, engine("another"))  # this farm keeps what it has
    with database.read() as session:
        after = [(row.attempt, row.manifest, row.created_at) for row in session.execute(select(EngineRow)).scalars()]
    assert after == before
    promised(database)


@pytest.mark.parametrize("moment", ["waiting", "converting", "queued", "building", "failed", "cancelled"])
def test_an_import_ends_the_builds_that_wait_for_its_engine(database: Database, moment: str) -> None:
    worker, request = add_worker(database), same()
    build = submit_request(database, request).id
    if moment == "converting":
        claim_now(database, request.convert.key, worker)
    if moment in {"queued", "building"}:
        run_convert(database, request)
    claim = claim_now(database, request.build.key, worker) if moment == "building" else None
    with database.write() as session:
        if moment == "cancelled":
            cancel(session, build)
        if moment == "failed":
            fail_action(session, request.convert.key, Failure(cause="x", fault=Fault.CALLER, detail="x"))

    assert imported(database)

    promised(database)
    with database.read() as session:
        expected = BuildState(moment) if moment in {"failed", "cancelled"} else BuildState.SUCCEEDED
        assert get_build(session, build).state is expected
        convert = session.get_one(ActionRow, request.convert.key).state
        assert convert not in {ActionState.QUEUED, ActionState.RUNNING}
        envelope = original_envelope(session, session.get_one(EngineRow, KEY))
    assert envelope is not None
    if claim is not None:
        with database.write() as session, pytest.raises(Fenced):
            publish_engine(session, claim, one_file_manifest("too late"), engine=ENGINE, steps={})
    assert submit_request(database, request).disposition is Disposition.CACHED


def test_a_worker_that_builds_an_imported_engine_is_fenced_at_its_next_heartbeat(database: Database) -> None:
    worker, request = add_worker(database), same()
    submit_request(database, request)
    run_convert(database, request)
    claim = claim_now(database, request.build.key, worker)
    imported(database)
    with database.write() as session, pytest.raises(Fenced):
        renew(session, claim, lease_seconds=30, progress=0.5, message=None)


def test_a_recall_withdraws_every_engine_that_the_key_signed_and_refuses_new_ones(database: Database) -> None:
    imported(database)
    build_request = Recall(worker=import_worker_name(SIGNER), reason="their key was stolen")
    with database.write() as session:
        taken, _ = recall(session, build_request)
        assert taken.engines == [KEY]
        assert not can_submit_again(session, KEY)
    with pytest.raises(
        Conflict, match=r"was recalled \(their key was stolen\): `enginefarm workers release import-a{12}`"
    ):
        imported(database)
    promised(database)
    with database.write() as session:
        release(session, import_worker_name(SIGNER))
    assert imported(database)
    promised(database)


def test_a_withdrawn_import_is_built_anew_by_a_submit(database: Database) -> None:
    imported(database)
    with database.write() as session:
        recall(session, Recall(toolchain="aoti", version="2.13.0"))
    add_worker(database)
    request = same()
    assert submit_request(database, request).disposition is Disposition.CREATED
    promised(database)
    run_convert(database, request)
    claim = claim_now(database, request.build.key)
    with database.write() as session:
        publish_engine(session, claim, one_file_manifest("built here"), engine=ENGINE, steps={})
    promised(database)
    with database.read() as session:
        assert original_envelope(session, session.get_one(EngineRow, KEY)) is None  # the statement is about other bytes
        assert can_submit_again(session, KEY)


def test_a_removed_engine_can_be_imported_again(database: Database) -> None:
    imported(database)
    with database.write() as session:
        removal.request_removal(session, KEY, "to make room")
        (going,) = withdrawn_engines(session)
        assert removal.remove(session, [going], grace_seconds=0, removed_by=None)
        remove_unused_manifests(session)
        correct_all_marks(session)
        assert len(removable_blobs(session)) == 1
    promised(database)
    assert imported(database)
    with database.read() as session:
        assert removable_blobs(session) == []
        assert len(session.execute(select(ImportRow)).all()) == 2  # each is remembered
    promised(database)


def test_an_import_with_damaged_bytes_is_refused(database: Database) -> None:
    (entry,) = one_file_manifest("engine").files
    imported(database)
    with database.write() as session:
        session.execute(update(BlobRow).where(BlobRow.digest == entry.digest).values(damaged_at=STARTED_AT))
        session.execute(update(EngineRow).values(quarantined_at=STARTED_AT, quarantine_reason="damaged"))
    with pytest.raises(IntegrityError, match="damaged in the store"):
        imported(database)
    promised(database)


def test_a_rolled_back_import_leaves_no_row(database: Database) -> None:
    class Killed(Exception):
        pass

    def killed() -> None:
        with database.write() as session:
            publish_import(session, engine(), imported_by=None)
            raise Killed

    with pytest.raises(Killed):
        killed()
    with database.read() as session:
        assert session.execute(select(ActionRow)).first() is None
        assert session.execute(select(BlobRow)).first() is None


def test_estimates_count_the_time_of_an_imported_build(database: Database) -> None:
    imported(database)
    with database.read() as session:
        assert usual_seconds(session, session.get_one(ActionRow, KEY).queue) == 1200


def test_an_imported_engine_has_the_files_of_its_manifest(database: Database) -> None:
    imported(database)
    with database.read() as session:
        assert Manifest.of(engine().record.manifest.files).digest == get_engine(session, KEY).manifest


def test_concurrent_imports_publish_one_engine(database: Database) -> None:
    """Imports of it and of its like, and a worker that ends its build, all in the same moment."""
    worker, request = add_worker(database), same()
    build = submit_request(database, request).id
    run_convert(database, request)
    claim = claim_now(database, request.build.key, worker)
    start = Barrier(7)

    def bring() -> bool:
        start.wait(60)
        return imported(database)

    def publish() -> bool:
        start.wait(60)
        try:
            with database.write() as session:
                publish_engine(session, claim, one_file_manifest("engine"), engine=ENGINE, steps={})
        except Fenced:
            return False
        return True

    with ThreadPoolExecutor(7) as pool:
        done = [pool.submit(job) for job in (bring, bring, bring, publish, bring, bring, bring)]
        assert sum(future.result(60) for future in done) == 1
    promised(database)
    with database.read() as session:
        assert get_build(session, build).state is BuildState.SUCCEEDED


@pytest.mark.parametrize(("in_the_key", "binding"), [("580", "branch"), ("580.159.04", "exact"), (None, "branch")])
def test_the_key_document_decides_how_the_driver_binds(in_the_key: str | None, binding: str) -> None:
    gpu = Platform(arch="x86_64", gpu="NVIDIA L4", sm="89", gpu_memory_gib=24, cuda="13.0", driver="580.159.04")
    bound = {"driver": in_the_key} if in_the_key else {}
    assert replace(engine(), platform=gpu, bound_to=bound).driver_binding == binding
