"""The time that the farm adds to a build: from submit to the toolchain's start, and from its end to "succeeded".

The toolchain's program writes the time into its log when it begins and when it ends. The same program also runs alone,
because an interpreter takes its time to start and to end: the last lines are without that time. The baseline is the
round trip of a Celery task that does nothing: the least that any farm on this broker pays.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import median, quantiles

from benchmarks.bare_celery import TASK, application
from benchmarks.ground import Ground
from benchmarks.table import Line, Table
from tests.farm.running_farm import CHECKOUT

_BUILDS = 20  # with 20, the 95th percentile is the second slowest
_FIRST = "first build after the start"
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
    # The first one of a farm that has just started is apart: it finds no connection open, and nothing loaded.
    first = _build(ground, _BUILDS)
    builds = []
    alone = []
    for number in range(_BUILDS):
        builds.append(_build(ground, number))
        alone.append(_program_alone(ground))
    starts, between, ends = map(list, zip(*builds, strict=True))
    program = median(alone)
    sums = [start + end for start, _, end in builds]
    all_added = [sum(build) - 2 * program for build in builds]  # two stages, and so two programs
    lines = [
        *_lines("submit → convert begins", starts, trips),
        *_lines("convert ends → build begins", between, trips),
        *_lines("build ends → the waiting caller reads succeeded", ends, trips),
        *_lines("first and last together", sums, trips, aim="≤ 500 ms"),
        *_lines("the same without the program's own start and end", [s - program for s in sums], trips, aim="≤ 100 ms"),
        *_lines("all three without both programs' own start and end", all_added, trips),
        Line(f"{_FIRST}, submit → convert begins", "ms", first[0] * 1000, median(trips) * 1000),
        Line(f"{_FIRST}, convert ends → build begins", "ms", first[1] * 1000, median(trips) * 1000),
        Line(f"{_FIRST}, build ends → the waiting caller reads succeeded", "ms", first[2] * 1000, median(trips) * 1000),
    ]
    return Table(
        f"Time added by the farm, {_BUILDS} builds one after the other", "bare Celery round trip", tuple(lines)
    )


def _build(ground: Ground, number: int) -> tuple[float, float, float]:
    """Seconds before convert, between convert and build, and after build."""
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
    at = {event: float(seconds) for event, seconds in events}
    return at["convert begins"] - submitted, at["build begins"] - at["convert ends"], read - at["build ends"]


def _program_alone(ground: Ground) -> float:
    """Seconds that the toolchain's program takes to begin and, after its end, to be gone."""
    program = CHECKOUT / "tests/doubles/quick/quick_program.py"
    source = ground.model.removeprefix("file:")
    with tempfile.TemporaryDirectory() as output:
        argv = [sys.executable, "-I", "-S", str(program), "build", source, output, "0.01", "", "0"]
        started = time.time()
        log = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
        gone = time.time()
    begins, ends = re.findall(r"^build (?:begins|ends) at ([\d.]+)", log, re.MULTILINE)
    return float(begins) - started + gone - float(ends)


def _lines(span: str, farm: Sequence[float], bare: Sequence[float], aim: str = "") -> list[Line]:
    return [
        Line(f"{span}, median", "ms", median(farm) * 1000, median(bare) * 1000, aim=aim),
        Line(f"{span}, 95 %", "ms", _p95(farm) * 1000, _p95(bare) * 1000),
    ]


def _p95(values: Sequence[float]) -> float:
    # Inclusive: by default, the 95th percentile of 20 values is all but the slowest of them.
    return quantiles(values, n=20, method="inclusive")[18]
