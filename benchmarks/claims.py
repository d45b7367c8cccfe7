"""`python -m benchmarks.claims`: what a claim costs with a long queue, and the bytes that warm claims save.

The time of a claim: one queue with 1,000 queued actions and one with 100,000, in turn, each claim rolled back.
The bytes: builds of two models in random order, and two workers whose nodes hold one model each; the claims are real,
no program runs.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from benchmarks.table import Line, Table
from migrations.upgrade import upgrade
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.lifecycle.leases import claim_next
from tests.models.requests import add_worker
from tests.servers.postgres import Postgres
from tests.servers.server import new_data_dir

_QUEUED = {"short": 1_000, "long": 100_000}  # actions, by queue
_MODELS = 50  # of the queued actions
_ROUNDS = 40
_BUILDS = 48
_GB_OF_A_MODEL = 70
_SEEDS = 20
_FILL = """
    INSERT INTO actions (key, stage, queue, document, job, state, attempt, tries, progress, queued_at, inputs)
    SELECT :digit || lpad(to_hex(i), 63, '0'), 'convert', :queue, '{}', '{}', 'queued', 0, 0, 0,
           clock_timestamp() - make_interval(secs => 200000 - i), lpad(to_hex(i % :models), 64, '0')
    FROM generate_series(1, :count) i"""


def seconds_of_claim(database: Database, queue: str, held: Sequence[str]) -> float:
    with Session(database.engine) as session:
        session.connection()  # opens the transaction
        start = time.perf_counter()
        claim = claim_next(session, queue, "w1", lease_seconds=60, held=held)
        session.flush()
        seconds = time.perf_counter() - start
        assert claim is not None
        session.rollback()
    return seconds


def times(database: Database) -> Table:
    add_worker(database)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for digit, (queue, count) in zip("ab", _QUEUED.items(), strict=True):
            connection.execute(text(_FILL), {"digit": digit, "queue": queue, "count": count, "models": _MODELS})
        connection.execute(text("VACUUM ANALYZE actions"))
    kinds = {
        "by age": [],
        "warm, 32 inputs held": [f"{number:064x}" for number in range(5, 37)],
        "cold, 32 inputs held": [f"{number:064x}" for number in range(1000, 1032)],
    }
    lines = []
    for name, held in kinds.items():
        measured: dict[str, list[float]] = {queue: [] for queue in _QUEUED}
        for _ in range(_ROUNDS):
            for queue in _QUEUED:
                measured[queue].append(seconds_of_claim(database, queue, held))
        short, long = (median(measured[queue]) * 1000 for queue in _QUEUED)
        lines.append(Line(f"claim, {name}", "ms", long, short, "≤ 1.5"))
    return Table("A claim with 100,000 queued actions", "1,000 queued", tuple(lines))


def fetched_gb(database: Database, seed: int, *, prefers_warm: bool) -> int:
    """GB that two workers fetch until all builds are claimed. The node of each holds the model that it used last."""
    chance = random.Random(seed)
    queue = f"convert.{seed}.{prefers_warm}"
    models = [digit * 64 for digit in "ab" for _ in range(_BUILDS // 2)]
    chance.shuffle(models)
    with database.write() as session:
        for number, model in enumerate(models):
            key = f"{seed:08x}{prefers_warm:08x}{number:048x}"
            session.execute(insert(ActionRow).values(
                key=key, stage="convert", queue=queue, document={}, work={}, state="queued", inputs=model,
                queued_at=now(number - 1000),
            ))  # fmt: skip
        holds: dict[str, str] = {}
        gb = 0
        for _ in models:
            worker = chance.choice(["w1", "w2"])  # which one ends its build next
            held = [holds[worker]] if prefers_warm and worker in holds else []
            claim = claim_next(session, queue, worker, lease_seconds=60, held=held)
            assert claim is not None
            assert claim.inputs is not None
            if holds.get(worker) != claim.inputs:
                gb += _GB_OF_A_MODEL
            holds[worker] = claim.inputs
    return gb


def fetches(folder: Path) -> Table:
    database = Database(f"sqlite:///{folder / 'catalogue.db'}")
    upgrade(database.engine)
    for name in ("w1", "w2"):
        add_worker(database, name)
    by_age = [fetched_gb(database, seed, prefers_warm=False) for seed in range(_SEEDS)]
    warm = [fetched_gb(database, seed, prefers_warm=True) for seed in range(_SEEDS)]
    database.close()
    name = f"{_BUILDS} builds of two models, two workers, median of {_SEEDS} orders"
    return Table("Fetched by two nodes", "by age alone", (Line(name, "GB", median(warm), median(by_age)),))


def main() -> None:
    folder = new_data_dir("postgres")
    try:
        with Postgres(folder) as postgres:
            database = Database(postgres.create_database())
            upgrade(database.engine)
            print(times(database), flush=True)
            database.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        print(f"\n{fetches(Path(scratch))}")


if __name__ == "__main__":
    main()
