"""The probe names the setting that stands in the way. Kernels refuse for real: by a sysctl, a filter and a mount."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.server import CHECKOUT
from tests.workers.sandbox.real import sandbox
from workers.sandbox import bubblewrap, probe, seccomp
from workers.sandbox.isolation import Isolation
from workers.sandbox.probe import Obstacle, covered_proc, seccomp_mode

# Runs in a process whose kernel refuses something; prints the obstacle.
PROBE = """
from workers.sandbox import probe, seccomp
from workers.sandbox.isolation import Isolation
try:
    print("complete:", probe.complete(Isolation(machine=seccomp.machine())).in_force)
except probe.Obstacle as obstacle:
    print("obstacle:", obstacle)
"""
# A container runtime's default profile: user namespaces and mounts answer EPERM.
FILTERED = """
import ctypes, os, struct
from workers.sandbox import seccomp
from workers.sandbox.supervisor import install_filter
install_filter(seccomp.open_program(seccomp.program(seccomp.machine())))
"""
NAMESPACES = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"]


def answer_of(*argv: str) -> str:
    answer = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_a_machine_without_obstacles_has_every_part() -> None:
    in_force = sandbox().in_force
    assert in_force[0] == "sandbox"
    assert {"mount", "user", "pid", "network", "seccomp", "no-new-privileges", "rlimits"} <= set(in_force)


def test_no_user_namespaces_are_named_with_the_sysctl() -> None:
    sandbox()
    # The limit of a nested namespace, so that the machine's own stays as it is.
    shell = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    answer = answer_of(*NAMESPACES, "sh", "-c", shell, "sh", sys.executable, "-c", PROBE)
    assert "obstacle: user.max_user_namespaces is 0: set it as root: sysctl -w" in answer


def test_a_container_runtimes_filter_is_named() -> None:
    answer = answer_of(sys.executable, "-c", FILTERED + PROBE)
    assert "obstacle: the seccomp profile of the container runtime forbids user namespaces" in answer
    assert "--security-opt seccomp=" in answer


def test_a_masked_proc_is_named() -> None:
    sandbox()
    shell = 'mount -t tmpfs none /proc/irq && exec "$@"'
    answer = answer_of(*NAMESPACES, "sh", "-c", shell, "sh", sys.executable, "-c", PROBE)
    assert "obstacle: the container runtime masks parts of /proc (/proc/irq)" in answer
    assert "systempaths=unconfined" in answer


def test_mounts_of_nvidias_container_toolkit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox()
    monkeypatch.setattr(probe, "covered_proc", lambda: [Path("/proc/driver/nvidia/params")])
    says = str(probe.explain("bwrap: Can't mount proc on /newroot/proc: Operation not permitted"))
    assert "NVIDIA's container toolkit covers /proc/driver/nvidia/params" in says
    assert "CDI" in says


def test_a_missing_bubblewrap_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "find", lambda: None)
    with pytest.raises(Obstacle, match=r"bubblewrap 0\.8 or newer is not installed: install the package bubblewrap"):
        probe.complete(Isolation(machine=seccomp.machine()))


def test_covered_paths_are_read_from_mountinfo() -> None:
    docker = """
22 20 0:40 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
30 22 0:40 /sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw
31 22 0:45 / /proc/acpi ro,relatime - tmpfs tmpfs ro
32 22 0:46 / /proc/driver/nvidia/params rw - tmpfs tmpfs rw
33 22 0:29 / /proc/sys/fs/binfmt_misc rw,relatime - autofs systemd-1 rw
34 20 0:50 / /processes rw - tmpfs tmpfs rw
""".strip()
    assert covered_proc(docker) == [Path("/proc/sys"), Path("/proc/acpi"), Path("/proc/driver/nvidia/params")]


def test_the_mode_of_seccomp_is_read_from_status() -> None:
    assert seccomp_mode("Name:\tpython\nSeccomp:\t2\nSeccomp_filters:\t1\n") == 2
    assert seccomp_mode("Name:\tpython\n") == 0


def test_the_wheel_brings_a_program_that_runs() -> None:
    program = bubblewrap.find()
    assert program is not None
    assert program.version >= (0, 8, 0)


def test_the_shipped_profile_of_a_container_allows_the_sandbox() -> None:
    """The kernel runs the same filter that Docker makes of docker/seccomp-worker.json."""
    sandbox()
    filtered = f"""
from workers.sandbox import seccomp
from workers.sandbox.supervisor import install_filter
denied = {denied_by_profile()!r}
allowed = seccomp.denied_calls() - denied
install_filter(seccomp.open_program(seccomp.program(seccomp.machine(), allowed=allowed)))
"""
    assert "complete: ('sandbox'" in answer_of(sys.executable, "-c", filtered + PROBE)


def test_the_shipped_profile_denies_the_rest_of_the_list() -> None:
    by_argument = {"clone", "clone3", "unshare", "ioctl", "prlimit64", "socket", "setpriority", "ioprio_set"}
    by_argument |= {name for name in seccomp.denied_calls() if name.startswith("sched_")}
    expected = seccomp.denied_calls() - seccomp.NEEDED_BY_BUBBLEWRAP
    assert denied_by_profile() - by_argument == expected - by_argument


def denied_by_profile() -> frozenset[str]:
    profile = json.loads((CHECKOUT / "docker" / "seccomp-worker.json").read_text())
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    assert {rule["action"] for rule in profile["syscalls"]} == {"SCMP_ACT_ERRNO"}
    return frozenset(name for rule in profile["syscalls"] for name in rule["names"])
