"""`python -m benchmarks.scale`: how the times of reads grow with the catalogue.

It fills two catalogues with copies of a build of a real farm, one with a thousand engines, and measures each call on
both in turn. Read the ratios. The plans of every statement on the large one are written to STATE/scale.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psutil
from psycopg import sql
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from benchmarks.table import Line, Table
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, AttemptRow
from tests.farm.running_farm import RunningFarm
from tests.scale.calls import Call, calls
from tests.scale.fill import Size, Template, fill
from tests.scale.plans import plan_of, scans_of_large_tables, statements_of
from tests.servers.postgres import Postgres
from tests.servers.redis import Valkey
from tests.servers.server import new_data_dir

_SMALL = Size(engines=1000, builds=1000, queued=100)
_AIM = "≤ 1.5"


def write_template(postgres: Postgres, stack: ExitStack) -> tuple[str, Template]:
    """The URL of a catalogue in which a farm recorded one build, and that build. The farm has stopped."""
    folders = {name: new_data_dir(name) for name in ("valkey", "farm")}
    for folder in folders.values():
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    url = postgres.create_database()
    with Valkey(folders["valkey"]) as valkey:
        store = folders["farm"] / "store"
        farm = RunningFarm(
            folders["farm"], {"DATABASE_URL": url, "BROKER_URL": valkey.url, "STORE_URL": f"file://{store}"}
        )
        try:
            farm.add_api()
            farm.add_worker("template")
            build = farm.ended(farm.submit(farm.spec(farm.add_model()))["id"])
            with farm.database.read() as session:
                action = session.get_one(ActionRow, build["key"])
                worker = session.get_one(AttemptRow, (action.key, action.attempt)).worker_id
            assert action.depends_on is not None, "an engine is built from a checkpoint"
            return url, Template(action.depends_on, action.key, build["id"], worker)
        finally:
            farm.close()


def filled(url: str, template: Template, size: Size) -> Database:
    database = Database(url)
    start = time.monotonic()
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        fill(connection, template, size)
    print(f"filled in {time.monotonic() - start:.0f} s: {size}", flush=True)
    return database


def seconds_of(database: Database, call: Call) -> float:
    start = time.perf_counter()
    with Session(database.engine) as session:
        call.run(session)
        # What a call would change must not make the next one's work different.
        session.rollback()
    return time.perf_counter() - start


def write_plans(database: Database, call: Call, folder: Path) -> int:
    """Write the plans of the call's statements into a file; returns how many statements it sent."""
    with Session(database.engine) as session:
        with statements_of(session) as statements:
            call.run(session)
        session.rollback()
        lines = [f"{call.name}: {len(statements)} statements"]
        for statement in statements:
            # In one transaction: a statement may need what an earlier one wrote.
            plan = plan_of(session, statement, analyze=True)
            scans = ", ".join(scans_of_large_tables(plan)) or "no scan of a large table"
            lines += ["", statement.text, f"-- {scans}", json.dumps(plan, indent=1)]
    name = re.sub(r"[^a-z0-9]+", "-", call.name.lower())
    (folder / f"{name}.txt").write_text("\n".join(lines))
    return len(statements)


def measured(small: Database, large: Database, sizes: tuple[Size, Size], *, rounds: int, plans: Path) -> Table:
    lines: list[Line] = []
    for call_of_small, call in zip(calls(small, sizes[0].engines), calls(large, sizes[1].engines), strict=True):
        for database, warmed in ((small, call_of_small), (large, call)):
            seconds_of(database, warmed)
        times: tuple[list[float], list[float]] = ([], [])
        # In turn, so that other load of the machine meets both.
        for _ in range(rounds):
            times[0].append(seconds_of(small, call_of_small))
            times[1].append(seconds_of(large, call))
        statements = write_plans(large, call, plans)
        lines.append(Line(f"{call.name} ({statements})", "ms", median(times[1]) * 1000, median(times[0]) * 1000, _AIM))
        print(" | ".join(lines[-1].cells()), flush=True)
    return Table("Reads, median of each (statements)", f"{_SMALL.engines:,} engines", tuple(lines))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--engines", type=int, default=1_000_000, help="of the large catalogue (default: %(default)s)")
    parser.add_argument("--builds", type=int, help="builds that ended (default: as many)")
    parser.add_argument("--queued", type=int, help="build actions that wait in queues (default: a tenth)")
    parser.add_argument("--rounds", type=int, default=20, help="times that each call is made (default: %(default)s)")
    parser.add_argument("--state", type=Path, default=Path("var"), help="folder for the plans (default: %(default)s)")
    options = parser.parse_args()
    size = Size(options.engines, options.builds or options.engines, options.queued or options.engines // 10)
    plans = options.state / "scale"
    plans.mkdir(parents=True, exist_ok=True)
    gib = psutil.virtual_memory().total / (1 << 30)
    machine = (
        f"{os.cpu_count()} cores, {gib:.0f} GiB, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}", flush=True)
    with ExitStack() as stack:
        folder = new_data_dir("postgres")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = stack.enter_context(Postgres(folder))
        url, template = write_template(postgres, stack)
        copy = sql.SQL("CREATE DATABASE large TEMPLATE {}")
        postgres.databases.administer(copy.format(sql.Identifier(make_url(url).database or "")))
        small = filled(url, template, _SMALL)
        stack.callback(small.close)
        large_url = make_url(url).set(database="large").render_as_string(hide_password=False)
        large = filled(large_url, template, size)
        stack.callback(large.close)
        print(f"\n{measured(small, large, (_SMALL, size), rounds=options.rounds, plans=plans)}")
        print(f"\nplans: {plans}", flush=True)


if __name__ == "__main__":
    main()
