"""An attempt's folder is measured and removed whatever a program left in it, and nothing outside is touched."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.scratch.workspace import UNMEASURABLE, Workspace, clear, remove, sizes

_NAME = "a-name-of-some-length"


def nest(folder: Path, depth: int) -> None:
    """Make `depth` folders below each other: deeper than Python's stack, and than any path may be."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(_NAME, dir_fd=descriptor)
        below = os.open(_NAME, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("bottom", os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)


def without_permissions(folder: Path) -> None:
    locked = folder / "a" / "b"
    locked.mkdir(parents=True)
    (locked / "file").write_bytes(b"x")
    locked.chmod(0)
    locked.parent.chmod(0)


def with_links(folder: Path) -> None:
    (folder / "folder").symlink_to(folder.parent.parent / "elsewhere")
    (folder / "file").symlink_to(folder.parent.parent / "elsewhere" / "file")
    (folder / "nothing").symlink_to("/nowhere")
    (folder / "loop").symlink_to("loop")


def with_names_that_are_not_utf8(folder: Path) -> None:
    odd = folder / os.fsdecode(b"\xff\n") / os.fsdecode(b"\xfe")
    odd.mkdir(parents=True)
    (odd / "\x01").write_bytes(b"")


def with_special_files(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / ("n" * 255)).mkdir()


def with_many_files(folder: Path) -> None:
    for number in range(300):
        (folder / f"{number}").touch()
        (folder / f"d{number}").mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: nest(folder, 1100),
        without_permissions,
        with_links,
        with_names_that_are_not_utf8,
        with_special_files,
        with_many_files,
    ],
)
def test_a_workspace_is_removed_whatever_a_program_left(
    tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o755)
    (elsewhere / "file").write_bytes(b"kept")
    root = tmp_path / "scratch"
    workspace = Workspace.make(root)
    spoil(workspace.directories.output)
    workspace.remove()
    assert list(root.iterdir()) == []
    assert (elsewhere / "file").read_bytes() == b"kept"
    assert elsewhere.stat().st_mode & 0o777 == 0o755
    assert caplog.text == ""


def test_a_restart_removes_what_a_killed_worker_left(tmp_path: Path) -> None:
    (tmp_path / "scratch" / "attempt" / "output").mkdir(parents=True)
    (tmp_path / "scratch" / "file").touch()
    (tmp_path / "scratch" / "link").symlink_to(tmp_path)
    nest(tmp_path / "scratch" / "attempt", 5)
    clear(tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    clear(tmp_path / "missing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file immutable")
def test_immutable_files_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").touch()
    if subprocess.run(["chattr", "+i", folder / "sub" / "file", folder / "sub"], check=False).returncode != 0:
        pytest.skip("this file system has no attributes")
    remove(folder)
    assert not folder.exists()


# A namespace of its own, so that no mount stays behind. Whether that is allowed is the machine's setting.
_MOUNTED = """
import logging, subprocess, sys
from pathlib import Path
from workers.scratch.workspace import remove
folder = Path(sys.argv[1])
outside = Path(sys.argv[2])
subprocess.run(["mount", "--bind", outside, folder / "bind"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", folder / "deep" / "tmpfs"], check=True)
logging.basicConfig(format="%(message)s")
remove(folder)
"""


def test_a_mount_point_is_left_alone_and_named(tmp_path: Path) -> None:
    folder, outside = tmp_path / "attempt", tmp_path / "outside"
    for path in (folder / "bind", folder / "deep" / "tmpfs", outside):
        path.mkdir(parents=True)
    (outside / "file").write_bytes(b"kept")
    (folder / "deep" / "other").write_bytes(b"")
    argv = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*argv, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine allows no user namespaces")
    script = [*argv, sys.executable, "-c", _MOUNTED, str(folder), str(outside)]
    process = subprocess.run(script, check=False, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert (outside / "file").read_bytes() == b"kept"
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"2 entries of {folder} cannot be removed")
    assert "Device or resource busy" in line


def test_what_cannot_be_removed_is_one_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        remove(tmp_path / "missing" / "folder")
    assert caplog.messages == [f"{tmp_path}/missing/folder cannot be removed: No such file or directory"]


def test_the_disk_is_measured_in_blocks_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 100_000)
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 40)
    (tmp_path / "link").symlink_to("/usr")
    assert 100_000 <= sum(sizes(tmp_path)) < 200_000


def test_a_tree_that_hides_what_it_takes_counts_more_than_any_limit(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    nest(tmp_path / "deep", 1100)
    assert sum(sizes(tmp_path)) >= UNMEASURABLE
    remove(tmp_path / "deep")
