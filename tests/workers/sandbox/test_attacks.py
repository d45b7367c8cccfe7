"""Programs that attack the worker, its supervisor and the machine from inside, and how each attack ends."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.workers.sandbox.real import sandbox
from toolchains.toolchain import Command
from workers.programs import child
from workers.programs.child import Ended, KilledFor, ProcessLimits, SandboxBroken, Unkillable
from workers.sandbox import launched, seccomp
from workers.sandbox.isolation import Isolation
from workers.sandbox.mount_view import StagePaths

LIMITS = ProcessLimits(wall_seconds=30, silence_seconds=30, kill_seconds=0.3)
# Stopped or killed, a program may take kill_seconds, the worker's margins and the slowness of a busy test machine.
SOON = 8.0


@pytest.fixture(scope="module")
def isolation() -> Isolation:
    return sandbox()


def attack(
    code: str,
    scratch: Path,
    isolation: Isolation,
    *,
    limits: ProcessLimits = LIMITS,
    stop_after: str | None = None,
    paths: StagePaths | None = None,
) -> tuple[Ended, list[str]]:
    """Run the code; set the stop signal once it has printed `stop_after`. Returns how it ended, and its output."""
    stop, output = threading.Event(), bytearray()

    def on_output(piece: bytes) -> None:
        output.extend(piece)
        if stop_after is not None and stop_after.encode() in output:
            stop.set()

    ended = child.run(
        Command((sys.executable, "-I", "-c", code)),
        paths=paths or StagePaths(scratch),
        limits=limits,
        stop=stop,
        on_output=on_output,
        isolation=isolation,
    )
    return ended, output.decode(errors="replace").splitlines()


def marked(marker: str) -> list[int]:
    """Processes of this machine whose command line has the marker."""
    pids = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        is_zombie = process.info["status"] == psutil.STATUS_ZOMBIE
        if not is_zombie and any(marker in argument for argument in process.info["cmdline"] or ()):
            pids.append(process.info["pid"])
    return pids


class TestGuard:
    """The supervisor cannot be stopped or killed by what it supervises."""

    def test_signals_from_inside_do_not_reach_it(self, tmp_path: Path, isolation: Isolation) -> None:
        code = """
import os, signal, time
assert os.getppid() == 1, "not in the sandbox: these signals would hit the machine"
for number in range(1, 65):
    if number not in (32, 33):  # the C library's own
        os.kill(1, number)
print("all sent", flush=True)
time.sleep(60)
"""
        started = time.monotonic()
        ended, output = attack(code, tmp_path, isolation, stop_after="all sent")
        assert output == ["all sent"]
        assert ended.killed_for is KilledFor.STOP
        assert time.monotonic() - started < SOON

    def test_programs_cannot_take_its_cpu_time(self, tmp_path: Path, isolation: Isolation) -> None:
        """The lowest priority of all and one CPU that others use would keep it from ending a stage."""
        code = """
