"""A stage's cgroup: its programs start in it, and one write ends all of them."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.workers.sandbox.real import sandbox
from toolchains.toolchain import Command
from workers.programs import child
from workers.programs.child import ProcessLimits
from workers.sandbox import cgroup
from workers.sandbox.cgroup import Cgroups
from workers.sandbox.mount_view import StagePaths


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A cgroup v2 of this test's own, where this user may make one."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    roots = [Path(fields[4]) for fields in mounts if "cgroup2" in fields]
    if not roots or not os.access(roots[0], os.W_OK):
        pytest.skip("no writable cgroup v2 here")
    folder = roots[0] / f"test-{secrets.token_hex(4)}"
    folder.mkdir()
    yield folder
    folder.rmdir()


def test_programs_run_in_the_stages_cgroup_and_it_is_removed_after_them(delegated: Path) -> None:
    stage = Cgroups(delegated, ()).stage(memory_bytes=None, processes=None)
    process = os.spawnv(
        os.P_NOWAIT, "/bin/sh", ["sh", "-c", f"echo 0 >{stage.entrance} && exec sleep 60"]
    )  # fmt: skip
    while stage.entrance.read_text().split() != [str(process)]:
        pass
    stage.kill()
    assert os.waitpid(process, 0)[1] == 9
    stage.remove()
    assert not stage.path.exists()


def test_a_program_in_the_sandbox_is_in_the_cgroup(delegated: Path, tmp_path: Path) -> None:
    seen: set[str] = set()

    def on_output(_: bytes) -> None:
        for stage in delegated.glob("stage-*"):
            seen.update((stage / "cgroup.procs").read_text().split())

    isolation = replace(sandbox(), cgroups=Cgroups(delegated, ()))
    ended = child.run(
        Command((sys.executable, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(0.3)")),
        paths=StagePaths(tmp_path), limits=ProcessLimits(30, 30, 0.5), stop=threading.Event(), on_output=on_output,
        isolation=isolation,
    )  # fmt: skip
    assert ended.status == 0
    assert len(seen) == 3  # bubblewrap, process 1, the program
    assert not list(delegated.glob("stage-*"))
    assert "cgroup kill" in isolation.in_force


def test_the_limits_are_those_of_the_stage(tmp_path: Path) -> None:
    """Written into a folder, because few test machines have a cgroup v2 with both controllers."""
    stage = Cgroups(tmp_path, ("memory", "pids")).stage(memory_bytes=1 << 30, processes=100)
    assert (stage.path / "memory.max").read_text() == str(1 << 30)
    assert (stage.path / "pids.max").read_text() == "100"


def test_a_delegation_that_was_withdrawn_fails_the_stage(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Cgroups(tmp_path / "gone", ("memory",)).stage(memory_bytes=1, processes=1)


def test_the_machines_root_cgroup_is_nobodys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/x\n0::/\n")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 20 0:26 / {tmp_path}/root rw - cgroup2 cgroup2 rw\n")
    monkeypatch.setattr(cgroup, "_MEMBERSHIP", membership)
    monkeypatch.setattr(cgroup, "_MOUNTS", mounts)
    assert cgroup.own_cgroup() is None
    # A container's root looks the same, but for a file that only the machine's root lacks.
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cgroup.events").touch()
    assert cgroup.own_cgroup() == tmp_path / "root"
