"""No file of /proc has a secret of the worker, and no process of its user can read its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CODE = """
from workers.programs.environment_hiding import hide
hide()
import os
print(os.environ["ENGINEFARM_S3_SECRET_KEY"], flush=True)
input()
"""


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "ENGINEFARM_S3_SECRET_KEY": "hush-hush", "HF_TOKEN": "hush-hush"}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "hush-hush\n"  # the worker itself has it
    yield process
    process.stdin.close()
    process.stdout.close()
    process.wait()


def test_the_environment_of_the_worker_in_proc_has_no_secret(worker: subprocess.Popen[str]) -> None:
    if os.geteuid() == 0:
        environ = Path(f"/proc/{worker.pid}/environ").read_bytes()
        assert b"PATH=" in environ
        assert b"hush" not in environ


def test_another_process_of_the_user_cannot_read_the_environment(worker: subprocess.Popen[str]) -> None:
    """Files of a process that is not dumpable belong to root."""
    assert Path(f"/proc/{worker.pid}/environ").stat().st_uid == 0
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            Path(f"/proc/{worker.pid}/environ").read_bytes()
