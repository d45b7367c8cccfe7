"""Supervisor: starts a toolchain's program, and kills all that it started when it ends or the worker says so.

    python -I -S supervisor.py REPORT ORDERS FILTER NETWORK

In the sandbox it is process 1 of a PID namespace: the kernel lets no signal from inside stop or kill it, every orphan
becomes its child, and its own end kills every process of the namespace. Outside the sandbox (`ENGINEFARM_SANDBOX=auto`
on a machine that lacks something, or `off`) it adopts orphans as a subreaper, and a program can kill it.

It may start before it is needed: it waits until the worker writes a newline to its stdin, and then reads its `Orders`
from the descriptor ORDERS. REPORT and FILTER are descriptors, too; FILTER is -1 if the filter is in force already,
and NETWORK is 1 if the supervisor itself has to leave the machine's network.

The program runs in its own process group. When the supervisor's stdin closes (the worker closes it to stop the program,
and the kernel closes it when the worker dies), the group gets SIGTERM, and everything gets SIGKILL after KILL_SECONDS.
The same happens if the worker does not write for long that it has renewed its lease: a frozen worker is not dead.
Two lines go to REPORT: `ready` before it waits for its orders, and an `Ending` after the program ended.

It imports a few modules of the standard library only: it starts in milliseconds, and its memory holds no secret of the
worker. Each of subprocess, json, contextlib and dataclasses would take longer to load than all that it does load.
"""

import ctypes
import marshal
import os
import resource
import select
import signal
import struct
import sys
import time

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
    """What the worker wants. `workers.sandbox.launched` writes it, and the supervisor reads it."""

    def __init__(
        self,
        argv: list[str],
        environment: dict[str, str],
        kill_seconds: float,
        *,
        processes: int | None = None,  # most processes and threads of the stage at once
        file_bytes: int | None = None,  # longest file
        renewal_seconds: float | None = None,  # longest time between two renewals of the worker's lease
    ) -> None:
        self.argv = argv
        self.environment = environment
        self.kill_seconds = kill_seconds
        self.processes = processes
        self.file_bytes = file_bytes
        self.renewal_seconds = renewal_seconds

    def dump(self) -> bytes:
        # Both ends are this file in one interpreter, and marshal is the only format that needs no import.
        return marshal.dumps(vars(self))

    @classmethod
    def load(cls, descriptor: int) -> "Orders":
        """Read and close the file that only the worker can write."""
        with open(descriptor, "rb") as file:
            file.seek(0)
            return cls(**marshal.loads(file.read()))  # noqa: S302  # the worker's


class Ending:
    """How the program ended: the second line of the report."""

    def __init__(self, status: int, peak_memory: int, *, oom_killed: bool, too_many_processes: bool) -> None:
        self.status = status  # as `subprocess` has it
        self.peak_memory = peak_memory  # bytes
        self.oom_killed = oom_killed
        self.too_many_processes = too_many_processes

    def dump(self) -> bytes:
        numbers = (self.status, self.peak_memory, int(self.oom_killed), int(self.too_many_processes))
        return b"%d %d %d %d\n" % numbers

    @classmethod
    def load(cls, line: bytes) -> "Ending":
        status, peak_memory, oom_killed, too_many_processes = map(int, line.split())
        return cls(status, peak_memory, oom_killed=bool(oom_killed), too_many_processes=bool(too_many_processes))


