"""Eight thousand schedules; `make simulate SEEDS=…` runs more. `python -m tests.simulation --seed N` replays one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from enginefarm.contract.digest import Digest
from enginefarm.wire.retention import CleanUpRequest
from models.catalogue.ranges import KeyRange
from models.catalogue.rows import BlobRow
from models.lifecycle import publication, transitions
from models.retention import blob_gc as garbage
from models.store import Store
from tests.simulation.invariants import Broken
from tests.simulation.simulation import Simulation
from tests.simulation.tree import TREE, by_tree
from tests.simulation.upkeep import in_steps
from tests.simulation.worker import LEASE_SECONDS

_PARTS, _TREES = 2, 50


@pytest.mark.parametrize("part", range(_PARTS))
def test_no_schedule_breaks_a_promise(tmp_path: Path, part: int) -> None:
    simulation = Simulation(tmp_path)
    for seeds in by_tree(range(part * _TREES * TREE, (part + 1) * _TREES * TREE)):
        assert simulation.run(seeds) > len(seeds)


@pytest.mark.parametrize("tree", [6, 7])
def test_a_seed_replays(tmp_path: Path, tree: int) -> None:
    """A schedule makes the same moves alone as inside its tree, after others and between leaves."""
    simulation, stem = Simulation(tmp_path), tree * TREE
    in_tree = _lines_by_part(simulation, range(stem, stem + TREE))
    for seed in (stem, stem + 7, stem + TREE - 1):
        alone = _lines_by_part(simulation, range(seed, seed + 1))
        assert alone == {part: lines for part, lines in in_tree.items() if part in alone}
        assert f"leaf {seed}" in alone or seed == stem


def _lines_by_part(simulation: Simulation, seeds: range) -> dict[str, list[str]]:
    """The printed lines of each named part of the schedules."""
    printed: list[str] = []
    simulation.run(seeds, tell=printed.append)
    lines_by_part: dict[str, list[str]] = {}
    part = ""
    for line in printed:
        if line.startswith(("stem", "leaf")):
            part = line
            lines_by_part[part] = []
        elif part:
            lines_by_part[part].append(line)
    return lines_by_part


def test_a_missing_fence_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks prove something only if a farm without the fence fails them."""
    fenced = transitions.move

    def unfenced(session: Any, key: str, to: Any, *, attempt: int | None = None, **values: Any) -> None:
        fenced(session, key, to, **values)

    monkeypatch.setattr(publication, "move", unfenced)
    schedule = Simulation(tmp_path).schedule(0)
    late, other = schedule.workers[:2]
    late.start()
    other.start()
    schedule.submit()
    convert = schedule.world.broker.messages[0]
    late_attempt = late.receive(convert.queue)
    while late_attempt.step() != "uploaded its log":
        pass  # nothing is published
    schedule.world.clock.move(LEASE_SECONDS + 1)
    schedule.sweep()
    schedule.world.clock.move(LEASE_SECONDS)
    assert other.receive(convert.queue).step().endswith("attempt 2")
    late_attempt.step()
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
    attempt = worker.receive(schedule.world.broker.messages[0].queue)
    while attempt.step() != "uploaded its log":
        pass
    cleaning = in_steps(schedule.control, CleanUpRequest())
    chosen: list[Digest] = []
    removable = garbage.removable

    def noted(session: Session, blobs: KeyRange, *, grace_seconds: float) -> Sequence[Digest]:
        chosen.extend(removable(session, blobs, grace_seconds=grace_seconds))
        return chosen

    monkeypatch.setattr(garbage, "removable", noted)
    while not chosen:
        next(cleaning)
    assert attempt.step() == "committed"
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
