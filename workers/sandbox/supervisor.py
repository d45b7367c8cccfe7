"""Supervisor: starts a toolchain's program, and kills all that it started when it ends or the worker says so.

    python -I -S supervisor.py ORDERS PROGRAM ARGUMENT…

In the sandbox it is process 1 of a PID namespace: the kernel lets no signal from inside stop or kill it, every orphan
becomes its child, and its own end kills every process of the namespace. Outside the sandbox (`ENGINEFARM_SANDBOX=auto`
on a machine that lacks something, or `off`) it adopts orphans as a subreaper, and a program can kill it.

The program runs in its own process group. When the supervisor's stdin closes (the worker closes it to stop the program,
and the kernel closes it when the worker dies), the group gets SIGTERM, and everything gets SIGKILL after KILL_SECONDS.
ORDERS is JSON, see `Orders`. Two lines of JSON go to the descriptor `report_fd`: {"started": true} before the program
starts, and {"status", "peak_memory" (bytes), "oom_killed", "too_many_processes"} after it ended.

It imports a few modules of the standard library only: it starts in milliseconds, and its memory holds no secret of the
worker. dataclasses, pathlib and socket would double the time of its start.
"""

import ctypes
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress

# Values of Linux headers (prctl.h, sched.h, sockios.h, if.h): the standard library of Python 3.11 names none of them.
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
libc = ctypes.CDLL(None, use_errno=True)
prctl = libc.prctl

_COUNT_SECONDS = 0.2  # between two counts of the processes


class Orders:
    """What the worker wants. `workers.child` writes it, and the supervisor reads it."""

    def __init__(
        self,
        report_fd: int,
        kill_seconds: float,
        *,
        processes: int | None = None,  # most processes and threads of the stage at once
        file_bytes: int | None = None,  # longest file
        # Outside the sandbox the supervisor does a part of bubblewrap's work.
        seccomp_fd: int | None = None,
        leave_network: bool = False,
    ) -> None:
        self.report_fd = report_fd
        self.kill_seconds = kill_seconds
        self.processes = processes
        self.file_bytes = file_bytes
        self.seccomp_fd = seccomp_fd
        self.leave_network = leave_network

    def dump(self) -> str:
        """As JSON, for the command line."""
        return json.dumps(vars(self))


