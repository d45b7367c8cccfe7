"""Supervisor: kills the program's process tree when the worker closes stdin or dies.

    python -I -S supervisor.py REPORT_FD KILL_SECONDS online|offline PROGRAM ARGUMENT…

The program runs in its own process group. When the supervisor's stdin closes (the worker closes it to stop the
program, and the kernel closes it when the worker dies), the whole group gets SIGTERM, then SIGKILL after KILL_SECONDS.
The supervisor adopts every orphan of the program, so that it also kills a process which left the group. It writes the
result to REPORT_FD as JSON: {"status", "peak_memory" (bytes), "oom_killed"}.

It imports the standard library only: it starts in milliseconds, and its memory holds no secret of the worker.
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

# Values of Linux headers (prctl.h, sched.h, sockios.h, if.h): the standard library of Python 3.11 names none of them.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
libc = ctypes.CDLL(None, use_errno=True)
prctl = libc.prctl


def main(report_fd: int, kill_seconds: float, argv: list[str], *, offline: bool) -> None:
    """Run the program `argv`, and report how it ended. Returns when no process of the program is alive."""
    if offline:
        leave_network()
    # Orphans of the program become children of this process instead of init's: `kill_descendants` finds them.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    # A wakeup pipe lets one select() wait for the end of the program and for the end of the worker.
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    # Python writes to the wakeup pipe only for signals that have a handler.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Only the end of stdin stops the program: the worker decides what Ctrl-C in a terminal means.
        signal.signal(number, signal.SIG_IGN)
    oom_kills = _oom_kills()
    try:
        program = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=prepare_program,
        )
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        # 127 is what a shell reports for a command that cannot be started.
        _report(report_fd, status=127, oom_killed=False)
        return
    status = wait_for_end(program, wake, kill_seconds)
    # Before the report: the worker may reuse the folder as soon as it reads one.
    kill_descendants()
    # SIGKILL alone proves nothing: the machine's count of kills for memory must have grown meanwhile.
    _report(report_fd, status=status, oom_killed=status == -signal.SIGKILL and _oom_kills() > oom_kills)


def leave_network() -> None:
    """Move this process into a network namespace of its own, whose only interface is a loopback.

    On a machine that allows no user namespaces the program keeps the network, and its log says so.
    """
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        print("[farm] with network: this machine allows no network namespaces", flush=True)
        return
    # Map the user and the group to themselves, so that files which the program writes keep their owner.
    # The kernel accepts a group map of an unprivileged process only after setgroups is denied.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    # The loopback of a new namespace is down, and the ranks of one program talk over it.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def wait_for_end(program: "subprocess.Popen[bytes]", wake: int, kill_seconds: float) -> int:
    """Wait until the program ends, and stop it when stdin closes. Returns its status as `Popen.returncode` has it."""
    descriptors = [wake, 0]
    deadline: float | None = None
    while True:
        timeout = None
        if deadline is not None:
            timeout = max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select(descriptors, [], [], timeout)
        if wake in readable:
            os.read(wake, 4096)
        status = program.poll()
        if status is not None:
            return status
        if 0 in readable and not os.read(0, 4096):
            # A closed stdin stays readable forever: select() must not return for it again.
            descriptors = [wake]
            deadline = time.monotonic() + kill_seconds
            _signal_group(program.pid, signal.SIGTERM)
        if deadline is not None and time.monotonic() >= deadline:
            _signal_group(program.pid, signal.SIGKILL)
            # A process in an uninterruptible system call of a driver dies only later: repeat once a second.
            deadline = time.monotonic() + 1.0


def kill_descendants() -> None:
    """Kill and reap every process that the program started and left running, in whatever session it is."""
    own_pid = os.getpid()
    while True:
        children = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            # A process may end between the listing and the reading.
            with suppress(OSError):
                # The command name in parentheses may contain spaces and parentheses; the fields behind it do not.
                if int(stat.read_text().rpartition(")")[2].split()[1]) == own_pid:
                    children.append(int(stat.parent.name))
        if not children:
            return
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Each death may turn grandchildren into children: reap one, then list them again.
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def prepare_program() -> None:
    """In the forked child, before exec: die with the supervisor, and react to signals again.

    Ignored signals stay ignored across exec, so that SIGTERM would not end the program.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _oom_kills() -> int:
    """The number of kills for memory on this machine since it booted, those of cgroup limits included."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def _report(fd: int, *, status: int, oom_killed: bool) -> None:
    # ru_maxrss is in KiB on Linux, and covers all children that were reaped.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    # The worker may be dead: then no process reads the report.
    with suppress(BrokenPipeError):
        os.write(fd, json.dumps({"status": status, "peak_memory": peak, "oom_killed": oom_killed}).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[4:], offline=sys.argv[3] == "offline")
