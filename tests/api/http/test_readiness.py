"""A part of the farm that keeps its ping waiting is reported, takes one thread, and holds up no other part's state."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest

from api.lanes import Lane
from api.readiness import ReadinessProbe
from enginefarm.wire.bodies import Readiness


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets the pings go on that wait for it."""
    event = threading.Event()
    yield event
    event.set()


def test_a_part_that_does_not_answer_is_not_ready_and_the_others_are(release: threading.Event) -> None:
    pings = 0

    def hang() -> None:
        nonlocal pings
        pings += 1
        release.wait(30)

    async def ask() -> list[Readiness]:
        ticks = count(step=10)  # seconds: each question is new
        parts = {"database": hang, "store": lambda: None}
        with closing(Lane("readiness", threads=2, per_caller=2, waiting=0)) as lane:
            probe = ReadinessProbe(parts, lane, lambda: next(ticks), answer_seconds=0.5)
            answers = [await probe.ask(), await probe.ask()]
            assert pings == 1
            release.set()
            return [*answers, await probe.ask()]

    *before, after = asyncio.run(ask())
    for answer in before:
        assert not answer.ok
        assert answer.parts["database"].detail == "it has not answered for 0.5 s"
        assert answer.parts["store"].ok
    assert after.ok
