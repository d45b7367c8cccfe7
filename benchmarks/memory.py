"""Memory of each idle process of the farm, compared with a bare process of its kind.

The sweep runs in the API. Memory that is shared with other processes (libraries, PostgreSQL's buffers) counts in RSS
and not in USS.
"""

from __future__ import annotations

import psutil

from benchmarks.ground import Ground
from benchmarks.table import Line, Table

_MIB = 1 << 20


def run(ground: Ground) -> Table:
    api, worker = ground.farm.processes
    bare_route = ground.bare_route[1]
    lines = [
        *_lines("API, with the sweep in it", api.pid, bare_route.pid),
        *_lines("worker, idle (its baseline: a bare Celery worker)", worker.pid, ground.bare_celery.pid),
        *_lines("broker (Valkey)", ground.valkey.pid),
        *_lines("PostgreSQL, all its processes", ground.postgres.pid),
    ]
    return Table("Memory", "bare route", tuple(lines))


def _lines(name: str, farm_pid: int, bare_pid: int | None = None) -> list[Line]:
    baseline: dict[str, float] = {}
    if bare_pid is not None:
        baseline = _memory(bare_pid)
    lines = []
    for kind, used in _memory(farm_pid).items():
        lines.append(Line(f"{name}, {kind}", "MiB", used, baseline.get(kind)))
    return lines


def _memory(pid: int) -> dict[str, float]:
    """MiB of a process and all that it started."""
    process = psutil.Process(pid)
    # With its children: PostgreSQL has a process for each connection.
    rss = uss = 0
    for member in (process, *process.children(recursive=True)):
        usage = member.memory_full_info()
        rss += usage.rss
        uss += usage.uss
    return {"RSS": rss / _MIB, "USS": uss / _MIB}
