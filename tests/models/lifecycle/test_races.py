"""Two sessions on PostgreSQL move the same action: exactly one succeeds, and no row is half-changed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from sqlalchemy import text, update

from enginefarm.wire.bodies import Disposition
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.catalogue.states import MOVES, ActionState, Fenced
from models.lifecycle.publication import publish_engine
from models.lifecycle.transitions import move
from tests.models.requests import ENGINE, add_worker, claim_now, new_request, one_file_manifest, submit_request
from tests.models.stage_runs import run_convert
from tests.servers.postgres import Databases

_FAILURE = {"cause": "broke", "fault": "worker", "detail": "it did"}
_TARGETS = {state: [to for to, allowed in MOVES.items() if state in allowed] for state in ActionState}
_PAIRS = [
    (state, first, second)
    for state, targets in _TARGETS.items()
    for first, second in itertools.combinations_with_replacement(targets, 2)
]


@pytest.fixture(scope="module")
def catalogue(postgres: Databases) -> Iterator[Database]:
    url = postgres.create_migrated()
    database = Database(url)
    add_worker(database)
    yield database
    database.close()
    postgres.drop(url)


def columns(state: ActionState) -> dict[str, Any]:
    """What an action in this state must have, and must not have."""
    leased = {"worker_id": "w1", "lease_expires_at": now(30)} if state is ActionState.RUNNING else {}
    return {**leased, "failure": _FAILURE if state is ActionState.FAILED else None}


class Session:
    """A session that moves an action, and commits or not when it is told to."""

    def __init__(self, catalogue: Database, key: str, source: ActionState, to: ActionState, pool: ThreadPoolExecutor):
        self.moved, self._end = Event(), Event()
        self._undo = False
        self.won: Future[bool] = pool.submit(self._run, catalogue, key, source, to)

    def end(self, *, undo: bool = False) -> None:
        self._undo = undo
        self._end.set()

    def _run(self, catalogue: Database, key: str, source: ActionState, to: ActionState) -> bool:
        try:
            with catalogue.write() as session:
                move(session, key, to, among=[source], attempt=0, **columns(to))
                self.moved.set()
                assert self._end.wait(60)
                if self._undo:
                    session.rollback()
            return not self._undo
        except Fenced:
            return False


def wait_for_a_blocked_session(catalogue: Database) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with catalogue.read() as session:
            if session.execute(text(waiting)).scalar_one():
                return
        time.sleep(0.002)
    raise AssertionError("the second session never waited for the first")


@pytest.mark.parametrize("undo", [False, True], ids=["committed", "undone"])
@pytest.mark.parametrize(("source", "first", "second"), _PAIRS)
def test_exactly_one_of_two_sessions_moves_an_action(
    catalogue: Database, source: ActionState, first: ActionState, second: ActionState, undo: bool
) -> None:
    """The second one has to wait for the first one's end, and then sees what that left."""
    build_request = new_request(model=f"{source} {first} {second} {undo}")
    submit_request(catalogue, build_request)
    key = build_request.build.key
    with catalogue.write() as session:
        session.execute(
            update(ActionRow).where(ActionRow.key == key).values(state=str(source), **columns(source))
        )  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        early = Session(catalogue, key, source, first, pool)
        assert early.moved.wait(60) or early.won.result(0)
        late = Session(catalogue, key, source, second, pool)
        late.end()
        wait_for_a_blocked_session(catalogue)
        early.end(undo=undo)
        assert (early.won.result(60), late.won.result(60)) == (not undo, undo)
    with catalogue.read() as session:
        assert session.get_one(ActionRow, key).state == (second if undo else first)


def test_a_submit_that_waited_for_a_publication_is_answered_with_its_engine(catalogue: Database) -> None:
    build_request = new_request(model="published while a submit waits")
    submit_request(catalogue, build_request)
    run_convert(catalogue, build_request)
    claim = claim_now(catalogue, build_request.build.key)
    with ThreadPoolExecutor(1) as pool:
        with catalogue.write() as session:
            publish_engine(session, claim, one_file_manifest("engine"), engine=ENGINE, steps={})
            late = pool.submit(submit_request, catalogue, build_request)
            wait_for_a_blocked_session(catalogue)
        assert (late.result(60).disposition, late.result().announcements) == (Disposition.CACHED, [])
    with catalogue.read() as session:
        assert session.get_one(ActionRow, build_request.build.key).state == ActionState.SUCCEEDED
