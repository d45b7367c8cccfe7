"""How long a client keeps trying, and how long it pauses."""

from __future__ import annotations

import pytest

from enginefarm.client.retry import note_progress, retrying
from enginefarm.contract.errors import EnginefarmError, FarmError, NotFound


class Clock:
    """Monotonic time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("enginefarm.client.retry.time.monotonic", lambda: clock.now)
    return clock


def fail_with(error: EnginefarmError, clock: Clock, *, patience: float, works_for: float = 0) -> None:
    """`works_for` is how many seconds the first attempt takes before it fails."""
    for attempt in retrying(patience, sleep=clock.sleep):
        with attempt:
            clock.now += works_for
            works_for = 0
            raise error


def test_pauses_grow_are_jittered_and_end_with_the_patience(clock: Clock) -> None:
    with pytest.raises(FarmError, match="away"):
        fail_with(FarmError("away"), clock, patience=30)

    assert clock.now == pytest.approx(1030)
    longest = [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    for pause, bound in zip(clock.pauses, longest, strict=False):
        assert bound / 2 <= pause <= bound


def test_patience_counts_from_the_first_failure_not_from_the_start(clock: Clock) -> None:
    with pytest.raises(FarmError):
        fail_with(FarmError("away"), clock, patience=10, works_for=3600)  # a log that was followed for an hour
    assert len(clock.pauses) > 3


def test_progress_starts_the_patience_anew(clock: Clock) -> None:
    tries = 0
    for attempt in retrying(1, sleep=clock.sleep):
        with attempt:
            tries += 1
            note_progress(attempt)
            if tries < 50:
                raise FarmError("away")
    assert tries == 50
    assert max(clock.pauses) <= 0.2


def test_no_patience_is_one_try(clock: Clock) -> None:
    with pytest.raises(FarmError):
        fail_with(FarmError("away"), clock, patience=0)
    assert clock.pauses == []


def test_other_errors_are_not_tried_again(clock: Clock) -> None:
    with pytest.raises(NotFound):
        fail_with(NotFound("no"), clock, patience=10)
    assert clock.pauses == []
