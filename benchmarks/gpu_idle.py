"""How long a card waits while its worker builds six shapes of one model, with the node's cache and without.

A real worker, API, broker, catalogue and S3 server; the store is behind a proxy of limited rate, and the compiler is a
program that sleeps. All times of a real farm are divided by one number, so that their ratios stay: builds of 20 minutes
and a store of 1 GB/s. What the farm itself takes, such as a claim, is not divided: it counts as much as in a build that
is so much shorter.

The card is idle between the claim of the first build and the end of the last one's program whenever no program runs.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.ground import PRODUCTION, Ground
from benchmarks.table import Line, Table
from tests.doubles.weights import weights
from tests.farm.running_farm import RunningFarm, s3_settings
from tests.servers.proxy import Proxy
from tests.servers.s3 import Swift
from tests.servers.server import new_data_dir

_BUILD_SECONDS = 1200.0
_BYTES_PER_SECOND = 1e9
_SHAPES = 6
_MODEL_GB = (16, 70, 140)
# The bytes are divided by more than the seconds, and so is the rate: a test machine shall move few bytes.
_SCALED_RATE = 20e6  # bytes a second


class Throttle:
    """Lets bytes pass at a rate, over all connections together, and counts them."""

    def __init__(self, rate: float) -> None:
        self.passed = 0
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0  # on the clock of time.monotonic

    def take(self, piece: bytes) -> bytes:
        with self._lock:
            self.passed += len(piece)
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + len(piece) / self._rate
            wait = self._free_at - now
        time.sleep(wait)
        return piece


@dataclass(frozen=True)
class Shapes:
    """What was measured: the share of the time that the card was busy, and how often the checkpoint was fetched."""

    busy: float
    fetched: float  # bytes that the store sent, in sizes of the checkpoint


class OneCard:
    """A farm whose only worker reaches the store through a throttled proxy.

    Args:
        scale: by which all times are divided.
    """

    def __init__(self, farm: RunningFarm, store_port: int, scale: float) -> None:
        self._farm = farm
        self._scale = scale
        self._answers = Throttle(_SCALED_RATE)
        self._requests = Throttle(_SCALED_RATE)
        self.proxy = Proxy(store_port, alter=self._requests.take, alter_answer=self._answers.take)

    def build_shapes(self, gigabytes: float, *, cache: bool) -> Shapes:
        """Build six shapes of a new model, all submitted at once."""
        variables = {"ENGINEFARM_S3_ENDPOINT": f"http://127.0.0.1:{self.proxy.port}"}
        if not cache:
            variables["ENGINEFARM_WORKER_CACHE"] = "off"
        name = f"{gigabytes:g}-gb-{'with' if cache else 'without'}-cache"
        worker = self._farm.add_worker(name, variables)
        size = int(gigabytes * 1e9 / _BYTES_PER_SECOND / self._scale * _SCALED_RATE)
        content = weights((name.encode() * (size // len(name) + 1))[:size])
        # The model comes from a folder: what the store sends is checkpoints. An engine is as large as its checkpoint.
        model = self._farm.add_model(name, content)
        options = {"seconds": _BUILD_SECONDS / self._scale, "kib": size / 1024}
        sent_before = self._answers.passed
        builds = [self._farm.submit(self._farm.spec(model, salt=str(shape), **options)) for shape in range(_SHAPES)]
        ended = [self._farm.ended(build["id"], seconds=1200) for build in builds]
        assert all(build["state"] == "succeeded" for build in ended), ended
        sent = self._answers.passed - sent_before
        worker.stop()
        return Shapes(self._busy_share([build["id"] for build in builds]), sent / len(content))

    def _busy_share(self, builds: Sequence[str]) -> float:
        spans: list[tuple[float, float, float]] = []
        for build in builds:
            log = httpx.get(f"{self._farm.urls[0]}/v1/builds/{build}/logs", timeout=30).text
            begin, end = (float(at) for at in re.findall(r"^build (?:begins|ends) at ([\d.]+)", log, re.MULTILINE))
            fetch_seconds = float(self._farm.build(build)["attempts"][-1]["steps"]["fetch"])
            spans.append((begin, end, begin - fetch_seconds))
        spans.sort()
        first_claim = spans[0][2]
        return sum(end - begin for begin, end, _ in spans) / (spans[-1][1] - first_claim)


@contextmanager
def one_card(ground: Ground, scale: float) -> Iterator[OneCard]:
    """A farm of its own on the benchmark's servers, with an S3 server."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-idle-", dir="/var/tmp"))  # S3 needs extended attributes
    try:
        with Swift(new_data_dir("s3")) as swift:
            # Another database of the broker, so that no message reaches the other farm.
            broker = ground.valkey.url.removesuffix("/0") + "/2"
            addresses = {"DATABASE_URL": ground.postgres.create_database(), "BROKER_URL": broker}
            settings = {**PRODUCTION, **addresses, **s3_settings(swift)}
            farm = RunningFarm(folder, settings)
            try:
                farm.add_api()
                card = OneCard(farm, int(swift.endpoint.rpartition(":")[2]), scale)
                with card.proxy:
                    yield card
            finally:
                farm.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(ground: Ground, sizes: Sequence[float], scale: float) -> Table:
    lines = []
    with one_card(ground, scale) as card:
        for gigabytes in sizes:
            without = card.build_shapes(gigabytes, cache=False)
            with_cache = card.build_shapes(gigabytes, cache=True)
            name = f"{gigabytes:g} GB"
            # At once, because a round takes minutes.
            print(f"{name}: with the cache {with_cache}, without {without}", flush=True)
            lines += [
                Line(f"{name}: card busy", "%", with_cache.busy * 100, without.busy * 100, aim="≥ 95 %"),
                Line(f"{name}: checkpoints fetched", "times", with_cache.fetched, without.fetched, aim="≤ 1"),
            ]
    title = (
        f"{_SHAPES} shapes of one model on one worker, builds of 20 minutes at 1 GB/s, all times divided by {scale:g}"
    )
    return Table(title, "cache off", tuple(lines))


def run(ground: Ground) -> Table:
    """One size at a large scale, for `make bench`; `python -m benchmarks.gpu_idle` measures all sizes."""
    return measure(ground, [70], 200)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_idle", description=__doc__)
    parser.add_argument("--scale", type=float, default=100, help="by which all times are divided (default: 100)")
    parser.add_argument("sizes", nargs="*", type=float, default=_MODEL_GB, help="of models, in GB (default: 16 70 140)")
    arguments = parser.parse_args()
    with Ground() as ground:
        print(measure(ground, arguments.sizes, arguments.scale))


if __name__ == "__main__":
    main()
