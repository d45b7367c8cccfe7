"""`python -m benchmarks.transfer KIND PATH SERVER`: one transfer, for `benchmarks.transfers`.

Prints its seconds and its peak memory in bytes. SERVER is JSON with the addresses and keys that KIND needs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minio import Minio

from enginefarm.client.farm import Farm
from enginefarm.contract import digest
from enginefarm.transfer.pull import Transfer, pull
from models.store import S3Settings, S3Store

_BUCKET = "enginefarm"
_BARE = "bare/rank0.engine"


def _client(server: dict[str, str]) -> Minio:
    endpoint = urlsplit(server["endpoint"]).netloc
    client = Minio(endpoint, server["access"], server["secret"], secure=False, region="us-east-1")
    if not client.bucket_exists(_BUCKET):
        client.make_bucket(_BUCKET)
    return client


def _upload_bare(path: Path, server: dict[str, str]) -> Callable[[], Any]:
    client = _client(server)
    return lambda: client.fput_object(_BUCKET, _BARE, str(path))


def _download_bare(path: Path, server: dict[str, str]) -> Callable[[], Any]:
    client = _client(server)
    return lambda: client.fget_object(_BUCKET, _BARE, str(path))


def _upload(path: Path, server: dict[str, str]) -> Callable[[], Any]:
    store = S3Store(_BUCKET, "engines", S3Settings(server["endpoint"], server["access"], server["secret"]))
    # The farm's worker knows the digest from writing the manifest; it is checked again while the bytes leave.
    name = digest.of_file(path)
    return lambda: store.put(path, name, path.stat().st_size)


def _pull(path: Path, server: dict[str, str]) -> Callable[[], Any]:
    farm = Farm(server["url"])
    engine = farm.engine(server["key"])
    return lambda: pull(farm, engine, path, transfer=Transfer(), any_platform=True)


def main() -> None:
    kind, path = sys.argv[1], Path(sys.argv[2])
    server = json.loads(sys.argv[3])
    transfers = {"upload": _upload, "upload_bare": _upload_bare, "pull": _pull, "download_bare": _download_bare}
    # Clients are made and digests computed before the clock starts.
    transfer = transfers[kind](path, server)
    started = time.monotonic()
    transfer()
    seconds = time.monotonic() - started
    # Not getrusage: its peak includes what the parent had in memory before this program replaced its copy.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(seconds, int(peak.split()[1]) * 1024)


if __name__ == "__main__":
    main()
