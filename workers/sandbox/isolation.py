"""The isolation that this worker gives its stages: chosen once at the start, and the same for every program after it.

Nothing fails open: if a part that was in force at the start is missing later, the program does not start.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Literal

from workers.sandbox import mount_view, seccomp, supervisor
from workers.sandbox.bubblewrap import Bubblewrap
from workers.sandbox.cgroup import Cgroups, StageCgroup
from workers.sandbox.mount_view import StagePaths

Mode = Literal["required", "auto", "off"]

# What `Bubblewrap.argv` puts in force.
_NAMESPACES = ("mount", "user", "pid", "network", "ipc", "uts", "cgroup")
COMPLETE = "sandbox"  # the first name of a complete sandbox

# The kernel prefers to kill a stage's programs when the machine's memory is full. The shell enters the cgroup itself,
# so that no program ever runs outside it.
_ENTER = 'echo 300 2>/dev/null >/proc/self/oom_score_adj; [ -z "$0" ] || echo 0 >"$0" || exit 1; exec "$@"'


@dataclass(frozen=True)
class Launch:
    """How to start the supervisor of one program."""

    prefix: list[str]  # of its command line
    supervisor: Path
    temporary: Path  # the program's folder for temporary files: new, and in the scratch folder
    inherited: tuple[FileIO, ...] = ()  # the started process gets them; close them here then
    info: FileIO | None = None  # where bubblewrap writes the id of process 1; None without bubblewrap
    seccomp_fd: int | None = None  # for the supervisor itself; None if bubblewrap has it
    leave_network: bool = False
    cgroup: StageCgroup | None = None
    mounts: tuple[str, ...] = ()  # arguments of bubblewrap


@dataclass(frozen=True)
class Isolation:
    """What isolates a stage's programs from the worker, the farm and each other.

    `bwrap` is None without the sandbox: then the supervisor alone guards the programs, and `obstacle` says why.
    """

    bwrap: Bubblewrap | None = None
    hidden: tuple[Path, ...] = ()
    cgroups: Cgroups | None = None
    obstacle: str = ""
    machine: seccomp.Machine | None = None  # whose system calls the seccomp filter names; None: no filter
    leaves_network: bool = False  # without bubblewrap

    @property
    def complete(self) -> bool:
        """True if foreign code may run in it."""
        return self.bwrap is not None and self.machine is not None

    @property
    def in_force(self) -> tuple[str, ...]:
        """The names of what is in force, for the records of attempts and engines."""
        names: list[str] = []
        if self.complete and self.bwrap is not None:
            version = ".".join(map(str, self.bwrap.version))
            names += [COMPLETE, f"bubblewrap {version}", *_NAMESPACES]
        elif self.leaves_network:
            names += ["network"]
        if self.machine is not None:
            names += ["seccomp", "no-new-privileges", "rlimits"]
        if self.cgroups is not None:
            names += [f"cgroup {controller}" for controller in (*self.cgroups.controllers, "kill")]
        # Not empty: an empty list is that of a worker of an earlier release, which recorded nothing.
        return tuple(names) or ("none",)

    @contextmanager
    def launch(
        self, paths: StagePaths, *, memory_bytes: int | None = None, processes: int | None = None
    ) -> Iterator[Launch]:
        """Prepare the start of one program; close what was opened for it, and remove its cgroup.

        Raises:
            OSError: the stage's cgroup or the folder for temporary files cannot be made.
        """
        # An earlier program of the stage may have taken the permission to write.
        paths.scratch.chmod(0o700)
        # Never the folder of an earlier program: bubblewrap follows links outside of the sandbox. A link in place of
        # the folder would show /tmp as another folder of the machine, and links in it would lead mount points away.
        temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=paths.scratch))
        with ExitStack() as stack:
            stage_cgroup = None
            entrance = ""
            if self.cgroups is not None:
                stage_cgroup = self.cgroups.stage(memory_bytes=memory_bytes, processes=processes)
                stack.callback(stage_cgroup.remove)
                entrance = str(stage_cgroup.entrance)
            launch = Launch(
                ["/bin/sh", "-c", _ENTER, entrance], Path(supervisor.__file__), temporary, cgroup=stage_cgroup
            )
            if self.machine is None:
                yield replace(launch, leave_network=self.leaves_network)
                return
            program = seccomp.program(self.machine, deny_process_memory=self.bwrap is None)
            filter_file = stack.enter_context(FileIO(seccomp.open_program(program)))
            if self.bwrap is None:
                yield replace(
                    launch,
                    inherited=(filter_file,),
                    seccomp_fd=filter_file.fileno(),
                    leave_network=self.leaves_network,
                )
                return
            reading, writing = os.pipe()
            info = stack.enter_context(FileIO(reading))
            info_for_bwrap = stack.enter_context(FileIO(writing, "w"))
            mounts = self.mounts(paths, temporary=temporary, memory_bytes=memory_bytes)
            argv = self.bwrap.argv(seccomp_fd=filter_file.fileno(), info_fd=info_for_bwrap.fileno(), mounts=mounts)
            yield replace(
                launch,
                prefix=[*launch.prefix, *argv],
                supervisor=mount_view.SUPERVISOR,
                inherited=(filter_file, info_for_bwrap),
                info=info,
                mounts=tuple(mounts),
            )

    def mounts(self, paths: StagePaths, *, temporary: Path, memory_bytes: int | None) -> list[str]:
        """The mounts of a sandbox that is made now, as arguments of bubblewrap."""
        return mount_view.arguments(
            paths, self.hidden, temporary=temporary, supervisor=Path(supervisor.__file__), environment=os.environ,
            shared_memory=memory_bytes,
        )  # fmt: skip
