"""`python -m benchmarks.collection`: garbage collection of a full catalogue, with its memory and its slowest statement.

It fills two catalogues with copies of one engine, and runs a dry run and a marking run with a policy that keeps nothing
on each. Read the growth: the time of a batch and the memory must not grow with the engines, their number does.
"""

from __future__ import annotations

import argparse
import shutil
import time
import tracemalloc
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import event

from api.upkeep.garbage_collection import clean_up
from enginefarm.wire.retention import CleanUpRequest, Policy
from models.catalogue.database import Database
from models.opening import open_store
from tests.api.published import settings_in
from tests.models.requests import add_worker, new_request
from tests.models.stage_runs import build_engine
from tests.scale.fill import Size, Template, fill
from tests.servers.postgres import Postgres
from tests.servers.server import new_data_dir


@dataclass(frozen=True)
class Run:
    """What one run of garbage collection took."""

    seconds: float
    peak_mib: float  # of Python's objects, beyond those from before
    statements: int
    slowest_ms: float
    most_parameters: int
    candidates: int

    def __str__(self) -> str:
        return (
            f"{self.candidates:>9,} candidates, {self.seconds:7.1f} s, {self.statements:>7,} statements, slowest "
            f"{self.slowest_ms:6.1f} ms, at most {self.most_parameters:,} parameters, peak {self.peak_mib:5.1f} MiB"
        )


def filled(postgres: Postgres, engines: int) -> Database:
    url = postgres.databases.create_migrated()
    database = Database(url)
    worker = add_worker(database)
    request = new_request()
    build_id = build_engine(database, request)
    template = Template(request.convert.key, request.build.key, build_id, worker)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        fill(connection, template, Size(engines=engines, builds=1, queued=10))
    return database


def measured(database: Database, folder: Path, *, dry_run: bool) -> Run:
    settings = settings_in(folder, GC_CHECKPOINT_DAYS="0")
    store = open_store(settings, link_secret=b"s" * 32)
    store.prepare()
    control: Any = SimpleNamespace(database=database, settings=settings, store=store)
    times: list[float] = []
    parameters: list[int] = []

    def begin(_connection: Any, _cursor: Any, _text: str, sent: Any, context: Any, _many: bool) -> None:
        context.began = time.perf_counter()
        parameters.append(len(sent[0]) if isinstance(sent, list) else len(sent))

    def end(_connection: Any, _cursor: Any, _text: str, _sent: Any, context: Any, _many: bool) -> None:
        times.append(time.perf_counter() - context.began)

    event.listen(database.engine, "before_cursor_execute", begin)
    event.listen(database.engine, "after_cursor_execute", end)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    start = time.perf_counter()
    result = clean_up(control, CleanUpRequest(policies=(Policy(keep_last=0),), dry_run=dry_run), by=None)
    seconds = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    event.remove(database.engine, "before_cursor_execute", begin)
    event.remove(database.engine, "after_cursor_execute", end)
    return Run(seconds, (peak - before) / (1 << 20), len(times), max(times) * 1000, max(parameters), result.total)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collection", description=__doc__)
    parser.add_argument("--engines", type=int, default=100_000, help="of the large catalogue (default: %(default)s)")
    options = parser.parse_args()
    with ExitStack() as stack:
        data = new_data_dir("postgres")
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        folder = new_data_dir("collection")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = stack.enter_context(Postgres(data))
        for engines in (1000, options.engines):
            database = filled(postgres, engines)
            for name, dry_run in (("dry run", True), ("marks", False)):
                print(f"{engines:>9,} engines, {name:8}: {measured(database, folder, dry_run=dry_run)}", flush=True)
            database.close()


if __name__ == "__main__":
    main()
