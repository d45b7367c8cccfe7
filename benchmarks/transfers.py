"""Bytes: the farm's verified upload and pull beside the bare SDK's and curl's, which verify nothing, of the same file.

`ENGINEFARM_BENCH_GIB` is the file's size. Everything is on one machine, the servers too: with two cores they, and not
the network, are the bound.
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
_READERS = 8
_ROUNDS = 3 if _GIB <= 1 else 1


@dataclass(frozen=True)
class Spent:
    wall: float  # seconds
    cpu: float  # seconds, of the transferring process alone
    rss: int = 0  # bytes, at its peak; not known of a foreign program


def run(ground: Ground) -> Table:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # on a disk, and our own
        root = Path(folder)
        source = root / "rank0.engine"
        _random_file(source, int(_GIB * (1 << 30)))
        lines = [*_on_s3(root / "s3", source), *_in_a_folder(root / "folder", source)]
    return Table(f"Transfers of {_GIB:g} GiB, everything on one machine", "unverified", tuple(lines))


def _on_s3(root: Path, source: Path) -> Iterator[Line]:
    root.mkdir()
    with _swift() as swift:
        parts = urlsplit(swift.url)
        where = {
            "endpoint": f"http://{parts.hostname}:{parts.port}",
            "access": unquote(parts.username or ""),
            "secret": unquote(parts.password or ""),
        }
        sdk = _spent("upload_bare", source, where)
        ours = _spent("upload", source, where)
        yield _rate("upload to S3, beside the SDK's fput_object", ours, sdk, "≥ 0.9")
        yield Line("upload: CPU s/GiB", "s", ours.cpu / _GIB, sdk.cpu / _GIB)
        yield Line("upload: peak RSS", "MiB", ours.rss / (1 << 20), sdk.rss / (1 << 20), "≤ 150")
        settings: dict[str, Any] = {
            "STORE_URL": "s3://enginefarm/engines", "S3_ENDPOINT": where["endpoint"],
            "S3_ACCESS_KEY": where["access"], "S3_SECRET_KEY": where["secret"],
        }  # fmt: skip
        with published(root, files={"rank0.engine": source}, **settings) as farm:
            yield from _pulls(farm, root, "S3", lambda: _bare_download(root / "bare", where))


def _in_a_folder(root: Path, source: Path) -> Iterator[Line]:
    root.mkdir()
    with published(root, files={"rank0.engine": source}) as farm:
        yield from _pulls(farm, root, "a folder")
        yield _shared(farm, root)


def _pulls(farm: Published, root: Path, store: str, sdk: Callable[[], Spent] | None = None) -> Iterator[Line]:
    """Each in turn, round after round, because the machine is not the same from one minute to the next."""
    rounds = [_round(farm, root, sdk) for _ in range(_ROUNDS)]
    ours, curl, by_hand, *bare = (_middle(several) for several in zip(*rounds, strict=True))
    yield _rate(f"pull from {store}, beside curl, sha256sum and sync", ours, by_hand)
    yield _rate(f"pull from {store}, beside curl", ours, curl, "≥ 0.9")
    for theirs in bare:
        yield _rate(f"pull from {store}, beside the SDK's fget_object", ours, theirs, "≥ 0.9")
    yield Line(f"pull from {store}: CPU s/GiB", "s", ours.cpu / _GIB, curl.cpu / _GIB)
    rss = bare[0].rss / (1 << 20) if bare else None
    yield Line(f"pull from {store}: peak RSS", "MiB", ours.rss / (1 << 20), rss, "≤ 150")


def _round(farm: Published, root: Path, sdk: Callable[[], Spent] | None) -> list[Spent]:
    """The pull; curl; curl and what it leaves undone: the digest, and bytes that are on the disk; the SDK."""
    link, curled = f"{farm.url}/v1/engines/{farm.key}/files/rank0.engine", root / "curled"
    ours = _spent("pull", root / "pulled", {"url": farm.url, "key": farm.key})
    shutil.rmtree(root / "pulled")
    curl = _timed(["curl", "--silent", "--show-error", "--location", "--output", str(curled), link])
    rest = [_timed([program, str(curled)]) for program in ("sync", "sha256sum")]
    curled.unlink()
    by_hand = Spent(curl.wall + sum(one.wall for one in rest), curl.cpu + sum(one.cpu for one in rest))
    return [ours, curl, by_hand, *([sdk()] if sdk else [])]


def _middle(several: Sequence[Spent]) -> Spent:
    return sorted(several, key=lambda spent: spent.wall)[len(several) // 2]


def _shared(farm: Published, root: Path) -> Line:
    """Eight processes of one node at once; each its own directory."""
    environment = {**os.environ, "ENGINEFARM_URL": farm.url, "ENGINEFARM_CACHE": str(root / "cache")}
    program = [sys.executable, "-m", "enginefarm.cli", "pull", farm.key, "--any-platform"]
    running = [
        subprocess.Popen(
            [*program, str(root / f"node{n}")], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for n in range(_READERS)
    ]
    assert [done.wait() for done in running] == [0] * _READERS
    inodes = {(root / f"node{n}" / "rank0.engine").stat().st_ino for n in range(_READERS)}
    return Line(f"{_READERS} processes pull it at once: copies on the disk", "", len(inodes), None, "1")


def _bare_download(target: Path, where: dict[str, str]) -> Spent:
    spent = _spent("download_bare", target, where)
    target.unlink()
    return spent


def _rate(what: str, ours: Spent, theirs: Spent, aim: str = "") -> Line:
    return Line(what, "MiB/s", 1024 * _GIB / ours.wall, 1024 * _GIB / theirs.wall, aim)


def _spent(what: str, path: Path, where: dict[str, str]) -> Spent:
    """One transfer in a process of its own, which prints the seconds of the transfer alone: without imports."""
    spent, output = _measured([sys.executable, "-m", "benchmarks.transfer", what, str(path), json.dumps(where)])
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
