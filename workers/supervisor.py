"""Stands between a worker and a toolchain's program, and dies with neither of them.

    python -I -S guard.py REPORT_FD KILL_SECONDS online|offline PROGRAM ARGUMENT…

The program runs in its own process group. When the worker closes our stdin (because it wants the program to
stop, or because it was killed), the whole group gets SIGTERM, then SIGKILL. We are the reaper of everything
the program starts, so that a child which left the group is found and ended too. How it ended is written to
REPORT_FD as JSON: {"status", "peak_memory" (bytes), "oom_killed"}.

Standard library only: it starts in milliseconds and has nothing of the worker in it.
"""

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
libc = ctypes.CDLL(None, use_errno=True)
prctl = libc.prctl


def main(report_fd: int, kill_seconds: float, argv: list[str], *, offline: bool) -> None:
    if offline:
        _leave_network()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only our stdin says stop: a terminal's Ctrl-C is the worker's to handle
    oom_kills = _oom_kills()
    try:
        program = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_unguarded_never,
        )
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        _report(report_fd, status=127, oom_killed=False)
        return
    status = _wait(program, wake, kill_seconds)
    _end_descendants()
    _report(report_fd, status=status, oom_killed=status == -signal.SIGKILL and _oom_kills() > oom_kills)


def _leave_network() -> None:
    """Into a network namespace of our own, which has a loopback and nothing else. A machine that allows no user
    namespaces keeps us where we are."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        print("[farm] with network: this machine allows no network namespaces", flush=True)
        return
    # Files keep their owner: we are who we were.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def _wait(program: "subprocess.Popen[bytes]", wake: int, kill_seconds: float) -> int:
    """Until the program ends by itself, or until we have ended it because our stdin was closed."""
    watched, deadline = [wake, 0], None
    while True:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], timeout)
        if wake in ready:
            os.read(wake, 4096)
        if (status := program.poll()) is not None:
            return status
        if 0 in ready and not os.read(0, 4096):
            watched, deadline = [wake], time.monotonic() + kill_seconds
            _signal_group(program.pid, signal.SIGTERM)
        if deadline is not None and time.monotonic() >= deadline:
            _signal_group(program.pid, signal.SIGKILL)
            deadline = time.monotonic() + 1.0


def _end_descendants() -> None:
    """Kill and reap whatever is left: orphans come to us, however they detached themselves."""
    while children := _children():
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _children() -> list[int]:
    mine = os.getpid()
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name in parentheses may hold anything; what follows it does not.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == mine:
                found.append(int(stat.parent.name))
    return found


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _unguarded_never() -> None:
    """In the program, before it starts: die with the guard, and hear signals again."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _oom_kills() -> int:
    """Kills for memory on this machine since it started, cgroup limits included."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def _report(fd: int, *, status: int, oom_killed: bool) -> None:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    with suppress(BrokenPipeError):  # the worker is gone: nobody is left to tell
        os.write(fd, json.dumps({"status": status, "peak_memory": peak, "oom_killed": oom_killed}).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[4:], offline=sys.argv[3] == "offline")
