"""One soak run: a farm, callers at a constant rate, and readings of every process until the time is over."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from models.settings import Settings
from tests.farm.running_farm import RunningFarm, s3_settings
from tests.servers.postgres import Postgres
from tests.servers.redis import Valkey
from tests.servers.s3 import Swift
from tests.servers.server import Server, new_data_dir
from tests.soak.growth import REPEATED, Growth, Growths
from tests.soak.load import Count, Load
from tests.soak.readings import Readings, TableSize, of_broker, of_database, of_folder, of_process, table_sizes

# The defaults of production; the farm of the other tests has shorter ones.
_TIMING_SETTINGS = ("lease_seconds", "sweep_seconds", "worker_seconds", "kill_seconds")
# Garbage collection removes bytes that are some minutes old: an hour sees the whole way of an engine.
_COLLECTION = {"GC_GRACE_SECONDS": "60", "GC_CHECKPOINT_DAYS": "0", "LINK_SECONDS": "60"}

_REMEMBERED_BODIES = 1100  # a little more than api.planning.cached_submits keeps

S = TypeVar("S", bound=Server)


@dataclass(frozen=True)
class Plan:
    """
    Args:
        seconds: from the first submit to the last.
        every_seconds: between two readings.
        per_minute: steps of the callers.
        new_builds: that measure the growth of the database first; cached and joined ones follow.
    """

    seconds: float
    every_seconds: float
    per_minute: float
    new_builds: int


@dataclass(frozen=True)
class Result:
    readings: Readings
    growths: Sequence[Growth]
    tables: Sequence[Mapping[str, TableSize]]  # one for each reading
    count: Count
    ended: Sequence[str]  # processes that ended by themselves


def run(plan: Plan, state: Path, *, tell: Callable[[str], object]) -> Result:
    """Run `plan` in the folder `state`, which must be empty."""
    with ExitStack() as stack:
        valkey = _serve(stack, Valkey)
        base = _start_farm(stack, state, valkey)
        models = [base.add_model(f"m{number}") for number in range(2)]
        tell("measuring the growth of the database")
        growths = Growths(base, models[0]).measure(plan.new_builds)
        tell("filling the caches of the APIs")
        _fill_caches(base, base.spec(models[0], **REPEATED))
        tell("building")
        load = Load(base.urls, models, state / "pulls", per_minute=plan.per_minute)
        readings = Readings()
        tables = []
        load.start()
        try:
            while time.monotonic() - readings.begin < plan.seconds and not _ended(base):
                _read(base, valkey, readings)
                tables.append(table_sizes(base.database.engine))
                tell(_line(readings, load.count))
                # At fixed times: a reading takes time, too.
                spent = time.monotonic() - readings.begin
                time.sleep(plan.every_seconds - spent % plan.every_seconds)
        finally:
            count = load.stop()
        return Result(readings, growths, tables, count, _ended(base))


def _start_farm(stack: ExitStack, state: Path, valkey: Valkey) -> RunningFarm:
    postgres = _serve(stack, Postgres)
    addresses = {
        "DATABASE_URL": postgres.create_database(), "BROKER_URL": valkey.url, **s3_settings(_serve(stack, Swift)),
    }  # fmt: skip
    timing = {name.upper(): str(Settings.model_fields[name].default) for name in _TIMING_SETTINGS}
    base = RunningFarm(state, {**timing, **_COLLECTION, **addresses})
    stack.callback(base.close)
    # A folder of temporary files for each process, so that a file that is left behind is seen.
    for number in range(2):
        base.environment["TMPDIR"] = _new_folder(state / "tmp" / f"api-{number}")
        base.add_api()
    for number in range(2):
        base.environment["TMPDIR"] = _new_folder(state / "tmp" / f"worker-{number}")
        base.add_worker(f"worker-{number}")
    return base


def _fill_caches(base: RunningFarm, spec: Mapping[str, Any]) -> None:
    """Submit a cached spec in more texts than an API remembers: memory would grow until it has met as many specs."""
    text = json.dumps(spec)
    headers = {"Content-Type": "application/json"}
    with httpx.Client(timeout=60) as client:
        for url in base.urls:
            for number in range(_REMEMBERED_BODIES):
                client.post(f"{url}/v1/builds", content=text + number * " ", headers=headers).raise_for_status()


def _read(base: RunningFarm, valkey: Valkey, readings: Readings) -> None:
    for process in base.processes:
        readings.add(process.name, of_process(process.pid))
        temporary = of_folder(base.state / "tmp" / process.name)
        readings.add(process.name, {f"temporary {name}": value for name, value in temporary.items()})
    for name in base.workers:
        scratch = of_folder(base.state / "scratch" / name)
        readings.add(name, {f"scratch {what}": value for what, value in scratch.items()})
    # Its children are the servers and the farm.
    callers = of_process(os.getpid())
    del callers["child processes"]
    readings.add("callers", callers)
    readings.add("PostgreSQL", of_database(base.database.engine))
    with valkey.client() as client:
        readings.add("Valkey", of_broker(client))


def _ended(base: RunningFarm) -> list[str]:
    return [f"{process.name} ended with status {process.status}" for process in base.processes if process.ended()]


def _line(readings: Readings, count: Count) -> str:
    memory = []
    for quantity, values in readings.by_quantity.items():
        if quantity.name.startswith("RSS"):
            memory.append(f"{quantity.owner} {values[-1].value:.0f}")
    seconds = time.monotonic() - readings.begin
    return (
        f"{seconds:6.0f} s, {count.steps.total()} steps, {count.left_out} left out, {len(count.problems)} problems; "
        f"RSS, MiB: {', '.join(memory)}"
    )


def _serve(stack: ExitStack, kind: type[S]) -> S:
    data = new_data_dir(f"soak-{kind.__name__.lower()}", xattrs=kind is Swift)
    stack.callback(shutil.rmtree, data, ignore_errors=True)
    server = kind(data)
    stack.enter_context(server)
    return server


def _new_folder(folder: Path) -> str:
    folder.mkdir(parents=True)
    return str(folder)
