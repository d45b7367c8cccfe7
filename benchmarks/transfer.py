"""`python -m benchmarks.transfer KIND PATH SERVER`: one transfer, for `benchmarks.transfers`.

Prints its seconds and its peak memory in bytes. SERVER is JSON with the addresses and keys that KIND needs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
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
    # With a region the SDK does not ask the server for it before each transfer.
    client = Minio(endpoint, server["access"], server["secret"], secure=False, region="us-east-1")
    if not client.bucket_exists(_BUCKET):
        client.make_bucket(_BUCKET)
    return client


def main() -> None:
    kind, path = sys.argv[1], Path(sys.argv[2])
    server: dict[str, str] = json.loads(sys.argv[3])
    # Clients are made and digests computed before the clock starts.
    transfer: Callable[[], object]
    match kind:
        case "upload":
            store = S3Store(_BUCKET, "engines", S3Settings(server["endpoint"], server["access"], server["secret"]))
            # The farm's worker knows the digest from writing the manifest; it is checked again while the bytes leave.
            transfer = partial(store.put, path, digest.of_file(path), path.stat().st_size)
        case "upload_bare":
            transfer = partial(_client(server).fput_object, _BUCKET, _BARE, str(path))
        case "pull":
            farm = Farm(server["url"])
            # No cache: with one, only the first round would transfer bytes.
            transfer = partial(pull, farm, farm.engine(server["key"]), path, transfer=Transfer(), any_platform=True)
        case "download_bare":
            # The object that an upload_bare left: one that the farm stored has another name.
            transfer = partial(_client(server).fget_object, _BUCKET, _BARE, str(path))
        case _:
            sys.exit(f"there is no transfer {kind!r}: expected upload, upload_bare, pull or download_bare")
    started = time.monotonic()
    transfer()
    seconds = time.monotonic() - started
    # Not getrusage: its peak includes what the parent had in memory before this program replaced its copy.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(seconds, int(peak.split()[1]) * 1024)


if __name__ == "__main__":
    main()
