"""Submits per second that one API process answers from the catalogue, compared with a bare route that could."""

from __future__ import annotations

import json

from benchmarks.ground import Ground
from benchmarks.http_load import Load, run_load
from benchmarks.table import Line, Table

CONNECTIONS = 32
_SECONDS = 4.0
_ENGINES = 8  # requested in turn
_ROUNDS = 5  # of each server, alternating: a busy machine slows both alike


def run(ground: Ground) -> Table:
    # The salt is an option of the tests' toolchain that makes each engine another one.
    specs = [ground.farm.spec(ground.model, salt=f"cached {number}") for number in range(_ENGINES)]
    # The engines exist before the load begins: each of its submits is answered from the catalogue.
    for spec in specs:
        ended = ground.client.wait(ground.client.submit(spec).id, timeout=120)
        assert ended.state == "succeeded", ended.error
    bodies = list(map(json.dumps, specs))
    bare_port, bare_process = ground.bare_route
    submits = Load(ground.ports, bodies, {"Authorization": f"Bearer {ground.key}"}, '"disposition":"cached"')
    requests = Load([bare_port], bodies, {}, '"found":false')
    rounds = []
    for _ in range(_ROUNDS):
        figures = []
        for load, server in ((submits, ground.farm.apis[0]), (requests, bare_process)):
            measured = run_load(
                load, seconds=_SECONDS, connections=CONNECTIONS, servers=[server.pid], database=ground.postgres.pid
            )
            figures.append(measured)
        rounds.append(figures)
    # The round with the median ratio: a line's figures are of the same seconds.
    rounds.sort(key=lambda figures: figures[0].per_second / figures[1].per_second)
    farm, bare = rounds[_ROUNDS // 2]
    return Table(
        f"Cached submits, one API process, {CONNECTIONS} keep-alive connections",
        "bare route",
        (
            # The farm also checks a key, looks at the model's folder and commits a row.
            Line("submits", "1/s", farm.per_second, bare.per_second, aim="ratio ≥ 1.2"),
            Line("answered after, median", "ms", farm.median_ms, bare.median_ms),
            Line("answered after, 95 %", "ms", farm.p95_ms, bare.p95_ms),
            Line("CPU of the API, a submit", "µs", farm.cpu_us, bare.cpu_us),
            Line("CPU of PostgreSQL, a submit", "µs", farm.database_cpu_us, bare.database_cpu_us),
        ),
    )
