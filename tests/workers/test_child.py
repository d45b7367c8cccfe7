"""A toolchain's program can do its worst: the worker lives, nothing of it is left, and we know what happened."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from toolchains.toolchain import Command
from workers import child
from workers.child import Ended, KilledFor, ProcessLimits

LIMITS = ProcessLimits(wall_seconds=30, silence_seconds=30, kill_seconds=0.5)


def python(code: str) -> Command:
    return Command((sys.executable, "-I", "-c", code))


def run(
    command: Command, scratch: Path, *, limits: ProcessLimits = LIMITS, stop_after: bytes | None = None
) -> tuple[Ended, bytes]:
    """Run it; with `stop_after`, set the stop signal as soon as that was printed."""
    stop, output = threading.Event(), bytearray()

    def on_output(data: bytes) -> None:
        output.extend(data)
        if stop_after is not None and stop_after in output:
            stop.set()

    ended = child.run(command, scratch=scratch, limits=limits, stop=stop, on_output=on_output)
    return ended, bytes(output)


def alive(scratch: Path) -> list[int]:
    """Processes that work in `scratch`."""
    found = []
    for process in psutil.process_iter(["pid"]):
        try:
            if Path(process.cwd()).is_relative_to(scratch) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def wait_until_gone(scratch: Path) -> None:
    deadline = time.monotonic() + 10
    while left := alive(scratch):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def test_success(tmp_path: Path) -> None:
    ended, output = run(python("import sys; print('out'); print('err', file=sys.stderr)"), tmp_path)
    assert ended.status == 0
    assert ended.killed_for is None
    assert sorted(output.split()) == [b"err", b"out"]
    assert ended.peak_memory is not None
    assert ended.peak_memory > 1 << 20


def test_exit_status_and_tail(tmp_path: Path) -> None:
    ended, _ = run(python("print('x' * 9000); print('the reason'); raise SystemExit(3)"), tmp_path)
    assert ended.status == 3
    assert ended.tail.strip().endswith("the reason")


def test_killed_by_a_signal(tmp_path: Path) -> None:
    ended, _ = run(python("import os; os.kill(os.getpid(), 11)"), tmp_path)
    assert ended.status == -signal.SIGSEGV


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    ended, output = run(Command(("/nowhere/trtllm-build",)), tmp_path)
    assert ended.status == 127
    assert b"cannot start /nowhere/trtllm-build" in output


def test_invalid_utf8_and_a_line_without_end(tmp_path: Path) -> None:
    ended, output = run(python(r"import os; os.write(1, b'\xff\xfe' * 300_000)"), tmp_path)
    assert ended.status == 0
    assert len(output) == 600_000
    assert "�" in ended.tail


def test_stop_ends_a_program_that_ignores_sigterm(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    ended, _ = run(python(code), tmp_path, stop_after=b"ready")
    assert ended.killed_for is KilledFor.STOP
    assert ended.status == -signal.SIGKILL
    wait_until_gone(tmp_path)


def test_stop_ends_orphans_that_left_the_group(tmp_path: Path) -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print('ready', flush=True)
        time.sleep(60)
    os._exit(0)
time.sleep(60)
"""
    ended, _ = run(python(code), tmp_path, stop_after=b"ready")
    assert ended.killed_for is KilledFor.STOP
    wait_until_gone(tmp_path)


def test_what_it_leaves_behind_is_ended_when_it_ends(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    ended, _ = run(python(code), tmp_path)
    assert ended.status == 0
    wait_until_gone(tmp_path)


def test_wall_limit(tmp_path: Path) -> None:
    noisy = "import time\nwhile True: print('.', flush=True); time.sleep(0.05)"
    ended, _ = run(python(noisy), tmp_path, limits=ProcessLimits(1, 30, 0.5))
    assert ended.killed_for is KilledFor.WALL


def test_silence_limit(tmp_path: Path) -> None:
    ended, _ = run(python("import time; time.sleep(60)"), tmp_path, limits=ProcessLimits(30, 1, 0.5))
    assert ended.killed_for is KilledFor.SILENCE


def test_no_secret_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEFARM_S3_SECRET_KEY", "hush")
    monkeypatch.setenv("HF_TOKEN", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    ended, output = run(python("import os; print(os.environ)"), tmp_path)
    assert ended.status == 0
    assert b"hush" not in output
    assert str(tmp_path).encode() in output


def test_it_dies_with_a_killed_worker(tmp_path: Path) -> None:
    """kill -9 of the worker leaves nothing that compiles on."""
    code = f"""
import threading
from pathlib import Path
from toolchains.toolchain import Command
from workers import child
child.run(
    Command(({sys.executable!r}, "-c", "import time; print('ready', flush=True); time.sleep(60)")),
    scratch=Path({str(tmp_path)!r}), limits=child.ProcessLimits(60, 60, 0.5), stop=threading.Event(),
    on_output=lambda data: print(data.decode(), flush=True),
)
"""
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert worker.stdout is not None
    assert worker.stdout.readline().strip() == b"ready"
    assert alive(tmp_path)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    wait_until_gone(tmp_path)


def test_disk_limit(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = "import time\nwith open('big', 'wb') as big: big.write(b'x' * 5_000_000)\nprint('full'); time.sleep(60)"
    ended, _ = run(python(code), scratch, limits=ProcessLimits(60, 60, 0.5, disk_bytes=1_000_000))
    assert ended.killed_for is KilledFor.DISK
    wait_until_gone(tmp_path)


def test_offline_it_reaches_itself_and_nobody_else(tmp_path: Path) -> None:
    """Where the kernel allows it; elsewhere it says that it does not."""
    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]
        code = f"""
import os, socket
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=5)
    print("reached")
except OSError:
    print("not reached")
own = socket.create_server(("127.0.0.1", 0))
socket.create_connection(own.getsockname(), timeout=5)
open("file", "w").close()
print("own loopback", os.stat("file").st_uid == {os.geteuid()})
"""
        ended, output = run(python(code), tmp_path, limits=ProcessLimits(30, 30, 0.5, offline=True))
    assert ended.status == 0, output
    assert b"own loopback True" in output
    assert (b"not reached" in output) != (b"with network:" in output)
    assert (tmp_path / "file").stat().st_uid == os.geteuid()
