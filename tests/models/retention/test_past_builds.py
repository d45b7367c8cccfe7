"""Builds that ended long ago are removed in batches; what a recall needs and what is open stays."""

from __future__ import annotations

from sqlalchemy import select, update

from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import BuildRow, EngineRow
from models.lifecycle.submission import can_submit_again, cancel, submit_again
from models.retention import past_builds
from tests.models.requests import add_worker, new_request, submit_request
from tests.models.stage_runs import build_engine


def removed(database: Database, *, days: float, size: int = 2) -> int:
    """How many builds a run removes."""
    total, last = 0, 0
    while True:
        with database.read() as session:
            batch = past_builds.next_batch(session, days=days, after=last, size=size)
        if batch is None:
            return total
        with database.write() as session:
            total += past_builds.remove(session, batch.removable, days=days)
        last = batch.last


def aged(database: Database, *builds: str, days: float) -> None:
    with database.write() as session:
        for column in ("created_at", "ended_at"):
            ended = getattr(BuildRow, column).is_not(None)
            session.execute(update(BuildRow).where(BuildRow.id.in_(builds), ended).values({column: now(-days * 86400)}))


def ids(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.execute(select(BuildRow.id).order_by(BuildRow.seq)).scalars())


def test_old_builds_go_and_the_last_of_an_engine_stays(database: Database) -> None:
    add_worker(database)
    request = new_request()
    first = build_engine(database, request)
    cached = [submit_request(database, request).id for _ in range(5)]
    cancelled = submit_request(database, new_request(limits="cancelled")).id
    waiting = submit_request(database, new_request(limits="waiting")).id
    with database.write() as session:
        assert cancel(session, cancelled)
    young = submit_request(database, request).id
    assert removed(database, days=1) == 0
    aged(database, first, *cached, cancelled, waiting, days=2)
    assert removed(database, days=1) == 7
    assert ids(database) == [waiting, young]
    aged(database, young, days=2)
    assert removed(database, days=1) == 0
    with database.write() as session:
        assert can_submit_again(session, request.build.key)
        assert submit_again(session, request.build.key, requested_by=None)
        assert session.execute(select(EngineRow.key)).scalars().all() == [request.build.key]
