"""The farm's verified upload and pull, compared with the SDK and curl, which verify nothing, for the same file.

`ENGINEFARM_BENCH_GIB` is the file's size. The servers run on the same machine: with two cores they are the limit, and
not the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from benchmarks.ground import Ground
from benchmarks.table import Line, Table
from tests.api.published import Published, published
from tests.servers.s3 import Swift
from tests.servers.server import new_data_dir

_GIB = float(os.environ.get("ENGINEFARM_BENCH_GIB", "1"))
_READERS = 8  # as many as a node has GPUs
_ROUNDS = 3 if _GIB <= 1 else 1  # a round with a large file takes minutes, and noise matters less


@dataclass(frozen=True)
class Spent:
    wall: float  # seconds
    cpu: float  # seconds, of the transferring process alone
    rss: int = 0  # bytes, at its peak; 0 for programs that do not report it


def run(ground: Ground) -> Table:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # /tmp may be in memory, and a disk is to be measured
        root = Path(folder)
        source = root / "rank0.engine"
        _random_file(source, int(_GIB * (1 << 30)))
        lines = [*_on_s3(root / "s3", source), *_in_a_folder(root / "folder", source)]
    return Table(f"Transfers of {_GIB:g} GiB, everything on one machine", "unverified", tuple(lines))


def _on_s3(root: Path, source: Path) -> Iterator[Line]:
    root.mkdir()
    with _swift() as swift:
        parts = urlsplit(swift.url)
        server = {
            "endpoint": f"http://{parts.hostname}:{parts.port}",
            "access": unquote(parts.username or ""),
            "secret": unquote(parts.password or ""),
        }
        sdk = _spent("upload_bare", source, server)
        farm_upload = _spent("upload", source, server)
        yield _rate("upload to S3, beside the SDK's fput_object", farm_upload, sdk, "≥ 0.9")
        yield Line("upload: CPU s/GiB", "s", farm_upload.cpu / _GIB, sdk.cpu / _GIB)
        yield Line("upload: peak RSS", "MiB", farm_upload.rss / (1 << 20), sdk.rss / (1 << 20), "≤ 150")
        settings: dict[str, Any] = {
            "STORE_URL": "s3://enginefarm/engines", "S3_ENDPOINT": server["endpoint"],
            "S3_ACCESS_KEY": server["access"], "S3_SECRET_KEY": server["secret"],
        }  # fmt: skip
        with published(root, files={"rank0.engine": source}, **settings) as farm:
            yield from _pulls(farm, root, "S3", lambda: _bare_download(root / "bare", server))


def _in_a_folder(root: Path, source: Path) -> Iterator[Line]:
    root.mkdir()
    with published(root, files={"rank0.engine": source}) as farm:
        yield from _pulls(farm, root, "a folder")
        yield _shared(farm, root)


@dataclass(frozen=True)
class _Round:
    pull: Spent
    curl: Spent
    verified_curl: Spent  # curl, and what it leaves undone: sync and sha256sum
    sdk: Spent | None


def _pulls(
    farm: Published, root: Path, store: str, download_by_sdk: Callable[[], Spent] | None = None
) -> Iterator[Line]:
    """Lines for pulls from one store."""
    # Alternated, because the machine is not the same from one minute to the next; the median of each counts.
    rounds = [_round(farm, root, download_by_sdk) for _ in range(_ROUNDS)]
    pull = _median([round_.pull for round_ in rounds])
    curl = _median([round_.curl for round_ in rounds])
    verified_curl = _median([round_.verified_curl for round_ in rounds])
    yield _rate(f"pull from {store}, beside curl, sha256sum and sync", pull, verified_curl)
    yield _rate(f"pull from {store}, beside curl", pull, curl, "≥ 0.9")
    sdk_rounds = [round_.sdk for round_ in rounds if round_.sdk is not None]
    sdk_rss = None
    if sdk_rounds:
        sdk = _median(sdk_rounds)
        sdk_rss = sdk.rss / (1 << 20)
        yield _rate(f"pull from {store}, beside the SDK's fget_object", pull, sdk, "≥ 0.9")
    yield Line(f"pull from {store}: CPU s/GiB", "s", pull.cpu / _GIB, curl.cpu / _GIB)
    yield Line(f"pull from {store}: peak RSS", "MiB", pull.rss / (1 << 20), sdk_rss, "≤ 150")


def _round(farm: Published, root: Path, download_by_sdk: Callable[[], Spent] | None) -> _Round:
    pull = _spent("pull", root / "pulled", {"url": farm.url, "key": farm.key})
    shutil.rmtree(root / "pulled")
    link = f"{farm.url}/v1/engines/{farm.key}/files/rank0.engine"
    curled = root / "curled"
    curl = _timed(["curl", "--silent", "--show-error", "--location", "--output", str(curled), link])
    sync = _timed(["sync", str(curled)])
    sha256sum = _timed(["sha256sum", str(curled)])
    curled.unlink()
    verified_curl = Spent(curl.wall + sync.wall + sha256sum.wall, curl.cpu + sync.cpu + sha256sum.cpu)
    return _Round(pull, curl, verified_curl, download_by_sdk() if download_by_sdk else None)


def _median(rounds: Sequence[Spent]) -> Spent:
    return sorted(rounds, key=lambda spent: spent.wall)[len(rounds) // 2]


def _shared(farm: Published, root: Path) -> Line:
    """Pull with eight processes of one node at once, each to its own directory."""
    environment = {**os.environ, "ENGINEFARM_URL": farm.url, "ENGINEFARM_CACHE": str(root / "cache")}
    program = [sys.executable, "-m", "enginefarm.cli", "pull", farm.key, "--any-platform"]
    running = [
        subprocess.Popen(
            [*program, str(root / f"node{n}")], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for n in range(_READERS)
    ]
    assert [process.wait() for process in running] == [0] * _READERS
    inodes = {(root / f"node{n}" / "rank0.engine").stat().st_ino for n in range(_READERS)}
    return Line(f"{_READERS} processes pull it at once: copies on the disk", "", len(inodes), None, "1")


def _bare_download(target: Path, server: dict[str, str]) -> Spent:
    spent = _spent("download_bare", target, server)
    target.unlink()
    return spent


def _rate(name: str, farm: Spent, baseline: Spent, aim: str = "") -> Line:
    return Line(name, "MiB/s", 1024 * _GIB / farm.wall, 1024 * _GIB / baseline.wall, aim)


def _spent(kind: str, path: Path, server: dict[str, str]) -> Spent:
    """Run one transfer in a process of its own, which prints the seconds of the transfer alone, without imports."""
    spent, output = _measured([sys.executable, "-m", "benchmarks.transfer", kind, str(path), json.dumps(server)])
    seconds, peak = output.split()
    return Spent(float(seconds), spent.cpu, int(peak))


def _timed(argv: Sequence[str]) -> Spent:
    return _measured(argv)[0]


def _measured(argv: Sequence[str]) -> tuple[Spent, str]:
    started = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    cpu = usage.ru_utime + usage.ru_stime
    return Spent(time.monotonic() - started, cpu), output


def _random_file(path: Path, size: int) -> None:
    with path.open("xb") as stream:
        for start in range(0, size, 1 << 20):
            stream.write(os.urandom(min(1 << 20, size - start)))


@contextmanager
def _swift() -> Iterator[Swift]:
    data = new_data_dir("swift", xattrs=True)
    try:
        with Swift(data) as server:
            yield server
    finally:
        shutil.rmtree(data)
