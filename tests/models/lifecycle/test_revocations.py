"""The list of recalled engines: what enters it, what ends an entry, and that its number never falls."""

from __future__ import annotations

from sqlalchemy import update

from enginefarm.wire.recall import Recall
from models.catalogue.database import Database
from models.catalogue.rows import EngineRow
from models.incidents.recall import recall
from models.incidents.repair import withdraw_damaged
from models.lifecycle.imports import publish_import
from models.lifecycle.publication import publish_engine
from models.lifecycle.revocations import revocations
from models.retention.removal import request_removal
from models.security.farm_identity import farm_identity
from tests.models.imported_records import imported_record
from tests.models.requests import ENGINE, add_worker, claim_now, new_request, one_file_manifest, submit_request
from tests.models.stage_runs import run_build, run_convert

REQUEST = new_request()
KEY = REQUEST.build.key


def listed(database: Database) -> tuple[int, list[tuple[str, str]]]:
    with database.read() as session:
        sequence, entries = revocations(session)
    return sequence, [(entry.manifest, entry.reason) for entry in entries]


def recalled(database: Database, reason: str) -> None:
    with database.write() as session:
        recall(session, Recall(toolchain="aoti", reason=reason))


def built(database: Database, text: str) -> str:
    """Build the engine with these bytes; returns its manifest's digest."""
    submit_request(database, REQUEST)
    run_convert(database, REQUEST)
    claim = claim_now(database, KEY)
    manifest = one_file_manifest(text)
    with database.write() as session:
        publish_engine(session, claim, manifest, engine=ENGINE, steps={})
    return manifest.digest


def test_recalled_bytes_stay_in_the_list_when_the_key_is_built_anew(database: Database) -> None:
    add_worker(database)
    assert listed(database) == (0, [])
    bad = built(database, "bad")
    recalled(database, "bad memory")
    assert listed(database) == (1, [(bad, "bad memory")])
    good = built(database, "good")
    assert listed(database) == (1, [(bad, "bad memory")])
    recalled(database, "bad again")
    assert listed(database) == (2, [(bad, "bad memory"), (good, "bad again")])


def test_bytes_that_a_worker_builds_again_are_not_in_the_list_while_they_are_served(database: Database) -> None:
    add_worker(database)
    manifest = built(database, "same")
    recalled(database, "suspected")
    built(database, "same")
    assert listed(database) == (1, [])
    recalled(database, "suspected again")
    assert listed(database) == (2, [(manifest, "suspected again")])


def test_an_import_of_the_recalled_files_ends_their_recall_for_good(database: Database) -> None:
    record = imported_record(REQUEST)
    with database.write() as session:
        assert publish_import(session, record, imported_by=None)
    recalled(database, "suspected")
    assert listed(database) == (1, [(record.record.manifest.digest, "suspected")])
    with database.write() as session:
        assert publish_import(session, record, imported_by=None)
    assert listed(database) == (2, [])
    with database.write() as session:
        session.execute(update(EngineRow).values(quarantine_reason="deleted", quarantined_at=EngineRow.created_at))
    assert listed(database) == (2, [])


def test_damage_and_deletion_are_no_recalls(database: Database) -> None:
    """What a node has of such an engine is as good as it was signed."""
    add_worker(database)
    submit_request(database, REQUEST)
    run_convert(database, REQUEST)
    run_build(database, REQUEST)
    with database.write() as session:
        taken, _ = withdraw_damaged(session, [one_file_manifest("engine").files[0].digest])
        assert taken.engines == [KEY]
    assert listed(database) == (0, [])
    submit_request(database, REQUEST)
    claim = claim_now(database, KEY)
    with database.write() as session:
        publish_engine(session, claim, one_file_manifest("another"), engine=ENGINE, steps={})
    with database.write() as session:
        request_removal(session, KEY, "deleted by admin")
    assert listed(database) == (0, [])


def test_a_farm_keeps_its_identity(database: Database) -> None:
    identities = set()
    for _ in range(2):
        with database.write() as session:
            identities.add(farm_identity(session, None))
    (identity,) = identities
    assert identity.startswith("urn:uuid:")
    with database.write() as session:
        assert farm_identity(session, "https://farm.example") == "https://farm.example"
