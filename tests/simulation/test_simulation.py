"""As many schedules as fit into a few seconds; `make simulate SEEDS=…` runs more. A seed that fails replays by itself:
`python -m tests.simulation --seed N`."""

from __future__ import annotations

import itertools
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from enginefarm.digest import Digest
from enginefarm.retention import CleanUp
from models import garbage, publication
from models.rows import BlobRow
from models.store import Store
from tests.simulation.invariants import Broken
from tests.simulation.simulation import Simulation
from tests.simulation.upkeep import in_steps
from tests.simulation.worker import LEASE_SECONDS

_AT_LEAST = 5
_SECONDS = 10.0
_UNTIL_CONDEMNED = 6  # transactions of a clean-up until it knows what it will delete


def test_no_schedule_breaks_a_promise(tmp_path: Path) -> None:
    simulation, until = Simulation(tmp_path), time.monotonic() + _SECONDS
    for seed in itertools.count():
        if seed >= _AT_LEAST and time.monotonic() > until:
            return
        try:
            simulation.run(seed)
        except Exception as error:
            raise AssertionError(f"python -m tests.simulation --seed {seed}: {error}") from error


def test_a_seed_replays(tmp_path: Path) -> None:
    simulation, told = Simulation(tmp_path), list[list[str]]()
    for _ in range(2):
        told.append([])
        simulation.run(7, tell=told[-1].append)
    assert told[0] == told[1]


def test_a_missing_fence_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The questions are worth asking only if a farm without the guard fails them."""
    fenced = publication.move

    def unfenced(session: Any, key: str, to: Any, *, attempt: int | None = None, **values: Any) -> None:
        fenced(session, key, to, **values)

    monkeypatch.setattr(publication, "move", unfenced)
    schedule = Simulation(tmp_path).schedule(0)
    late, other = schedule.workers[:2]
    late.start()
    other.start()
    schedule.submit()
    convert = schedule.parts.broker.messages[0][0]
    late.hear(convert)
    while late.step() != "uploaded its log":
        pass  # nothing is published
    schedule.parts.clock.move(LEASE_SECONDS + 1)
    schedule.sweep()
    schedule.parts.clock.move(LEASE_SECONDS)
    other.hear(convert)
    assert other.step().endswith("attempt 2")
    late.step()
    with pytest.raises(Broken, match="I3"):
        schedule.invariants.check()


@pytest.mark.parametrize("asks_again", [True, False])
def test_a_collector_that_does_not_ask_again_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks_again: bool
) -> None:
    def unasked(session: Session, store: Store, digest: Digest, *, grace_seconds: float) -> int:
        store.delete(digest)
        session.execute(delete(BlobRow).where(BlobRow.digest == digest))
        return 0

    schedule = Simulation(tmp_path).schedule(0)
    schedule.control.settings.gc_grace_seconds = schedule.control.settings.link_seconds = 0
    worker = schedule.workers[0]
    worker.start()
    schedule.submit()
    worker.hear(schedule.parts.broker.messages[0][0])
    while worker.step() != "uploaded its log":
        pass
    cleaning = in_steps(schedule.control, CleanUp())
    for _ in range(_UNTIL_CONDEMNED):
        next(cleaning)
    assert worker.step() == "committed"
    schedule.invariants.check()
    if asks_again:
        list(cleaning)
        schedule.invariants.check()
    else:
        monkeypatch.setattr(garbage, "remove", unasked)
        with suppress(DBAPIError):  # the database refuses to forget the row, and the bytes are gone
            list(cleaning)
        with pytest.raises(Broken, match="I2, I5: a manifest without its bytes"):
            schedule.invariants.check()