class Supervisor:
    """One program and everything that it starts."""

    def __init__(self, orders: Orders, argv: list[str]) -> None:
        self.orders = orders
        self.argv = argv
        self.pid = 0
        self.status: int | None = None  # of the program, as `subprocess` has it
        self.too_many_processes = False
        self._oom_kills_before = 0

    def run(self) -> None:
        """Run the program, and report how it ended. Returns when no process of the program is alive."""
        orders = self.orders
        if orders.leave_network:
            leave_network()
        # No process of this user may read this one's memory and descriptors, or trace it.
        prctl(PR_SET_DUMPABLE, 0)
        # Orphans of the program become children of this process instead of init's. Process 1 has them anyway.
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        if orders.seccomp_fd is not None:
            install_filter(orders.seccomp_fd)
        # A wakeup pipe lets one select() wait for the end of the program and for the end of the worker.
        wake, waker = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        # Python writes to the wakeup pipe only for signals that have a handler.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Only the end of stdin stops the program: the worker decides what Ctrl-C in a terminal means.
            signal.signal(number, signal.SIG_IGN)
        self._oom_kills_before = _oom_kills()
        self._report({"started": True})
        try:
            program = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=self._prepare_program
            )
        except OSError as error:
            print(f"cannot start {self.argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
            # 127 is what a shell reports for a command that cannot be started.
            self.status = 127
        else:
            self.pid = program.pid
            self._wait_for_end(wake)
            # Before the report: the worker may reuse the folder as soon as it reads one.
            kill_everything()
        self._report_end()

    def _wait_for_end(self, wake: int) -> None:
        """Wait until the program ends, and stop it when stdin closes or it has too many processes."""
        descriptors = [wake, 0]
        deadline: float | None = None
        # In a /proc of its own: outside the sandbox it would count the whole machine.
        counts = self.orders.processes is not None and os.getpid() == 1
        while True:
            self._reap()
            if self.status is not None:
                return
            timeout = _COUNT_SECONDS if counts else None
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic())
                timeout = left if timeout is None else min(left, timeout)
            readable, _, _ = select.select(descriptors, [], [], timeout)
            if wake in readable:
                with suppress(BlockingIOError):
                    os.read(wake, 4096)
            if 0 in readable and not os.read(0, 4096):
                # A closed stdin stays readable forever: select() must not return for it again.
                descriptors = [wake]
                deadline = time.monotonic() + self.orders.kill_seconds
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGTERM)
            if counts and _tasks() > (self.orders.processes or 0):
                # At once: what forks without end is not asked to end.
                self.too_many_processes = True
                deadline = time.monotonic()
            if deadline is not None and time.monotonic() >= deadline:
                kill_everything()
                # A process in an uninterruptible system call of a driver dies only later: repeat once a second.
                deadline = time.monotonic() + 1.0

    def _reap(self) -> None:
        """Reap every child that has ended, orphans of the program too, so that no zombie keeps a process id."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # `kill_everything` may have reaped the program itself.
                if self.status is None:
                    self.status = -signal.SIGKILL
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.status = os.waitstatus_to_exitcode(status)

    def _prepare_program(self) -> None:
        """In the forked child, before exec: die with the supervisor, react to signals again, and take the limits.

        Ignored signals stay ignored across exec, so that SIGTERM would not end the program.
        """
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self.orders.file_bytes is not None:
            _limit(resource.RLIMIT_FSIZE, self.orders.file_bytes)
        # The kernel counts processes of a user namespace, but not those of the machine's root.
        if self.orders.processes is not None and os.getppid() == 1:
            _limit(resource.RLIMIT_NPROC, self.orders.processes)

    def _report_end(self) -> None:
        # ru_maxrss is in KiB on Linux, and covers all children that were reaped.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        # SIGKILL alone proves nothing: the machine's count of kills for memory must have grown meanwhile.
        oom_killed = self.status == -signal.SIGKILL and _oom_kills() > self._oom_kills_before
        self._report(
            {
                "status": self.status,
                "peak_memory": peak,
                "oom_killed": oom_killed,
                "too_many_processes": self.too_many_processes,
            }
        )

    def _report(self, document: dict[str, object]) -> None:
        # The worker may be dead: then no process reads the report.
        with suppress(BrokenPipeError):
            os.write(self.orders.report_fd, json.dumps(document).encode() + b"\n")


def leave_network() -> None:
    """Move this process into a network namespace of its own, whose only interface is a loopback.

    Raises:
        OSError: this machine allows no network namespaces. The program must not start then.
    """
    import fcntl
    import socket

    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    # Map the user and the group to themselves, so that files which the program writes keep their owner.
    # The kernel accepts a group map of an unprivileged process only after setgroups is denied.
    maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    for name, content in maps.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)
    # The loopback of a new namespace is down, and the ranks of one program talk over it.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def install_filter(descriptor: int) -> None:
    """Put the seccomp filter in the file `descriptor` on this process and all that it starts.

    Raises:
        OSError: the kernel refuses it. The program must not start then.
    """
    with os.fdopen(descriptor, "rb") as file:
        program = file.read()
    # struct sock_fprog: the number of instructions, of 8 bytes each, and a pointer to them.
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    # Without this the kernel accepts a filter from root only. It also makes setuid programs harmless.
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header):
        raise OSError(ctypes.get_errno(), "prctl")


def kill_everything() -> None:
    """Kill every process that the program started and left running, in whatever session it is."""
    if os.getpid() == 1:
        # One call kills all at once, so that nothing forks away. The kernel waits for them when this process ends.
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        return
    own_pid = os.getpid()
    while True:
        children = children_of(own_pid)
        if not children:
            return
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Each death may turn grandchildren into children: reap one, then list them again.
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


def children_of(parent: int) -> list[int]:
    """The process ids of the children of a process, zombies included."""
    children = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        # A process may end between the listing and the reading.
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
            # The command name in parentheses may contain any bytes, parentheses too; the fields behind it do not.
            if int(stat.read().rpartition(b")")[2].split()[1]) == parent:
                children.append(int(name))
    return children


def _tasks() -> int:
    """The number of processes and threads that /proc shows."""
    tasks = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        # A process may end between the listing and this. A folder has one link for each folder in it, plus two.
        with suppress(OSError):
            tasks += os.stat(f"/proc/{name}/task").st_nlink - 2
    return tasks


def _limit(which: int, most: int) -> None:
    """Lower a limit; never raise it, which the kernel would refuse."""
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(which, (most, most))


def _oom_kills() -> int:
    """The number of kills for memory on this machine since it booted, those of cgroup limits included."""
    with open("/proc/vmstat") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    Supervisor(Orders(**json.loads(sys.argv[1])), sys.argv[2:]).run()
