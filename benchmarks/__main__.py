"""`python -m benchmarks [NAME…]`: the farm compared with baselines that are measured in the same run.

Read the ratios: seconds depend on the machine and on what else it does.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import psutil

from benchmarks import cached_submits, gpu_idle, handover, http_clients, memory, new_submits, transfers, watchers
from benchmarks.ground import Ground
from benchmarks.table import Table

# In this order: memory is read first, before load has filled pools and caches.
BENCHMARKS: Mapping[str, Callable[[Ground], Table]] = {
    "memory": memory.run,
    "handover": handover.run,
    "cached_submits": cached_submits.run,
    "watchers": watchers.run,
    "transfers": transfers.run,
    "gpu_idle": gpu_idle.run,
    "http_clients": http_clients.run,
    # Last: its builds keep the worker busy.
    "new_submits": new_submits.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all if none is given")
    names = parser.parse_args().names or list(BENCHMARKS)
    # Before the servers start: a typing error should not cost a minute.
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name}: expected one of {', '.join(BENCHMARKS)}")
    gib = psutil.virtual_memory().total / (1 << 30)
    machine = f"{os.cpu_count()} cores, {gib:.0f} GiB, Python {platform.python_version()}"
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}", flush=True)
    with Ground() as ground:
        # In the order of the table, and printed one by one, so that an interrupted run has shown what it measured.
        for name in (name for name in BENCHMARKS if name in names):
            print(f"\n{BENCHMARKS[name](ground)}", flush=True)


if __name__ == "__main__":
    main()
