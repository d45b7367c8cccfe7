"""An engine to pull, and what the tests of pulling ask about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from enginefarm.wire.bodies import Engine
from tests.enginefarm.farm_double import FarmDouble

BIG = os.urandom(700_001)
FILES = {"config.json": b"{}", "empty": b"", "rank0.engine": BIG, "tokenizer/vocab.json": b"[1, 2]"}


def held(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if not p.is_dir()}


def staging(destination: Path, engine: Engine) -> Path:
    return destination.with_name(f".{destination.name}.partial-{engine.manifest[7:19]}")


def pull_elsewhere(double: FarmDouble, engine: Engine, place: Path) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "enginefarm.cli", "pull", engine.key, str(place)]
    # A cache that no other pull has filled: from a full one it would be over before anybody sees it begin.
    environment = {**os.environ, "ENGINEFARM_URL": double.url, "ENGINEFARM_CACHE": f"{place}.cache"}
    return subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
