"""A short, seeded run of the fault suite; `make faults TRANSFERS=10000` is the long one."""

from __future__ import annotations

import subprocess
import sys


def test_faulted_transfers_end_whole_or_with_a_clear_error() -> None:
    program = [sys.executable, "-m", "tests.faults", "--transfers", "40", "--seed", "1", "--jobs", "16"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
