"""`python -m tests.faults --transfers 10000 --seed 0`: exit code 1 if a promise was broken."""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.faults.server import served
from tests.faults.trial import Outcome, run


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--transfers", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first transfer; the others count up from it")
    parser.add_argument("--jobs", type=int, default=8, help="transfers at once; most of their time is waiting")
    return parser.parse_args()


def _outcomes(seeds: range, jobs: int) -> Iterator[Outcome]:
    # Forked before this process has a thread: each process of the pool forks again, and a fork copies one thread only.
    with served() as url, ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        for future in as_completed([pool.submit(run, seed, url) for seed in seeds]):
            yield future.result()


def main() -> int:
    logging.disable()
    arguments = _arguments()
    ends: Counter[str] = Counter()
    broken, kills = 0, 0
    for outcome in _outcomes(range(arguments.seed, arguments.seed + arguments.transfers), arguments.jobs):
        ends.update(end.partition(":")[0] for end in outcome.ends)
        kills += outcome.kills
        broken += bool(outcome.violations)
        for violation in outcome.violations:
            print(f"seed {outcome.seed}: {violation}", file=sys.stderr)
    print(
        json.dumps(
            {"transfers": arguments.transfers, "kills": kills, "ends": dict(ends.most_common()), "broken": broken}
        )
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
