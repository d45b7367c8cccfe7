"""The files of an engine for tests of pulls, its staging directory, and a pull in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from enginefarm.wire.bodies import Engine
from tests.enginefarm.farm_double import FarmDouble

BIG = os.urandom(700_001)
FILES = {"config.json": b"{}", "empty": b"", "rank0.engine": BIG, "tokenizer/vocab.json": b"[1, 2]"}


def files_in(directory: Path) -> dict[str, bytes]:
    """Content by path, of every file below `directory`."""
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if not p.is_dir()}


def staging_path(destination: Path, engine: Engine) -> Path:
    """The directory in which a pull of `engine` to `destination` collects the files."""
    return destination.with_name(f".{destination.name}.partial-{engine.manifest[7:19]}")


def pull_in_subprocess(double: FarmDouble, engine: Engine, destination: Path) -> subprocess.Popen[bytes]:
    """Start `enginefarm pull`; a test may kill it."""
    program = [sys.executable, "-m", "enginefarm.cli", "pull", engine.key, str(destination)]
    # Each pull has an empty cache of its own: with a full one it would end before a test sees it begin.
    environment = {**os.environ, "ENGINEFARM_URL": double.url, "ENGINEFARM_CACHE": f"{destination}.cache"}
    return subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
