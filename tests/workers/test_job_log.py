"""A log keeps head and tail of endless output, and a full disk ends the log, not the worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workers import job_log
from workers.job_log import JobLog
from workers.workspace import workspace


def test_a_long_log_keeps_its_head_and_tail_and_counts_the_dropped_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "HEAD_BYTES", 100)
    monkeypatch.setattr(job_log, "TAIL_BYTES", 50)
    log = JobLog(tmp_path / "log")
    for number in range(1000):
        log.write(f"{number:09}\n".encode())
    log.settle()
    log.say("and what came after")
    log.settle()
    log.close()
    lines = log.path.read_text().splitlines()
    assert lines[:10] == [f"{number:09}" for number in range(10)]
    assert "[farm] 9850 bytes of output were dropped here" in lines
    assert "000000999" in lines
    assert lines[-1].endswith("and what came after")
    assert log.path.stat().st_size < 400


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_on_a_full_disk_raises_no_error(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    log = JobLog(path)
    log.say("cannot be kept")
    log.settle()
    log.close()


def test_a_workspace_is_removed_although_a_program_removed_its_permissions(tmp_path: Path) -> None:
    with workspace(tmp_path, "0" * 64, 1) as (folder, directories):
        locked = directories.scratch / "a" / "b"
        locked.mkdir(parents=True)
        (locked / "file").write_bytes(b"x")
        (directories.scratch / "link").symlink_to("/etc")
        os.chmod(locked, 0)  # noqa: PTH101
        locked.parent.chmod(0)
    assert not folder.exists()
    assert Path("/etc").exists()
