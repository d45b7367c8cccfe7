"""As many schedules as fit into a few seconds; `make simulate SEEDS=…` runs more. A seed that fails replays by itself:
`python -m tests.simulation --seed N`."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from models import publication
from tests.simulation.invariants import Broken
from tests.simulation.schedule import Simulation
from tests.simulation.worker import LEASE_SECONDS

_AT_LEAST = 5
_SECONDS = 10.0


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
    for _ in range(5):
        late.step()  # all is uploaded, nothing published
    schedule.parts.clock.move(LEASE_SECONDS + 1)
    schedule.sweep()
    schedule.parts.clock.move(LEASE_SECONDS)
    other.hear(convert)
    assert other.step().endswith("attempt 2")
    late.step()
    with pytest.raises(Broken, match="I3"):
        schedule.invariants.check()
