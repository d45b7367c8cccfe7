"""`python -m benchmarks.pull.library KIND FOLDER`: one transfer of all files by a Python library.

The environment variable BENCH_SERVER is JSON with what the kinds need. Prints the seconds and the CPU seconds of the
transfer, without imports, and the peak memory in bytes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_PART = 8 << 20  # bytes, for every library
_AT_ONCE = 4


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    server: dict[str, Any] = json.loads(os.environ["BENCH_SERVER"])
    # Clients are made and digests computed before the clock starts.
    transfer = {"farm": _farm, "obstore": _obstore, "boto3": _boto3, "minio": _minio}[kind](folder, server)
    started, cpu_before = time.monotonic(), time.process_time()
    transfer()
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu_before
    # Not getrusage: its peak includes what the parent had in memory before this program replaced its copy.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(seconds, cpu, int(peak.split()[1]) * 1024)


def _each(call: Callable[[str], object], names: Sequence[str]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(call, names))


def _names(folder: Path, server: dict[str, Any]) -> Sequence[str]:
    """Objects to download, or the paths of files to upload."""
    if server["direction"] == "pull":
        return list(server["objects"])
    return sorted(str(path) for path in folder.iterdir())


def _farm(folder: Path, server: dict[str, Any]) -> Callable[[], object]:
    if server["direction"] == "pull":
        from enginefarm.client.farm import Farm
        from enginefarm.transfer.pull import Transfer, pull

        farm = Farm(server["url"])
        # No cache: with one, only the first round would transfer bytes.
        return partial(
            pull, farm, farm.engine(server["key"]), folder / "engine", transfer=Transfer(), any_platform=True
        )
    from enginefarm.contract.manifest import Manifest
    from models.store import S3Settings, S3Store
    from workers.stage.uploads import upload_files

    settings = S3Settings(server["endpoint"], server["access"], server["secret"])
    store = S3Store(server["bucket"], "bench/farm", settings)
    files = Manifest.of_directory(folder).files
    # Every file anew: the store has those of the last round.
    anew = frozenset(entry.digest for entry in files)
    return partial(upload_files, store, folder, files, anew=anew, keep_going=lambda: None)


def _obstore(folder: Path, server: dict[str, Any]) -> Callable[[], object]:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        server["bucket"], endpoint=server["endpoint"], access_key_id=server["access"], region="us-east-1",
        secret_access_key=server["secret"], virtual_hosted_style_request=False, unsigned_payload=True,
        client_options={"allow_http": True},
    )  # fmt: skip

    def put(path: str) -> None:
        with Path(path).open("rb") as stream:
            obstore.put(store, f"bench/obstore/{Path(path).name}", stream, chunk_size=_PART, max_concurrency=_AT_ONCE)

    def get(name: str) -> None:
        with (folder / Path(name).name).open("wb") as stream:
            for chunk in obstore.get(store, name).stream(min_chunk_size=1 << 20):
                stream.write(chunk)

    return partial(_each, get if server["direction"] == "pull" else put, _names(folder, server))


def _boto3(folder: Path, server: dict[str, Any]) -> Callable[[], object]:
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=server["endpoint"], aws_access_key_id=server["access"], region_name="us-east-1",
        aws_secret_access_key=server["secret"], config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    config = TransferConfig(multipart_chunksize=_PART, max_concurrency=_AT_ONCE)

    def put(path: str) -> None:
        client.upload_file(path, server["bucket"], f"bench/boto3/{Path(path).name}", Config=config)

    def get(name: str) -> None:
        client.download_file(server["bucket"], name, str(folder / Path(name).name), Config=config)

    return partial(_each, get if server["direction"] == "pull" else put, _names(folder, server))


def _minio(folder: Path, server: dict[str, Any]) -> Callable[[], object]:
    from minio import Minio

    endpoint = urlsplit(server["endpoint"]).netloc
    client = Minio(endpoint, server["access"], server["secret"], secure=False, region="us-east-1")

    def put(path: str) -> None:
        name = f"bench/minio/{Path(path).name}"
        client.fput_object(server["bucket"], name, path, part_size=_PART, num_parallel_uploads=_AT_ONCE)

    def get(name: str) -> None:
        client.fget_object(server["bucket"], name, str(folder / Path(name).name))

    return partial(_each, get if server["direction"] == "pull" else put, _names(folder, server))


if __name__ == "__main__":
    main()
