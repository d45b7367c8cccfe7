"""A log keeps head and tail of endless output, and a full disk ends the log, not the worker."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.database import Database
from models.lifecycle.leases import Claim
from workers.reporting import job_log
from workers.reporting.job_log import JobLog


def test_a_long_log_keeps_its_head_and_tail_and_counts_the_dropped_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "HEAD_BYTES", 100)
    monkeypatch.setattr(job_log, "TAIL_BYTES", 50)
    log = JobLog(tmp_path)
    for number in range(1000):
        log.write(f"{number:09}\n".encode())
    log.settle()
    log.say("and what came after")
    log.settle()
    content = b"".join(log.read()).decode()
    log.close()
    lines = content.splitlines()
    assert lines[:10] == [f"{number:09}" for number in range(10)]
    assert "[farm] 9850 bytes of output were dropped here" in lines
    assert "000000999" in lines
    assert lines[-1].endswith("and what came after")
    assert len(content) < 400
    assert not any(tmp_path.iterdir()), "no program can reach the log by a path"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_on_a_full_disk_raises_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b", 0))  # noqa: PTH123, SIM115
    log = JobLog(tmp_path)
    log.say("cannot be kept")
    log.settle()
    log.close()


def test_endless_output_of_single_bytes_takes_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "HEAD_BYTES", 0)
    monkeypatch.setattr(job_log, "TAIL_BYTES", 10_000)
    log = JobLog(tmp_path)
    tracemalloc.start()
    for _ in range(100_000):
        log.write(b"x")
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    log.close()


def test_a_line_of_the_farm_may_name_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    log = JobLog(tmp_path)
    log.say(os.fsdecode(b"cannot read \xff"))
    assert b"".join(log.read()).endswith(b"cannot read \\udcff\n")
    log.close()


def test_a_piece_whose_commit_was_not_answered_is_sent_again_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue has it already and ignores the second: more bytes in it would be missing between two pieces."""
    sent: list[tuple[int, bytes]] = []

    def append(_session: object, _key: str, _attempt: int, start: int, piece: bytes) -> None:
        sent.append((start, piece))
        if len(sent) == 1:
            raise DatabaseUnavailable("the connection was lost after the commit")

    monkeypatch.setattr("models.lifecycle.logs.append", append)
    database = Database(f"sqlite:///{tmp_path / 'catalogue.db'}")
    claim = cast(Claim, SimpleNamespace(key="k", attempt=1))
    log = JobLog(tmp_path)
    log.write(b"first")
    with pytest.raises(DatabaseUnavailable):
        log.send(database, claim)
    log.write(b", second")
    log.send(database, claim)
    assert sent == [(0, b"first"), (0, b"first"), (5, b", second")]
    log.close()
    database.close()
