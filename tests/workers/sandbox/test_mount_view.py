"""The mount view shows what a stage needs, and hides what lies inside it but belongs to the farm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from workers.sandbox import mount_view
from workers.sandbox.mount_view import StagePaths


def mounts(tmp_path: Path, *, hidden: tuple[Path, ...] = (), readable: tuple[Path, ...] = (), path: str = "") -> str:
    """The arguments, one line for each option."""
    scratch = tmp_path / "attempt" / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    argv = mount_view.arguments(
        StagePaths(scratch, readable=readable), hidden, temporary=scratch / "tmp-1", supervisor=Path("/s.py"),
        environment={"PATH": path},
    )  # fmt: skip
    return " ".join(argv).replace(" --", "\n--")


def test_the_system_and_the_interpreter_are_read_only(tmp_path: Path) -> None:
    lines = mounts(tmp_path).splitlines()
    assert "--ro-bind /usr /usr" in lines
    prefix = Path(sys.prefix)
    assert f"--ro-bind {prefix} {prefix}" in lines or prefix.is_relative_to("/usr")
    # One writable folder, with the names that programs use for temporary files.
    scratch = tmp_path / "attempt" / "scratch"
    writable = [line.split()[1] for line in lines if line.startswith("--bind ")]
    assert writable == [f"{scratch}/tmp-1", f"{scratch}/tmp-1", str(scratch)]


def test_a_hidden_folder_inside_a_visible_one_is_covered_and_what_the_stage_needs_of_it_is_not(tmp_path: Path) -> None:
    """As in an image: the farm is in /opt, which is visible, and the virtual environment is in the farm's folder."""
    opt, farm = tmp_path / "opt", tmp_path / "opt" / "farm"
    venv = farm / "venv"
    venv.mkdir(parents=True)
    (farm / "signing.pem").write_text("secret")
    lines = mounts(tmp_path, hidden=(farm, opt / "key.pem"), readable=(opt, venv)).splitlines()
    covered, shown = lines.index(f"--tmpfs {farm}"), lines.index(f"--ro-bind {venv} {venv}")
    assert lines.index(f"--ro-bind {opt} {opt}") < covered < shown
    # The cover is memory of the sandbox: a program must not fill it.
    assert lines.index(f"--remount-ro {farm}") > shown
    assert not [line for line in lines if "key.pem" in line]  # it is not there


def test_a_hidden_file_inside_a_visible_folder_is_empty(tmp_path: Path) -> None:
    opt = tmp_path / "opt"
    opt.mkdir()
    (opt / "key.pem").write_text("secret")
    assert f"--ro-bind /dev/null {opt / 'key.pem'}" in mounts(tmp_path, hidden=(opt / "key.pem",), readable=(opt,))


def test_folders_of_path_are_visible_but_a_home_folder_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, programs = tmp_path / "home", tmp_path / "programs"
    home.mkdir()
    programs.mkdir()
    monkeypatch.setenv("HOME", str(home))
    lines = mounts(tmp_path, path=f"{home}:{programs}:relative:{tmp_path / 'missing'}:/")
    assert f"--ro-bind {programs} {programs}" in lines
    assert f"--ro-bind {home} " not in lines
    assert "--ro-bind / /" not in lines


def test_devices_of_a_gpu_are_there_only_for_a_stage_that_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mount_view, "gpu_devices", lambda: [Path("/dev/nvidia0")])
    argv = {
        gpu: mount_view.arguments(
            StagePaths(tmp_path, gpu=gpu), (), temporary=tmp_path, supervisor=Path("/s.py"), environment={}
        )
        for gpu in (False, True)
    }
    assert "/dev/nvidia0" not in argv[False]
    assert "/dev/nvidia0" in argv[True]
    assert "/sys/bus" not in argv[False]
    assert "/sys/bus" in argv[True]
