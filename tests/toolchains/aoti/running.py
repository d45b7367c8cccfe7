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
    """Run a program of the toolchain to its end; `path` replaces PATH."""
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


def refusal_of(process: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    """Status, code and message of the last line that a failing program leaves."""
    last_line = process.stderr.strip().splitlines()[-1]
    match = re.fullmatch(r"\[enginefarm\] error ([a-z_]+): (.+)", last_line)
    assert match, process.stderr
    return process.returncode, match[1], match[2]
