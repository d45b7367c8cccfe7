"""What each process of the farm holds when it has nothing to do, beside a bare one of its kind.

The sweep runs in the API. Memory shared with other processes (libraries, PostgreSQL's buffers) counts in RSS and
not in USS.
"""

from __future__ import annotations

import psutil

from benchmarks.ground import Ground
from benchmarks.table import Line, Table

_MIB = 1 << 20


def run(ground: Ground) -> Table:
    api, worker = (process.pid for process in ground.farm.processes)
    bare_route = ground.bare_route[1].pid
    lines = [
        *_lines("API, with the sweep in it", api, bare_route),
        *_lines("worker, idle (its baseline: a bare Celery worker)", worker, ground.bare_celery.pid),
        *_lines("broker (Valkey)", ground.valkey.pid),
        *_lines("PostgreSQL, all its processes", ground.postgres.pid),
    ]
    return Table("Memory", "bare route", tuple(lines))


def _lines(what: str, farm: int, bare: int | None = None) -> list[Line]:
    ours, theirs = _memory(farm), _memory(bare) if bare is not None else None
    return [Line(f"{what}, {kind}", "MiB", ours[kind], theirs[kind] if theirs is not None else None) for kind in ours]


def _memory(pid: int) -> dict[str, float]:
    """MiB of a process and all that it started."""
    process = psutil.Process(pid)
    held = [each.memory_full_info() for each in (process, *process.children(recursive=True))]
    return {"RSS": sum(each.rss for each in held) / _MIB, "USS": sum(each.uss for each in held) / _MIB}
