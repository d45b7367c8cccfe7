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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from benchmarks.ground import Ground
from benchmarks.table import Line, Table
from tests.api.published import Published, published
from tests.servers.s3 import Swift
from tests.servers.server import new_data_dir

_GIB = float(os.environ.get("ENGINEFARM_BENCH_GIB") or "1")
_MIB = 1 << 20
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
        # Random, because a store or a file system may compress zeros.
        with source.open("xb") as stream:
            for _ in range(int(_GIB * 1024)):
                stream.write(os.urandom(_MIB))
        lines = [*_on_s3(root / "s3", source)]
        folder_root = root / "folder"
        folder_root.mkdir()
        with published(folder_root, files={"rank0.engine": source}) as farm:
            lines += _pulls(farm, folder_root, "a folder")
            lines.append(_shared(farm, folder_root))
    return Table(f"Transfers of {_GIB:g} GiB, everything on one machine", "unverified", tuple(lines))


def _on_s3(root: Path, source: Path) -> Iterator[Line]:
    root.mkdir()
    with ExitStack() as stack:
        # Not below `root`: Swift needs a file system with extended attributes.
        data_dir = new_data_dir("swift", xattrs=True)
        stack.callback(shutil.rmtree, data_dir)
        swift = stack.enter_context(Swift(data_dir))
        url = urlsplit(swift.url)
        server = {
            "endpoint": f"http://{url.hostname}:{url.port}",
            "access": unquote(url.username or ""),
            "secret": unquote(url.password or ""),
        }
        sdk = _spent("upload_bare", source, server)
        farm_upload = _spent("upload", source, server)
        yield _rate("upload to S3, beside the SDK's fput_object", farm_upload, sdk, "≥ 0.9")
        yield Line("upload: CPU s/GiB", "s", farm_upload.cpu / _GIB, sdk.cpu / _GIB)
        yield Line("upload: peak RSS", "MiB", farm_upload.rss / _MIB, sdk.rss / _MIB, "≤ 150")
        settings: dict[str, Any] = {
            "STORE_URL": "s3://enginefarm/engines", "S3_ENDPOINT": server["endpoint"],
            "S3_ACCESS_KEY": server["access"], "S3_SECRET_KEY": server["secret"],
        }  # fmt: skip
        with published(root, files={"rank0.engine": source}, **settings) as farm:
            yield from _pulls(farm, root, "S3", server)


def _pulls(farm: Published, root: Path, store: str, s3_server: dict[str, str] | None = None) -> Iterator[Line]:
    """Lines for pulls from one store; with `s3_server`, compared with the SDK's download, too."""
    pulls, curls, verified_curls, sdk_downloads = [], [], [], []
    link = f"{farm.url}/v1/engines/{farm.key}/files/rank0.engine"
    pull_target, curl_target, sdk_target = root / "pulled", root / "curled", root / "bare"
    # Alternated, because the machine is not the same from one minute to the next; the median of each counts.
    for _ in range(_ROUNDS):
        pulls.append(_spent("pull", pull_target, {"url": farm.url, "key": farm.key}))
        shutil.rmtree(pull_target)
        curl = _timed(["curl", "--silent", "--show-error", "--location", "--output", str(curl_target), link])
        # A pull does more than curl: its bytes are verified and on the disk when it ends.
        sync = _timed(["sync", str(curl_target)])
        digest = _timed(["openssl", "sha256", str(curl_target)])
        curl_target.unlink()
        curls.append(curl)
        verified_curls.append(Spent(curl.wall + sync.wall + digest.wall, curl.cpu + sync.cpu + digest.cpu))
        if s3_server is not None:
            sdk_downloads.append(_spent("download_bare", sdk_target, s3_server))
            sdk_target.unlink()
    pull, curl = _median(pulls), _median(curls)
    yield _rate(f"pull from {store}, beside curl, openssl sha256 and sync", pull, _median(verified_curls))
    yield _rate(f"pull from {store}, beside curl", pull, curl, "≥ 0.9")
    sdk_rss = None
    if sdk_downloads:
        sdk = _median(sdk_downloads)
        sdk_rss = sdk.rss / _MIB
        yield _rate(f"pull from {store}, beside the SDK's fget_object", pull, sdk, "≥ 0.9")
    yield Line(f"pull from {store}: CPU s/GiB", "s", pull.cpu / _GIB, curl.cpu / _GIB)
    yield Line(f"pull from {store}: peak RSS", "MiB", pull.rss / _MIB, sdk_rss, "≤ 150")


def _median(rounds: Sequence[Spent]) -> Spent:
    return sorted(rounds, key=lambda spent: spent.wall)[len(rounds) // 2]


def _shared(farm: Published, root: Path) -> Line:
    """Pull with eight processes of one node at once, each to its own directory."""
    environment = {**os.environ, "ENGINEFARM_URL": farm.url, "ENGINEFARM_CACHE": str(root / "cache")}
    program = [sys.executable, "-m", "enginefarm.cli", "pull", farm.key, "--any-platform"]
    processes = {}
    for number in range(_READERS):
        target = root / f"node{number}"
        processes[target] = subprocess.Popen(
            [*program, str(target)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    # Hard links to one file have one inode: as many inodes as copies of the bytes.
    inodes = set()
    for target, process in processes.items():
        assert process.wait() == 0, target
        inodes.add((target / "rank0.engine").stat().st_ino)
    return Line(f"{_READERS} processes pull it at once: copies on the disk", "", len(inodes), None, "1")


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
    # wait4, not `wait`: it returns the CPU time of this child alone.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    cpu = usage.ru_utime + usage.ru_stime
    return Spent(time.monotonic() - started, cpu), output