import os
attempts = {
    "idle": lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
    "affinity": lambda: os.sched_setaffinity(1, {min(os.sched_getaffinity(0))}),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
    "priority of the user": lambda: os.setpriority(os.PRIO_USER, 0, 19),
    "own affinity": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "own priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 19),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print(name, "changed")
    except PermissionError:
        print(name, "refused")
"""
        ended, output = attack(code, tmp_path, isolation)
        assert ended.status == 0, output
        assert output == [
            "idle refused", "affinity refused", "priority refused", "priority of the user refused",
            "own affinity changed", "own priority changed",
        ]  # fmt: skip

    @pytest.mark.parametrize("signal_name", ["SIGSTOP", "SIGKILL"])
    def test_without_the_sandbox_the_worker_ends_what_stopped_or_killed_it(
        self, tmp_path: Path, signal_name: str
    ) -> None:
        marker = f"orphan-{tmp_path}"
        code = f"""
import os, signal, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", {marker!r}], start_new_session=True)
guard = os.getppid()
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The name of a process may be any bytes, and the worker reads it.
    open("/proc/self/comm", "wb").write(bytes([255]) + b") x")
    os.kill(guard, signal.{signal_name})
    print("attacked", flush=True)
    time.sleep(60)
time.sleep(60)
"""
        started = time.monotonic()
        attack(code, tmp_path, Isolation(machine=seccomp.machine()), stop_after="attacked")
        assert time.monotonic() - started < SOON
        assert marked(marker) == []

    def test_a_fork_chain_ends_with_its_stage(self, tmp_path: Path, isolation: Isolation) -> None:
        """Each process forks and exits, so that no list of processes is ever complete."""
        code = """
import os
print("ready", flush=True)
while True:
    if os.fork():
        os._exit(0)
    os.setsid()
"""
        # Its first process exits at once; the chain must not go on after that.
        started = time.monotonic()
        ended, output = attack(code, tmp_path, isolation)
        assert (ended.status, output) == (0, ["ready"])
        assert time.monotonic() - started < SOON
        assert marked("no list of processes is ever") == []

    def test_a_fork_bomb_ends_at_its_limit(self, tmp_path: Path, isolation: Isolation) -> None:
        code = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(60)
"""
        limits = replace(LIMITS, processes=100, wall_seconds=3)
        started = time.monotonic()
        ended, _ = attack(code, tmp_path, isolation, limits=limits)
        # As an ordinary user the kernel refuses the 101st process, and the wall limit ends the rest.
        if os.geteuid() == 0:
            assert ended.killed_for is KilledFor.PROCESSES
            assert time.monotonic() - started < SOON

    def test_zombies_are_reaped_as_they_come(self, tmp_path: Path, isolation: Isolation) -> None:
        code = """
import os, time
from pathlib import Path
for _ in range(50):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)  # an orphan soon: its parent exits as well
        os._exit(0)
    os.wait()
deadline = time.monotonic() + 10
while time.monotonic() < deadline:
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path("/proc").glob("[0-9]*/stat")]
    if "Z" not in states:
        break
    time.sleep(0.05)
print("zombies", states.count("Z"))
"""
        ended, output = attack(code, tmp_path, isolation)
        assert (ended.status, output) == (0, ["zombies 0"])


class TestView:
    """A program sees the system and its own folders, and nothing else."""

    def test_nothing_of_the_farm_is_there(self, tmp_path: Path, isolation: Isolation) -> None:
        own, other = tmp_path / "own", tmp_path / "other"
        for folder in (own / "scratch", own / "output", own / "source", other / "output"):
            folder.mkdir(parents=True)
        (tmp_path / "signing.pem").write_text("secret")
        (own / "source" / "weights").write_text("weights")
        code = f"""
import os
from pathlib import Path
def fate(what, act):
    try:
        act()
        print(what + ": done")
    except FileNotFoundError:
        print(what + ": not there")
    except OSError:
        print(what + ": refused")
fate("read key", Path({str(tmp_path / "signing.pem")!r}).read_text)
fate("write other", (Path({str(other)!r}) / "output" / "x").touch)
fate("write source", (Path({str(own)!r}) / "source" / "x").touch)
fate("read source", (Path({str(own)!r}) / "source" / "weights").read_text)
fate("write output", (Path({str(own)!r}) / "output" / "x").touch)
fate("write temporary", Path("/tmp/x").touch)
fate("write root", Path("/x").touch)
fate("write usr", Path("/usr/x").touch)
fate("read shadow", Path("/etc/shadow").read_text)
fate("set a kernel parameter", lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
fate("open a disk", lambda: os.open("/dev/vda", os.O_RDONLY))
print("processes", sum(name.isdigit() for name in os.listdir("/proc")))
print("home", os.environ["HOME"], "user", os.getuid())
"""
        paths = StagePaths(own / "scratch", writable=(own / "output",), readable=(own / "source",))
        ended, output = attack(code, own / "scratch", isolation, paths=paths)
        assert ended.status == 0, output
        assert output == [
            "read key: not there",
            "write other: not there",
            "write source: refused",
            "read source: done",
            "write output: done",
            "write temporary: done",
            "write root: refused",
            "write usr: refused",
            "read shadow: not there",
            "set a kernel parameter: refused",
            "open a disk: not there",
            "processes 2",
            f"home {own / 'scratch'} user 1000",
        ]
        # On the disk that the limit counts.
        assert list((own / "scratch").glob("tmp*/x"))

    @pytest.mark.parametrize("trap", ["link", "links to mount points", "file", "no permission"])
    def test_an_earlier_program_of_the_stage_does_not_choose_what_is_mounted(
        self, tmp_path: Path, isolation: Isolation, trap: str
    ) -> None:
        """A stage has several programs, and bubblewrap follows links that the first one leaves for the second."""
        farm, scratch = tmp_path / "farm", tmp_path / "attempt" / "scratch"
        farm.mkdir()
        scratch.mkdir(parents=True)
        code = f"""
import os
trap, farm = {trap!r}, {str(farm)!r}
# By relative paths: the scratch folder itself may be mounted below the folder for temporary files.
for folder in {{os.path.basename(os.environ["TMPDIR"]), "tmp"}}:
    if trap in ("link", "file") and os.path.lexists(folder):
        os.rename(folder, folder + "-old")
    if trap == "link":
        os.symlink(farm, folder)
    elif trap == "file":
        open(folder, "w").close()
    elif trap == "links to mount points":
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(folder):
            os.rename(folder + "/" + name, folder + "/" + name + "-old")
        os.symlink("/oldroot" + farm, folder + "/" + {tmp_path.parts[2]!r})
if trap == "no permission":
    os.chmod(".", 0)
"""
        ended, output = attack(code, scratch, isolation)
        assert ended.status == 0, output
        ended, output = attack("open('/tmp/poison', 'w').close(); print('done')", scratch, isolation)
        assert (ended.status, output) == (0, ["done"])
        assert list(farm.iterdir()) == []

    def test_a_gpu_stage_may_write_to_its_own_processes_and_not_to_the_kernels_parameters(
        self, tmp_path: Path, isolation: Isolation
    ) -> None:
        """CUDA names its threads in /proc/self/task. For a worker that runs as root the other files are writable."""
        code = """
import os
from pathlib import Path
Path("/proc/self/comm").write_text("named")
for name in ("sys/kernel/core_pattern", "sys/vm/drop_caches", "irq/default_smp_affinity", "sysrq-trigger"):
    try:
        os.open(f"/proc/{name}", os.O_WRONLY)
        print(name, "is writable")
    except OSError:
        pass
print(Path("/proc/self/comm").read_text())
"""
        ended, output = attack(code, tmp_path, isolation, paths=StagePaths(tmp_path, gpu=True))
        assert ended.status == 0, output
        assert output == ["named", ""]

    def test_the_worker_s_memory_and_namespaces_are_out_of_reach(self, tmp_path: Path, isolation: Isolation) -> None:
        code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def errno_of(name, *arguments):
    ctypes.set_errno(0)
    getattr(libc, name)(*arguments)
    return os.strerror(ctypes.get_errno())
print("unshare:", errno_of("unshare", 0x10000000))
print("mount:", errno_of("mount", b"none", b"/tmp", b"tmpfs", 0, None))
print("ptrace:", errno_of("ptrace", 16, 1, 0, 0))
print("keyctl:", errno_of("syscall", 250, 0, -3, 1))
for name in ("environ", "mem", "fd/0"):
    try:
        os.open(f"/proc/1/{name}", os.O_RDONLY)
        print(name, "opened")
    except OSError as error:
        print(name, error.strerror)
with open("/proc/self/status") as status:
    for line in status:
        if line.startswith(("CapEff", "CapBnd", "NoNewPrivs", "Seccomp:")):
            print(*line.split())
"""
        ended, output = attack(code, tmp_path, isolation)
        assert ended.status == 0, output
        assert output == [
            "unshare: Operation not permitted",
            "mount: Operation not permitted",
            "ptrace: Operation not permitted",
            "keyctl: Operation not permitted",
            "environ Permission denied",
            "mem Permission denied",
            "fd/0 Permission denied",
            "CapEff: 0000000000000000",
            "CapBnd: 0000000000000000",
            "NoNewPrivs: 1",
            "Seccomp: 2",
        ]


def test_a_process_that_sigkill_does_not_end_fails_the_stage_and_frees_the_worker(
    tmp_path: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen cgroup of version 1 holds even SIGKILL back, as a driver that hangs does."""
    if not os.access("/sys/fs/cgroup/freezer/cgroup.procs", os.W_OK):
        pytest.skip("no writable cgroup v1 with a freezer here")
    freezer = Path("/sys/fs/cgroup/freezer", f"test-{os.getpid()}")
    freezer.mkdir()
    marker = f"frozen-{tmp_path}"

    def freeze(_: bytes) -> None:
        for pid in marked(marker):
            (freezer / "cgroup.procs").write_text(str(pid))
        (freezer / "freezer.state").write_text("FROZEN")
        stop.set()

    monkeypatch.setattr(launched, "_DEATH_SECONDS", 0.5)
    stop, started = threading.Event(), time.monotonic()
    try:
        with pytest.raises(Unkillable):
            child.run(
                Command((sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)", marker)),
                paths=StagePaths(tmp_path), limits=LIMITS, stop=stop, on_output=freeze, isolation=isolation,
            )  # fmt: skip
        assert time.monotonic() - started < SOON
    finally:
        (freezer / "freezer.state").write_text("THAWED")
        while (freezer / "cgroup.procs").read_text():
            time.sleep(0.02)
        freezer.rmdir()


def test_a_sandbox_that_breaks_later_starts_no_program(tmp_path: Path, isolation: Isolation) -> None:
    """Nothing fails open."""
    broken = replace(isolation, hidden=())
    marker = tmp_path / "ran"
    paths = StagePaths(tmp_path, writable=(tmp_path,))
    code = f"from pathlib import Path; Path({str(marker)!r}).touch()"
    assert broken.bwrap is not None
    for program in ("/bin/false", "/nowhere/bwrap"):
        without_program = replace(broken, bwrap=replace(broken.bwrap, path=Path(program)))
        with pytest.raises(SandboxBroken):
            attack(code, tmp_path, without_program, paths=paths)
    assert not marker.exists()
