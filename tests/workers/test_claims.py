"""A message is for its queue: a worker claims what is next there, and announces again what it leaves to others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import update

from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.lifecycle.leases import Claim, claim_next
from tests.migrated import migrated_sqlite
from tests.models.requests import new_request, submit_request
from tests.workers.test_gpus import Messages, runner
from workers import runner as runner_module

CONVERT = new_request().convert


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A catalogue with one queued conversion."""
    catalogue = Database(migrated_sqlite(tmp_path / "catalogue.db"))
    submit_request(catalogue, new_request())
    yield catalogue
    catalogue.close()


def test_a_message_of_an_ended_action_claims_the_next_one_of_its_queue(database: Database) -> None:
    claim = runner(database, "w1").claim("convert.q")
    assert claim is not None
    assert claim.key == CONVERT.key


def test_an_action_that_was_locked_for_a_moment_is_announced_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = runner(database, "w1")

    def pass_a_locked_action(*_: object, **__: object) -> Claim | None:
        return None

    monkeypatch.setattr(runner_module, "claim_next", pass_a_locked_action)
    monkeypatch.setattr(runner_module, "_LOCKED_SECONDS", 0.0)
    worker.run("0" * 64, "convert.q", cast(Any, None))
    assert cast(Messages, worker.announcer).sent == [(CONVERT.key, "convert.q")]


def test_an_action_that_others_take_first_is_announced_again_before_the_worker_stands_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = runner(database, "w1")
    monkeypatch.setattr(runner_module, "_STAND_BACK_SECONDS", 0.0)
    with database.write() as session:
        session.execute(update(ActionRow).values(avoid_worker="w1", avoid_until=now(60)))
    worker.run(CONVERT.key, "convert.q", cast(Any, None))
    assert cast(Messages, worker.announcer).sent == [(CONVERT.key, "convert.q")]


def test_a_message_of_an_empty_queue_is_dropped(database: Database) -> None:
    worker = runner(database, "w1")
    with database.write() as session:
        assert claim_next(session, "convert.q", "w1", lease_seconds=60) is not None
    worker.run(CONVERT.key, "convert.q", cast(Any, None))
    assert cast(Messages, worker.announcer).sent == []
