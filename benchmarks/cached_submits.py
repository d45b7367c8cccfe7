"""How many submits a second one API process answers from the catalogue, beside the barest route that could."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.ground import Ground
from benchmarks.table import Line, Table
from tests.farm.running_farm import CHECKOUT

CONNECTIONS = 32
_SECONDS = 6.0
_ENGINES = 8  # asked for in turn
_ROUNDS = 3  # of each, in turn: a busy machine slows both alike; the best of each counts


def run(ground: Ground) -> Table:
    bodies = _built(ground)
    port, _ = ground.bare_route
    ours = int(ground.farm.urls[0].rpartition(":")[2])
    farm, bare = [], []
    for _ in range(_ROUNDS):
        farm.append(_load(ours, bodies, {"Authorization": f"Bearer {ground.key}"}, '"disposition":"cached"'))
        bare.append(_load(port, bodies, {}, '"found":false'))
    best, barest = (max(rounds, key=lambda figures: figures["per_second"]) for rounds in (farm, bare))
    return Table(
        f"Cached submits, one API process, {CONNECTIONS} keep-alive connections",
        "bare route",
        (
            Line("submits", "1/s", best["per_second"], barest["per_second"], aim="ratio ≥ 0.5"),
            Line("answered after, median", "ms", best["median_ms"], barest["median_ms"]),
            Line("answered after, 95 %", "ms", best["p95_ms"], barest["p95_ms"]),
        ),
    )


def _built(ground: Ground) -> list[str]:
    """Bodies of requests whose engines are there."""
    specs = [ground.farm.spec(ground.model, salt=f"cached {number}") for number in range(_ENGINES)]
    for build in [ground.client.submit(spec) for spec in specs]:
        ended = ground.client.wait(build.id, timeout=120)
        assert ended.state == "succeeded", ended.error
    return [json.dumps(spec) for spec in specs]


def _load(port: int, bodies: list[str], headers: dict[str, str], expect: str) -> dict[str, float]:
    argv = [sys.executable, "-m", "benchmarks.load", str(port), "/v1/builds", str(_SECONDS), str(CONNECTIONS)]
    given = json.dumps({"headers": headers, "bodies": bodies, "expect": expect})
    done = subprocess.run(argv, input=given, capture_output=True, text=True, check=False, cwd=CHECKOUT)
    if done.returncode != 0:
        raise RuntimeError(f"the load ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures
