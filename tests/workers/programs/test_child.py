"""A misbehaving program leaves no process behind, the worker survives it, and the result says how it ended."""

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

from tests.workers.sandbox.real import sandbox
from toolchains.toolchain import Command
from workers.programs import child
from workers.programs.child import Ended, KilledFor, ProcessLimits
from workers.sandbox import seccomp
from workers.sandbox.isolation import Isolation
from workers.sandbox.launched import LaunchedSupervisor
from workers.sandbox.mount_view import StagePaths

LIMITS = ProcessLimits(wall_seconds=30, silence_seconds=30, kill_seconds=0.5)


@pytest.fixture(params=["sandbox", "supervisor alone"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """The complete sandbox, and what is left of it on a machine that allows none."""
    if request.param == "sandbox":
        return sandbox()
    return Isolation(machine=seccomp.machine())


def python(code: str) -> Command:
    return Command((sys.executable, "-I", "-c", code))


def run(
    command: Command,
    scratch: Path,
    isolation: Isolation,
    *,
    limits: ProcessLimits = LIMITS,
    stop_after: bytes | None = None,
) -> tuple[Ended, bytes]:
    """Run the command; set the stop signal as soon as its output contains `stop_after`."""
    stop, output = threading.Event(), bytearray()

    def on_output(piece: bytes) -> None:
        output.extend(piece)
        if stop_after is not None and stop_after in output:
            stop.set()

    ended = child.run(
        command,
        paths=StagePaths(scratch),
        limits=limits,
        stop=stop,
        on_output=on_output,
        isolation=isolation,
    )
    return ended, bytes(output)


def alive(scratch: Path) -> list[int]:
    """Processes that work in `scratch`."""
    pids = []
    for process in psutil.process_iter(["pid"]):
        try:
            if Path(process.cwd()).is_relative_to(scratch) and process.status() != psutil.STATUS_ZOMBIE:
                pids.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return pids


def wait_until_gone(scratch: Path) -> None:
    deadline = time.monotonic() + 10
    while pids := alive(scratch):
        assert time.monotonic() < deadline, f"still alive: {pids}"
        time.sleep(0.05)


def test_a_program_that_succeeds_reports_its_output_and_peak_memory(tmp_path: Path, isolation: Isolation) -> None:
    ended, output = run(python("import sys; print('out'); print('err', file=sys.stderr)"), tmp_path, isolation)
    assert ended.status == 0
    assert ended.killed_for is None
    assert sorted(output.split()) == [b"err", b"out"]
    assert ended.peak_memory is not None
    assert ended.peak_memory > 1 << 20


def test_a_failed_program_reports_its_status_and_last_lines(tmp_path: Path, isolation: Isolation) -> None:
    ended, _ = run(python("print('x' * 9000); print('the reason'); raise SystemExit(3)"), tmp_path, isolation)
    assert ended.status == 3
    assert ended.tail.strip().endswith("the reason")


def test_a_program_killed_by_a_signal_reports_the_signal(tmp_path: Path, isolation: Isolation) -> None:
    ended, _ = run(python("import os; os.kill(os.getpid(), 11)"), tmp_path, isolation)
    assert ended.status == -signal.SIGSEGV


def test_a_missing_program_ends_with_status_127(tmp_path: Path, isolation: Isolation) -> None:
    ended, output = run(Command(("/nowhere/trtllm-build",)), tmp_path, isolation)
    assert ended.status == 127
    assert b"cannot start /nowhere/trtllm-build" in output


def test_output_may_be_invalid_utf8_and_one_endless_line(tmp_path: Path, isolation: Isolation) -> None:
    ended, output = run(python(r"import os; os.write(1, b'\xff\xfe' * 300_000)"), tmp_path, isolation)
    assert ended.status == 0
    assert len(output) == 600_000
    assert "�" in ended.tail


def test_stop_ends_a_program_that_ignores_sigterm(tmp_path: Path, isolation: Isolation) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    ended, _ = run(python(code), tmp_path, isolation, stop_after=b"ready")
    assert ended.killed_for is KilledFor.STOP
    assert ended.status == -signal.SIGKILL
    wait_until_gone(tmp_path)


def test_stop_ends_orphans_that_left_the_group(tmp_path: Path, isolation: Isolation) -> None:
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
    ended, _ = run(python(code), tmp_path, isolation, stop_after=b"ready")
    assert ended.killed_for is KilledFor.STOP
    wait_until_gone(tmp_path)


def test_processes_that_a_program_leaves_behind_are_killed_when_it_ends(tmp_path: Path, isolation: Isolation) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    ended, _ = run(python(code), tmp_path, isolation)
    assert ended.status == 0
    wait_until_gone(tmp_path)


def test_a_program_is_killed_at_its_wall_limit(tmp_path: Path, isolation: Isolation) -> None:
    noisy = "import time\nwhile True: print('.', flush=True); time.sleep(0.05)"
    ended, _ = run(python(noisy), tmp_path, isolation, limits=ProcessLimits(1, 30, 0.5))
    assert ended.killed_for is KilledFor.WALL


def test_a_silent_program_is_killed_at_its_silence_limit(tmp_path: Path, isolation: Isolation) -> None:
    ended, _ = run(python("import time; time.sleep(60)"), tmp_path, isolation, limits=ProcessLimits(30, 1, 0.5))
    assert ended.killed_for is KilledFor.SILENCE


def test_no_secret_of_the_worker_reaches_a_program(
    tmp_path: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEFARM_S3_SECRET_KEY", "hush")
    monkeypatch.setenv("HF_TOKEN", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    ended, output = run(python("import os; print(os.environ)"), tmp_path, isolation)
    assert ended.status == 0
    assert b"hush" not in output
    assert str(tmp_path).encode() in output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_program_dies_with_its_killed_or_frozen_worker(
    tmp_path: Path, isolation: Isolation, number: signal.Signals
) -> None:
    """No compiler runs on after the lease: another worker may start the same action on the same GPU."""
    code = f"""
import threading
from pathlib import Path
from tests.workers.sandbox.real import sandbox
from toolchains.toolchain import Command
from workers.programs import child
from workers.sandbox import seccomp
from workers.sandbox.isolation import Isolation
from workers.sandbox.mount_view import StagePaths
child.run(
    Command(({sys.executable!r}, "-c", "import time; print('ready', flush=True); time.sleep(60)")),
    paths=StagePaths(Path({str(tmp_path)!r})), stop=threading.Event(),
    limits=child.ProcessLimits(60, 60, 0.5, renewal_seconds=0.5 if {number == signal.SIGSTOP} else None),
    on_output=lambda piece: print(piece.decode(), flush=True),
    isolation=sandbox() if {isolation.complete} else Isolation(machine=seccomp.machine()),
)
"""
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert worker.stdout is not None
    assert worker.stdout.readline().strip() == b"ready"
    assert alive(tmp_path)
    worker.send_signal(number)
    wait_until_gone(tmp_path)
    worker.kill()
    worker.wait()
    worker.stdout.close()


def test_a_program_runs_as_long_as_the_lease_is_renewed(tmp_path: Path) -> None:
    started: list[LaunchedSupervisor] = []

    def renew(_: bytes) -> None:
        started[0].lease_renewed(time.monotonic())

    ended = child.run(
        python("import time\nfor _ in range(8): print('step', flush=True); time.sleep(0.1)\ntime.sleep(60)"),
        paths=StagePaths(tmp_path),
        limits=ProcessLimits(30, 30, 0.5, renewal_seconds=0.6),
        stop=threading.Event(),
        on_output=renew,
        isolation=sandbox(),
        on_start=started.append,
    )
    assert (ended.status, ended.tail.count("step")) == (-signal.SIGTERM, 8)
    started[0].lease_renewed(time.monotonic())  # too late, and no error


def test_a_program_is_killed_when_its_stage_exceeds_the_disk_limit(tmp_path: Path, isolation: Isolation) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = "import time\nwith open('big', 'wb') as big: big.write(b'x' * 1_500_000)\nprint('full'); time.sleep(60)"
    ended, _ = run(python(code), scratch, isolation, limits=ProcessLimits(60, 60, 0.5, disk_bytes=1_000_000))
    assert ended.killed_for is KilledFor.DISK
    wait_until_gone(tmp_path)


def test_a_program_reaches_only_its_own_loopback(tmp_path: Path) -> None:
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
print("own loopback", os.stat("file").st_uid == os.getuid())
"""
        with_network_namespace = Isolation(machine=seccomp.machine(), leaves_network=True)
        for isolation in (sandbox(), with_network_namespace):
            ended, output = run(python(code), tmp_path, isolation)
            assert ended.status == 0, output
            assert b"own loopback True" in output
            assert b"not reached" in output
    assert (tmp_path / "file").stat().st_uid == os.geteuid()


def test_a_sparse_file_that_is_longer_than_the_disk_limit_ends_the_stage(tmp_path: Path, isolation: Isolation) -> None:
    limits = ProcessLimits(60, 60, 0.5, disk_bytes=1_000_000)
    ended, _ = run(Command(("truncate", "--size=1T", "sparse")), tmp_path, isolation, limits=limits)
    assert ended.killed_for is KilledFor.DISK
    assert (tmp_path / "sparse").stat().st_size == 0
