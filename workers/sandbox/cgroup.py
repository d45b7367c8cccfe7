"""Limits of memory and processes by cgroup v2, where the host delegates a subtree to the worker.

Delegated means: the worker may write to its own cgroup, and that cgroup has the controllers `memory` and `pids`.
systemd does so with `Delegate=memory pids` in the worker's unit. A cgroup with controllers for its children may hold no
process itself, so the worker moves into a child of its own; each stage gets another child.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CONTROLLERS = ("memory", "pids")
_REMOVE_SECONDS = 2.0


@dataclass(frozen=True)
class StageCgroup:
    """The cgroup of one stage. The process that is to run in it writes 0 to `entrance`."""

    path: Path

    @property
    def entrance(self) -> Path:
        return self.path / "cgroup.procs"

    def kill(self) -> None:
        """Kill every process in it at once."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def oom_kills(self) -> int:
        """How many processes the kernel killed for the memory limit; 0 without a memory controller."""
        with contextlib.suppress(OSError):
            for line in (self.path / "memory.events").read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def remove(self) -> None:
        """Kill what is left, and remove the cgroup; a process that cannot die keeps it."""
        self.kill()
        deadline = time.monotonic() + _REMOVE_SECONDS
        while time.monotonic() < deadline:
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                # EBUSY until the last process has left.
                time.sleep(0.01)
            else:
                return


@dataclass(frozen=True)
class Cgroups:
    """The worker's delegated cgroup, with `controllers` for the stages below it."""

    root: Path
    controllers: tuple[str, ...]

    def stage(self, *, memory_bytes: int | None, processes: int | None) -> StageCgroup:
        """Make the cgroup of a stage, with its limits.

        Raises:
            OSError: the host withdrew the delegation. The stage must not run without its limits.
        """
        path = self.root / f"stage-{secrets.token_hex(4)}"
        path.mkdir()
        cgroup = StageCgroup(path)
        try:
            if "memory" in self.controllers and memory_bytes is not None:
                (path / "memory.max").write_text(str(memory_bytes))
                # The limit would otherwise push memory into swap first, and slow the machine down.
                swap = path / "memory.swap.max"
                if swap.exists():
                    swap.write_text("0")
            if "pids" in self.controllers and processes is not None:
                (path / "pids.max").write_text(str(processes))
        except OSError:
            cgroup.remove()
            raise
        return cgroup


def delegated() -> Cgroups | None:
    """The cgroup v2 that the host delegates to this worker, prepared for stages; None if it delegates none."""
    own = own_cgroup()
    if own is None or not os.access(own, os.W_OK) or not os.access(own / "cgroup.procs", os.W_OK):
        return None
    try:
        return prepare(own)
    except OSError:
        # Writable by its mode, yet refused: another process is in it, or the container's cgroup is read-only.
        return None


def own_cgroup() -> Path | None:
    """The folder of the cgroup v2 that this process is in; None without one."""
    mount_point = None
    for line in _MOUNTS.read_text().splitlines():
        fields, _, source = line.partition(" - ")
        if source.split()[0] == "cgroup2":
            mount_point = Path(fields.split()[4])
    if mount_point is None:
        return None
    for line in _MEMBERSHIP.read_text().splitlines():
        hierarchy, _, name = line.split(":", 2)
        path = mount_point / name.removeprefix("/")
        # The machine's root cgroup lacks this file, and nobody delegates it. A container's root has the file.
        if hierarchy == "0" and (path / "cgroup.events").exists():
            return path
    return None


def prepare(own: Path) -> Cgroups:
    """Move this process into a child of `own`, and turn on the controllers for the stages.

    Raises:
        OSError: the kernel refuses a step.
    """
    available = (own / "cgroup.controllers").read_text().split()
    controllers = tuple(name for name in _CONTROLLERS if name in available)
    if own.name == "worker" and (own.parent / "cgroup.procs").exists() and os.access(own.parent, os.W_OK):
        # A worker that replaced itself is in its child already.
        own = own.parent
    child = own / "worker"
    child.mkdir(exist_ok=True)
    (child / "cgroup.procs").write_text(str(os.getpid()))
    if controllers:
        (own / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    # Stages of a killed predecessor are empty. Those of another worker in this cgroup are busy, and stay.
    for leftover in own.glob("stage-*"):
        with contextlib.suppress(OSError):
            leftover.rmdir()
    return Cgroups(own, controllers)
