"""Submits of engines that do not exist, with two API processes: new ones, joined ones, and 1,000 at once for one."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import func, select

from benchmarks.ground import Ground
from benchmarks.http_load import Figures, Load, run_load
from benchmarks.table import Line, Table
from models.catalogue.rows import ActionRow

_CONNECTIONS = 64
_ROUNDS = 3
_SUBMITS = 600  # in each round
_AT_ONCE = 1000  # submits for one engine, each on a connection of its own
_MOST_SECONDS = 120.0


def run(ground: Ground) -> Table:
    # All connections come from one address.
    apis = [ground.add_api({"MAX_CONNECTIONS_PER_PEER": str(_AT_ONCE)}) for _ in range(2)]
    ports = [port for port, _ in apis]
    servers = [process.pid for _, process in apis]
    bare_port, bare_process = ground.bare_route
    key = {"Authorization": f"Bearer {ground.key}"}
    # Its convert runs for as long as the benchmark. The builds wait for it, so that the worker does not disturb.
    model = ground.farm.add_model("new-submits")
    first = json.dumps(ground.farm.spec(model, salt="first", convert_seconds=3600))

    def measure(load: Load, servers: Sequence[int], connections: int = _CONNECTIONS) -> Figures:
        return run_load(
            load, seconds=_MOST_SECONDS, connections=connections, servers=servers, database=ground.postgres.pid
        )

    measure(Load(ports, [first] * 2, key, '"state":', once=True), servers, connections=2)

    rounds = []
    for number in range(_ROUNDS):
        specs = [ground.farm.spec(model, salt=f"{number} {n}", convert_seconds=3600) for n in range(_SUBMITS)]
        bodies = list(map(json.dumps, specs))
        new = Load(ports, bodies, key, '"disposition":"created"', once=True)
        joined = Load(ports, bodies, key, '"disposition":"joined"', once=True)
        bare = Load([bare_port], bodies, {}, '"found":false', once=True)
        figures = [measure(new, servers), measure(joined, servers), measure(bare, [bare_process.pid])]
        rounds.append(figures)
    rounds.sort(key=lambda figures: figures[0].per_second / figures[2].per_second)
    new_figures, joined_figures, bare_figures = rounds[_ROUNDS // 2]

    actions_before = _actions(ground)
    one_engine = json.dumps(ground.farm.spec(model, salt="one", convert_seconds=3600))
    identical = Load(ports, [one_engine] * _AT_ONCE, key, '"state":', once=True)
    together = measure(identical, servers, connections=_AT_ONCE)
    builds = _actions(ground) - actions_before
    if builds != 1:
        raise RuntimeError(f"{_AT_ONCE} submits for one engine made {builds} actions, expected one build")
    return Table(
        f"New and joined submits, two API processes, {_CONNECTIONS} connections",
        "bare route, one process",
        (
            Line("new submits", "1/s", new_figures.per_second, bare_figures.per_second, aim="≥ 300/s"),
            Line("new: CPU of the APIs, a submit", "ms", new_figures.cpu_us / 1e3, bare_figures.cpu_us / 1e3),
            Line("new: CPU of PostgreSQL, a submit", "ms", new_figures.database_cpu_us / 1e3),
            Line("joined submits", "1/s", joined_figures.per_second, bare_figures.per_second, aim="≥ 500/s"),
            Line("joined: CPU of the APIs, a submit", "ms", joined_figures.cpu_us / 1e3, bare_figures.cpu_us / 1e3),
            Line("joined: CPU of PostgreSQL, a submit", "ms", joined_figures.database_cpu_us / 1e3),
            Line(f"{_AT_ONCE:,} at once for one engine: median", "ms", together.median_ms),
            Line(f"{_AT_ONCE:,} at once for one engine: 99 %", "ms", together.p99_ms, aim="< 500"),
        ),
    )


def _actions(ground: Ground) -> int:
    with ground.farm.database.read() as session:
        return session.scalar(select(func.count()).select_from(ActionRow)) or 0
