"""What long polls, events and followed logs cost an API process at rest, and cached submits beside them.

Each watcher watches a running build of its own, which is the worst case: watchers of one build share what they read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.ground import Ground
from benchmarks.http_load import cpu_seconds
from benchmarks.table import Line, Table
from models.lifecycle.submission import cancel
from tests.farm.running_farm import CHECKOUT
from tests.models.requests import add_worker, claim_now, new_request, submit_request

_WATCHERS = (0, 300, 1000)
_ROUNDS = 2  # of each number, alternating; the best round counts
_SETTLE_SECONDS = 3.0
_MOST_SETTLE_SECONDS = 60.0
_AT_REST = 0.15  # cores
_REST_SECONDS = 8.0
_SUBMIT_SECONDS = 8.0
_LEASE_SECONDS = 3600.0
_KINDS = ("?wait=60", "/events", "/logs?follow=1")


def run(ground: Ground) -> Table:
    spec = ground.farm.spec(ground.model, salt="watched")
    assert ground.client.wait(ground.client.submit(spec).id, timeout=120).state == "succeeded"
    # An API of its own: the limits for one key and one address are those of production elsewhere.
    settings = {"WATCHERS_PER_KEY": "5000", "MAX_CONNECTIONS_PER_PEER": "5000", "MAX_CONNECTIONS": "5000"}
    port, api = ground.add_api(settings)
    worker = add_worker(ground.farm.database, "watched")
    build_ids = []
    for number in range(max(_WATCHERS)):
        request = new_request(f"watched-{number}", queue="build.watched")
        build_ids.append(submit_request(ground.farm.database, request).id)
        claim_now(ground.farm.database, request.convert.key, worker, lease=_LEASE_SECONDS)
    medians: dict[int, float] = {}
    shares: dict[int, float] = {}
    for _ in range(_ROUNDS):
        for number in _WATCHERS:
            paths = [f"/v1/builds/{build_id}{_KINDS[n % 3]}" for n, build_id in enumerate(build_ids[:number])]
            share, milliseconds = _measure(ground, port, api.pid, paths, json.dumps(spec))
            medians[number] = min(medians.get(number, milliseconds), milliseconds)
            shares[number] = min(shares.get(number, share), share)
    for build_id in build_ids:
        with ground.farm.database.write() as session:
            cancel(session, build_id)
    lines = []
    for number in _WATCHERS[1:]:
        name = f"{number:,} watchers"
        lines.append(Line(f"{name}: cached submit, median", "ms", medians[number], medians[0], aim="ratio ≤ 1.3"))
        lines.append(
            Line(f"{name}: CPU of API and PostgreSQL at rest", "cores", shares[number], shares[0], aim="< 0.25")
        )
    return Table("Watchers, each of another build, beside 40 cached submits a second", "no watcher", tuple(lines))


def _measure(ground: Ground, port: int, api: int, paths: list[str], body: str) -> tuple[float, float]:
    """The cores that watchers take at rest, and the median of a cached submit in milliseconds."""
    argv = [sys.executable, "-m", "benchmarks.watched_load", str(port), str(_SUBMIT_SECONDS)]
    pipe = subprocess.PIPE
    requests = {"headers": {"Authorization": f"Bearer {ground.key}"}, "bodies": [body], "paths": paths}
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=CHECKOUT) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        print(json.dumps(requests), file=load.stdin, flush=True)
        if load.stdout.readline() != "open\n":
            raise RuntimeError("the watchers ended")
        pids = (api, ground.postgres.pid)
        # Each watcher reads its build when it comes, which takes long on a busy machine. They are at rest afterwards.
        deadline = time.monotonic() + _MOST_SETTLE_SECONDS
        while _cores(pids, _SETTLE_SECONDS) > _AT_REST and time.monotonic() < deadline:
            pass
        share = _cores(pids, _REST_SECONDS)
        print(file=load.stdin, flush=True)
        figures = json.loads(load.stdout.readline())
    return share, figures["median_ms"]


def _cores(pids: Sequence[int], seconds: float) -> float:
    """The cores that these processes use in the next seconds."""
    used_before = sum(map(cpu_seconds, pids))
    begin = time.monotonic()
    time.sleep(seconds)
    return (sum(map(cpu_seconds, pids)) - used_before) / (time.monotonic() - begin)
