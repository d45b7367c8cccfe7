"""Submits per second that one API process answers from the catalogue, compared with a bare route that could."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.ground import Ground
from benchmarks.table import Line, Table
from tests.farm.running_farm import CHECKOUT

CONNECTIONS = 32
_SECONDS = 6.0
_ENGINES = 8  # requested in turn
_ROUNDS = 3  # of each server, alternating: a busy machine slows both alike, and the best round of each counts


def run(ground: Ground) -> Table:
    # The salt is an option of the tests' toolchain that makes each engine another one.
    specs = [ground.farm.spec(ground.model, salt=f"cached {number}") for number in range(_ENGINES)]
    # The engines exist before the load begins: each of its submits is answered from the catalogue.
    for spec in specs:
        ended = ground.client.wait(ground.client.submit(spec).id, timeout=120)
        assert ended.state == "succeeded", ended.error
    bodies = list(map(json.dumps, specs))
    port, _ = ground.bare_route
    farm_port = int(ground.farm.urls[0].rpartition(":")[2])
    farm, bare = [], []
    for _ in range(_ROUNDS):
        farm.append(_load(farm_port, bodies, {"Authorization": f"Bearer {ground.key}"}, '"disposition":"cached"'))
        bare.append(_load(port, bodies, {}, '"found":false'))
    best = max(farm, key=_per_second)
    barest = max(bare, key=_per_second)
    return Table(
        f"Cached submits, one API process, {CONNECTIONS} keep-alive connections",
        "bare route",
        (
            # The farm also checks a key and commits a row, so half of the bare route's rate is a good result.
            Line("submits", "1/s", best["per_second"], barest["per_second"], aim="ratio ≥ 0.5"),
            Line("answered after, median", "ms", best["median_ms"], barest["median_ms"]),
            Line("answered after, 95 %", "ms", best["p95_ms"], barest["p95_ms"]),
        ),
    )


def _load(port: int, bodies: list[str], headers: dict[str, str], expect: str) -> dict[str, float]:
    # A process of its own: its clock must not wait for the threads of this one.
    argv = [sys.executable, "-m", "benchmarks.load", str(port), "/v1/builds", str(_SECONDS), str(CONNECTIONS)]
    requests = json.dumps({"headers": headers, "bodies": bodies, "expect": expect})
    process = subprocess.run(argv, input=requests, capture_output=True, text=True, check=False, cwd=CHECKOUT)
    if process.returncode != 0:
        raise RuntimeError(f"the load ended with status {process.returncode}:\n{process.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(process.stdout)
    return figures


def _per_second(figures: dict[str, float]) -> float:
    return figures["per_second"]
