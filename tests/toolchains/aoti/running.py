"""Run the programs as the worker does: by path, in a scratch directory, with a minimal environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import toolchains

PROGRAMS = Path(toolchains.__path__[0]) / "aoti" / "programs"


def run(
    program: str, scratch: Path, *arguments: str | Path, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    """`path` replaces PATH."""
    scratch.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-P", str(PROGRAMS / program), *map(str, arguments)],
        cwd=scratch,
        env={
            "PATH": os.environ["PATH"] if path is None else path,
            "LANG": "C.UTF-8",
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def refused_with(ended: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    """Status, code and message of the last line that a failing program leaves."""
    last = ended.stderr.strip().splitlines()[-1]
    found = re.fullmatch(r"\[enginefarm\] error ([a-z_]+): (.+)", last)
    assert found, ended.stderr
    return ended.returncode, found[1], found[2]
