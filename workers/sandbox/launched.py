"""A supervisor that was started, alone or in its sandbox, and waits for the program that it is to run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from io import FileIO
from typing import IO

from workers.sandbox.guard import Guard
from workers.sandbox.isolation import Isolation, Launch
from workers.sandbox.mount_view import StagePaths, identities
from workers.sandbox.supervisor import Ending, Orders

# The supervisor has this much longer than `kill_seconds` to end everything; then the worker kills from outside.
MARGIN_SECONDS = 1.0
_DEATH_SECONDS = 5.0  # for the kernel to end what was killed


class LaunchedSupervisor:
    """The process of one supervisor. It ends with the thread that made this; call `close`.

    The constructor returns before the supervisor is ready: whether it ever is, `report` and `output` tell.

    Args:
        environment: of the supervisor itself; what the program gets is in its orders.
        memory_bytes: limit of the whole stage; needs a delegated cgroup.
        processes: limit of the whole stage, threads included.

    Raises:
        OSError: the stage's cgroup, the folder for temporary files, a pipe or a process cannot be made.
    """

    def __init__(
        self,
        isolation: Isolation,
        paths: StagePaths,
        environment: Mapping[str, str],
        *,
        memory_bytes: int | None = None,
        processes: int | None = None,
    ) -> None:
        self.paths = paths
        self._isolation = isolation
        self._memory_bytes = memory_bytes
        self._is_dead: bool | None = None
        with ExitStack() as stack:
            # The report has a pipe of its own: a program may print anything to the standard streams.
            reading, writing = os.pipe()
            report_file = stack.enter_context(FileIO(reading))
            self.report = Report(report_file)
            report_for_supervisor = stack.enter_context(FileIO(writing, "w"))
            # In memory, so that long orders never wait for a supervisor that does not read them.
            self._orders_file = stack.enter_context(FileIO(os.memfd_create("orders"), "w"))
            self.launch: Launch = stack.enter_context(
                isolation.launch(paths, memory_bytes=memory_bytes, processes=processes)
            )
            self._files = identities(self.launch.mounts)
            self._guard = stack.enter_context(Guard(self.launch))
            descriptors = [writing, self._orders_file.fileno()]
            seccomp_fd = -1 if self.launch.seccomp_fd is None else self.launch.seccomp_fd
            arguments = map(str, (*descriptors, seccomp_fd, int(self.launch.leave_network)))
            self._process = subprocess.Popen(
                # -I and -S: neither the environment nor site-packages decide what the supervisor imports.
                [*self.launch.prefix, sys.executable, "-I", "-S", str(self.launch.supervisor), *arguments],
                cwd=paths.scratch,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(*descriptors, *(file.fileno() for file in self.launch.inherited)),
                start_new_session=True,
            )
            # Only the supervisor may hold the writing end: then its death ends the read of the report.
            report_for_supervisor.close()
            stack.callback(self.end)
            self._guard.watch(self._process)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End it, and remove the stage's cgroup."""
        self._stack.close()

    @property
    def output(self) -> IO[bytes]:
        """Both output streams of the supervisor and of the program."""
        assert self._process.stdout is not None
        return self._process.stdout

    def order(self, orders: Orders) -> None:
        """Let the supervisor run its program. A supervisor that did not start gets no orders."""
        assert self._process.stdin is not None
        self._orders_file.write(orders.dump())
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def lease_renewed(self, at: float) -> None:
        """Let the program go on: the lease was renewed at this time of the monotonic clock. From any thread."""
        assert self._process.stdin is not None
        # ValueError: the program has been stopped.
        with suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(b"%f\n" % at)
            self._process.stdin.flush()

    def stop(self) -> None:
        """Tell the supervisor to end the program, and itself."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def end(self) -> bool:
        """Stop the supervisor, and kill from outside what it does not end; False if a process does not die."""
        if self._is_dead is None:
            self.stop()
            # It has ended everything by now, unless a program stopped or killed it.
            self._is_dead = self._guard.wait(MARGIN_SECONDS)
            if not self._is_dead:
                self._guard.kill()
                self._is_dead = self._guard.wait(_DEATH_SECONDS)
            self.output.close()
        return self._is_dead

    def oom_kills(self) -> int:
        """How many processes of the stage's cgroup the kernel killed for their memory limit; 0 without a cgroup."""
        return 0 if self.launch.cgroup is None else self.launch.cgroup.oom_kills()

    def is_current(self) -> bool:
        """True if it is ready for its orders, and a sandbox that is made now would show the same files."""
        self.report.read()
        if not self.report.started or self._process.poll() is not None:
            return False
        mounts = self._isolation.mounts(self.paths, temporary=self.launch.temporary, memory_bytes=self._memory_bytes)
        return identities(mounts) == self._files


class Report:
    """Reads the supervisor's report, line by line."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._content = b""
        self.finished = False  # the supervisor wrote all of it, or is dead
        os.set_blocking(file.fileno(), False)

    def fileno(self) -> int:
        """For select()."""
        return self._file.fileno()

    def read(self) -> None:
        """Read what is there, without waiting."""
        while not self.finished:
            piece = self._file.read(4096)
            if piece is None:
                return
            self._content += piece
            self.finished = not piece or self._content.count(b"\n") == 2

    @property
    def started(self) -> bool:
        """True if the supervisor started, in the sandbox."""
        return b"\n" in self._content

    @property
    def ending(self) -> Ending | None:
        """How the program ended; None if the supervisor did not say it."""
        lines = self._content.split(b"\n")
        return Ending.load(lines[1]) if len(lines) == 3 else None
