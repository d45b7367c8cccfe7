"""One worker at a time uses a scratch folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from models.start import StartUnavailableError
from workers.scratch.scratch_lock import scratch_lock

# Locks the folder of its first argument, runs the program of its second one, prints a line and waits.
_HOLDER = """
import subprocess, sys
from pathlib import Path
from workers.scratch.scratch_lock import scratch_lock
with scratch_lock(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    sys.stdin.read()
"""


def test_a_second_worker_is_refused_with_the_settings_the_folder_and_the_holder(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch" / "w1"
    with (
        scratch_lock(scratch),
        pytest.raises(StartUnavailableError, match="another worker") as refusal,
        scratch_lock(scratch),
    ):
        pass
    for word in ("ENGINEFARM_WORKER_NAME", "ENGINEFARM_SCRATCH", str(scratch), f"process {os.getpid()} on "):
        assert word in str(refusal.value)
    with scratch_lock(scratch), scratch_lock(scratch.with_name("w2")):
        pass


def test_the_lock_of_a_killed_worker_is_free_although_its_programs_live_on(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _HOLDER, str(tmp_path / "w1")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(StartUnavailableError, match=f"process {holder.pid} on "), scratch_lock(tmp_path / "w1"):
                pass
            holder.kill()
            holder.wait()
            with scratch_lock(tmp_path / "w1"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO], ids=os.strerror)
def test_a_file_system_without_locks_is_refused_by_name(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock._unix.fcntl, "flock", no_lock)  # type: ignore[attr-defined]
    refusal = f"ENGINEFARM_SCRATCH={tmp_path}: .*{os.strerror(number)}"
    with pytest.raises(ValueError, match=refusal), scratch_lock(tmp_path / "w1"):
        pass


def test_a_scratch_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=f"ENGINEFARM_SCRATCH={tmp_path / 'file'}: .*: File exists"),
        scratch_lock(tmp_path / "file" / "w1"),
    ):
        pass


def test_a_worker_that_restarts_itself_locks_its_folder_again(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from workers.scratch.scratch_lock import scratch_lock
with scratch_lock(Path(sys.argv[1])):
    if sys.argv[2] == "first":
        os.execve(sys.executable, [*sys.orig_argv[:-1], "second"], dict(os.environ))
    print("locked again")
"""
    argv = [sys.executable, "-c", program, str(tmp_path / "w1"), "first"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "locked again\n"