class Supervisor:
    """One program and everything that it starts."""

    def __init__(self, report_fd: int) -> None:
        self.report_fd = report_fd
        self.orders = Orders([], {}, 0.0)
        self.pid = 0
        self.status: int | None = None  # of the program, as `subprocess` has it
        self.too_many_processes = False

    def run(self, orders_fd: int, seccomp_fd: int, *, leaves_network: bool) -> None:
        """Wait for the orders, run the program, and report how it ended.

        Returns when no process of the program is alive, or at once if the worker closes stdin and gives no orders.
        """
        if leaves_network:
            leave_network()
        # No process of this user may read this one's memory and descriptors, or trace it.
        prctl(PR_SET_DUMPABLE, 0)
        # Orphans of the program become children of this process instead of init's. Process 1 has them anyway.
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        if seccomp_fd >= 0:
            install_filter(seccomp_fd)
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
        self._report(b"ready\n")
        if os.read(0, 1) != b"\n":
            return
        self.orders = Orders.load(orders_fd)
        oom_kills_before = _oom_kills()
        self.pid = os.fork()
        if self.pid == 0:
            self._become_program()
        self._wait_for_end(wake)
        # Before the report: the worker may reuse the folder as soon as it reads one.
        kill_everything()
        assert self.status is not None
        # ru_maxrss is in KiB on Linux, and covers all children that were reaped.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        # SIGKILL alone proves nothing: the machine's count of kills for memory must have grown meanwhile.
        oom_killed = self.status == -signal.SIGKILL and _oom_kills() > oom_kills_before
        ending = Ending(self.status, peak, oom_killed=oom_killed, too_many_processes=self.too_many_processes)
        self._report(ending.dump())

    def _wait_for_end(self, wake: int) -> None:
        """Wait until the program ends, and stop it when stdin closes, the lease ends or it has too many processes."""
        descriptors = [wake, 0]
        deadline: float | None = None
        lease_ends = None
        if self.orders.renewal_seconds is not None:
            lease_ends = time.monotonic() + self.orders.renewal_seconds
        # In a /proc of its own: outside the sandbox it would count the whole machine.
        counts = self.orders.processes is not None and os.getpid() == 1
        while True:
            self._reap()
            if self.status is not None:
                return
            timeout = _COUNT_SECONDS if counts else None
            next_end = lease_ends if deadline is None else deadline
            if next_end is not None:
                left = max(0.0, next_end - time.monotonic())
                timeout = left if timeout is None else min(left, timeout)
            readable, _, _ = select.select(descriptors, [], [], timeout)
            if wake in readable:
                try:
                    os.read(wake, 4096)
                except BlockingIOError:
                    pass
            stops = deadline is None and lease_ends is not None and time.monotonic() >= lease_ends
            if 0 in readable:
                renewals = os.read(0, 1 << 16)
                if not renewals:
                    # A closed stdin stays readable forever: select() must not return for it again.
                    descriptors = [wake]
                    stops = True
                elif self.orders.renewal_seconds is not None:
                    # The clock is the same in all processes of a machine.
                    lease_ends = float(renewals.split()[-1]) + self.orders.renewal_seconds
                    stops = False
            if stops and deadline is None:
                deadline = time.monotonic() + self.orders.kill_seconds
                try:
                    os.killpg(self.pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass  # it has ended, or leads no group yet and ends at the deadline
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

    def _become_program(self) -> None:
        """In the forked child: take the limits, and become the program. Status 127 if it cannot be started."""
        argv = self.orders.argv
        try:
            os.setsid()
            # Ends with the supervisor.
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            # Signals that are ignored stay so across exec: Python ignores the last two, of broken pipes and long files.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if self.orders.file_bytes is not None:
                _limit(resource.RLIMIT_FSIZE, self.orders.file_bytes)
            # The kernel counts processes of a user namespace, but not those of the machine's root.
            if self.orders.processes is not None and os.getppid() == 1:
                _limit(resource.RLIMIT_NPROC, self.orders.processes)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            # The report's descriptor is among them.
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            os.execvpe(argv[0], argv, self.orders.environment)  # noqa: S606  # no shell is wanted
        except OSError as error:
            os.write(2, f"cannot start {argv[0]}: {error.strerror}\n".encode(errors="backslashreplace"))
        except Exception as error:  # noqa: BLE001  # whatever it is, the program must not start without its limits
            os.write(2, f"cannot start {argv[0]}: {error}\n".encode(errors="backslashreplace"))
        finally:
            # 127 is what a shell reports for a command that cannot be started.
            os._exit(127)

    def _report(self, line: bytes) -> None:
        try:
            os.write(self.report_fd, line)
        except BrokenPipeError:
            pass  # the worker is dead, and no process reads the report


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
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return
    own_pid = os.getpid()
    while True:
        children = children_of(own_pid)
        if not children:
            return
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        # Each death may turn grandchildren into children: reap one, then list them again.
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            pass


def stat_fields(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat behind the command name: state, parent and so on.

    Raises:
        OSError: there is no such process any more.
    """
    with open(f"/proc/{pid}/stat", "rb") as stat:
        # The name in parentheses may contain any bytes, parentheses too; the fields behind it do not.
        return stat.read().rpartition(b")")[2].split()


def children_of(parent: int) -> list[int]:
    """The process ids of the children of a process, zombies included.

    /proc/PID/task/TID/children is no substitute: the kernel may leave children out of it while others end.
    """
    children = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(stat_fields(int(name))[1]) == parent:
                children.append(int(name))
        except OSError:
            pass  # it ended between the listing and the reading
    return children


def _tasks() -> int:
    """The number of processes and threads that /proc shows."""
    tasks = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            # A folder has one link for each folder in it, plus two.
            tasks += os.stat(f"/proc/{name}/task").st_nlink - 2
        except OSError:
            pass  # it ended between the listing and this
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
    _report_fd, _orders_fd, _seccomp_fd, _leaves_network = map(int, sys.argv[1:])
    Supervisor(_report_fd).run(_orders_fd, _seccomp_fd, leaves_network=bool(_leaves_network))
    # Nothing is left to clean up, and the worker waits for the end: the interpreter would take milliseconds over it.
    os._exit(0)
