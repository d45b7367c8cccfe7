"""Run `benchmarks.load` against servers, and say what it measured and what CPU time the servers took."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from tests.farm.running_farm import CHECKOUT


@dataclass(frozen=True)
class Load:
    """Requests to POST /v1/builds on these ports; an answer must have the text `expect`."""

    ports: Sequence[int]
    bodies: Sequence[str]
    headers: Mapping[str, str]
    expect: str
    once: bool = False  # each body is sent once


@dataclass(frozen=True)
class Figures:
    per_second: float
    median_ms: float
    p95_ms: float
    p99_ms: float
    cpu_us: float  # of the servers, for each answer
    database_cpu_us: float


def run_load(load: Load, *, seconds: float, connections: int, servers: Sequence[int], database: int) -> Figures:
    """`servers` and `database` are process ids; their children count, too."""
    # A process of its own: its clock must not wait for the threads of this one.
    ports = ",".join(map(str, load.ports))
    argv = [sys.executable, "-m", "benchmarks.load", ports, "/v1/builds", str(seconds), str(connections)]
    requests = {"headers": load.headers, "bodies": load.bodies, "expect": load.expect, "once": load.once}
    before = sum(map(cpu_seconds, servers))
    database_before = cpu_seconds(database)
    process = subprocess.run(
        argv, input=json.dumps(requests), capture_output=True, text=True, check=False, cwd=CHECKOUT
    )
    if process.returncode != 0:
        raise RuntimeError(f"the load ended with status {process.returncode}:\n{process.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(process.stdout)
    microseconds = 1e6 / measured.pop("answers")
    return Figures(
        **measured,
        cpu_us=(sum(map(cpu_seconds, servers)) - before) * microseconds,
        database_cpu_us=(cpu_seconds(database) - database_before) * microseconds,
    )


def cpu_seconds(pid: int) -> float:
    """Of a process and of all that it started, ended ones too: PostgreSQL has a process for each connection."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    seconds = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        times = child.cpu_times()
        seconds += times.user + times.system
    return seconds
