"""The time that the farm adds to a build: from submit to the toolchain's start, and from its end to "succeeded".

The toolchain writes the time into its log when it begins and when it ends. The baseline is the round trip of a Celery
task that does nothing: the least that any farm on this broker pays.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from statistics import median, quantiles

from benchmarks.bare_celery import TASK, application
from benchmarks.ground import Ground
from benchmarks.table import Line, Table

_BUILDS = 20  # with 20, the 95th percentile is the second slowest
_ROUND_TRIPS = 200  # so that the slowest 5 % are ten trips


def run(ground: Ground) -> Table:
    _ = ground.bare_celery  # starts it
    app = application(ground.bare_broker)
    trips = []
    for _ in range(_ROUND_TRIPS):
        started = time.perf_counter()
        app.send_task(TASK).get(timeout=60)
        trips.append(time.perf_counter() - started)
    # One after the other: a build that waits for the only worker would measure the queue.
    builds = [_build(ground, number) for number in range(_BUILDS)]
    starts, between, ends, sums = map(list, zip(*builds, strict=True))
    lines = [
        *_lines("submit → convert begins", starts, trips),
        *_lines("convert ends → build begins", between, trips),
        *_lines("build ends → the waiting caller reads succeeded", ends, trips),
        *_lines("first and last together", sums, trips, aim="≤ 500 ms"),
    ]
    return Table(
        f"Time added by the farm, {_BUILDS} builds one after the other", "bare Celery round trip", tuple(lines)
    )


def _build(ground: Ground, number: int) -> tuple[float, float, float, float]:
    """Seconds before convert, between convert and build, after build, and the first and last together."""
    # The options differ in each build, and so do its keys: no build finds another's checkpoint or engine.
    spec = ground.farm.spec(ground.model, convert_seconds=0.2 + number / 1e6, seconds=0.2)
    # Wall-clock times, because the toolchain's are of another process.
    submitted = time.time()
    build = ground.client.submit(spec)
    ended = ground.client.wait(build.id, timeout=120)
    read = time.time()
    assert ended.state == "succeeded", ended.error
    log = "\n".join(ground.client.logs(build.id))
    events = re.findall(r"^(\w+ (?:begins|ends)) at ([\d.]+)", log, re.MULTILINE)
    at: dict[str, float] = {}
    for event, seconds in events:
        at[event] = float(seconds)
    before = at["convert begins"] - submitted
    after = read - at["build ends"]
    return before, at["build begins"] - at["convert ends"], after, before + after


def _lines(span: str, farm: Sequence[float], bare: Sequence[float], aim: str = "") -> list[Line]:
    return [
        Line(f"{span}, median", "ms", median(farm) * 1000, median(bare) * 1000, aim=aim),
        Line(f"{span}, 95 %", "ms", _p95(farm) * 1000, _p95(bare) * 1000),
    ]


def _p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20)[18]
