"""The tools that a pull and an upload are compared with: how each is called, and which are installed here."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FROM_NGINX = "curl -Z from nginx"
OVER_HTTP = ("curl -Z", "aria2 -x8")
OVER_S3 = ("rclone", "s5cmd", "obstore", "boto3", "minio")
_PROGRAMS = {"curl -Z": "curl", FROM_NGINX: "curl", "aria2 -x8": "aria2c", "rclone": "rclone", "s5cmd": "s5cmd"}


@dataclass(frozen=True)
class Job:
    """One transfer of all files.

    Args:
        links: by file name, URLs that serve the bytes to anybody.
        objects: by file name, the names of the objects in the bucket; empty without an S3 server.
    """

    direction: str  # "pull" or "upload"
    folder: Path  # to write to, or to read from
    links: Mapping[str, str]
    objects: Mapping[str, str]
    endpoint: str = ""
    bucket: str = ""
    bare_links: Mapping[str, str] = field(default_factory=dict)  # of the same files at a server without a farm


def command(tool: str, job: Job) -> Sequence[str]:
    """The arguments that start a program; the S3 keys are in its environment."""
    match tool:
        case "curl -Z" | "curl -Z from nginx":
            argv = ["curl", "--silent", "--show-error", "--fail", "--location", "--parallel"]
            for name, link in (job.bare_links if tool == FROM_NGINX else job.links).items():
                argv += ["--output", str(job.folder / name), link]
            return argv
        case "aria2 -x8":
            addresses = job.folder / "addresses"
            addresses.write_text("".join(f"{link}\n out={name}\n" for name, link in job.links.items()))
            return ["aria2c", "--quiet", "--max-connection-per-server=8", "--split=8", "--min-split-size=1M",
                    "--file-allocation=none", f"--dir={job.folder}", f"--input-file={addresses}"]  # fmt: skip
        case "rclone":
            remote = (
                f":s3,provider=Other,env_auth,region=us-east-1,no_check_bucket,endpoint='{job.endpoint}':{job.bucket}"
            )
            copy = ["rclone", "copy", "--ignore-times", "--transfers", "4", "--config", ""]
            if job.direction == "upload":
                return [*copy, str(job.folder), f"{remote}/bench/rclone"]
            return [*copy, f"{remote}/engines/blobs", str(job.folder)]
        case "s5cmd":
            copy = ["s5cmd", "--endpoint-url", job.endpoint, "--log", "error", "cp"]
            if job.direction == "upload":
                return [*copy, f"{job.folder}/*", f"s3://{job.bucket}/bench/s5cmd/"]
            return [*copy, f"s3://{job.bucket}/engines/blobs/*", f"{job.folder}/"]
        case "farm" | "obstore" | "boto3" | "minio":
            return [sys.executable, "-m", "benchmarks.pull.library", tool, str(job.folder)]
    raise ValueError(f"there is no tool {tool}")


def is_installed(tool: str) -> bool:
    if tool in _PROGRAMS:
        return shutil.which(_PROGRAMS[tool]) is not None
    return tool == "farm" or importlib.util.find_spec(tool) is not None
