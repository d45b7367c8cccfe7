"""The registry finds engines by stored names and digests, and those that have none yet, with the same answer."""

from __future__ import annotations

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from enginefarm.contract.digest import of_bytes
from enginefarm.contract.errors import NotFound
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import EngineRow
from models.lifecycle.withdrawal import withdraw_engine
from models.queries import oci_registry as registry
from models.queries.registry_entries import has_unregistered, register_engines
from tests.models.copies import copy_engine
from tests.models.requests import add_worker, new_request, one_file_manifest
from tests.models.stage_runs import build_engine
from tests.models.statements import recorded_statements

NAME = "aoti/org/tiny"
BLOB = one_file_manifest("engine").files[0].digest


@pytest.fixture
def key(database: Database) -> str:
    """An engine of `NAME`, and copies of two other repositories."""
    add_worker(database)
    request = new_request()
    build_engine(database, request)
    with database.write() as session:
        session.execute(update(EngineRow).values(model="hf:Org/Tiny"))
    copy_engine(database, request.build.key, 6, models=2)
    return request.build.key


def answers(session: Session, key: str) -> list[object]:
    """Everything that the registry says about an engine."""
    by_tag = registry.find_artifact(session, NAME, key)
    return [
        by_tag,
        registry.find_artifact(session, NAME, by_tag.digest),
        registry.find_document(session, NAME, of_bytes(by_tag.config)),
        registry.repositories(session, after="", limit=9),
        registry.repositories(session, after="aoti/org/tiny", limit=1),
        registry.tags(session, NAME, after="", limit=9),
        registry.tags(session, NAME + "-1", after="", limit=2),
        registry.holds_file(session, NAME, BLOB),
        registry.holds_file(session, NAME + "-1", BLOB),
        registry.find_document(session, NAME + "-1", of_bytes(by_tag.config)),
    ]


def test_stored_entries_change_no_answer(database: Database, key: str) -> None:
    with database.read() as session:
        before = answers(session, key)
    assert before[3:6] == [[NAME, NAME + "-0", NAME + "-1"], [NAME + "-0"], [key]]
    assert before[7:] == [True, False, None]
    registered = 1
    while registered:
        with database.write() as session:
            registered = register_engines(session, limit=2)
        with database.read() as session:
            assert answers(session, key) == before
    with database.read() as session:
        assert not has_unregistered(session)


def test_an_engine_that_is_published_again_has_new_digests_at_once(database: Database, key: str) -> None:
    with database.write() as session:
        register_engines(session)
        old = registry.find_artifact(session, NAME, key)
        # As a worker of an older release publishes over the row.
        session.execute(update(EngineRow).where(EngineRow.key == key).values(created_at=now(60)))
    with database.write() as session:
        new = registry.find_artifact(session, NAME, key)
        assert new.digest != old.digest
        for _ in range(2):
            assert registry.find_artifact(session, NAME, new.digest) == new
            with pytest.raises(NotFound):
                registry.find_artifact(session, NAME, old.digest)
            register_engines(session)


def test_a_withdrawn_engine_is_in_no_repository(database: Database, key: str) -> None:
    with database.write() as session:
        register_engines(session)
        withdraw_engine(session, key, "bad")
        assert registry.repositories(session, after="", limit=9) == [NAME + "-0", NAME + "-1"]
        assert not registry.holds_file(session, NAME, BLOB)
        with pytest.raises(NotFound):
            registry.tags(session, NAME, after="", limit=9)
        with pytest.raises(NotFound):
            registry.find_artifact(session, NAME, key)


def test_an_engine_whose_row_cannot_be_read_has_a_tag_and_stops_nothing(database: Database, key: str) -> None:
    with database.write() as session:
        session.execute(update(EngineRow).where(EngineRow.key == key).values(platform={"sm": []}))
        assert register_engines(session) == 7
        assert not has_unregistered(session)
        assert registry.tags(session, NAME, after="", limit=9) == [key]
        with pytest.raises(NotFound):
            registry.find_artifact(session, NAME, key)


def test_a_call_takes_the_same_statements_for_any_number_of_engines(database: Database, key: str) -> None:
    counts = []
    for copies in (0, 40):
        copy_engine(database, key, copies, models=2, name="more")
        with database.write() as session:
            register_engines(session)
        with recorded_statements(database) as statements, database.read() as session:
            registry.repositories(session, after="", limit=2)
            registry.tags(session, NAME + "-1", after="", limit=2)
            registry.find_artifact(session, NAME, registry.find_artifact(session, NAME, key).digest)
            assert registry.holds_file(session, NAME, BLOB)
        counts.append((len(statements), max(statement.parameters for statement in statements)))
    assert counts[0] == counts[1]
