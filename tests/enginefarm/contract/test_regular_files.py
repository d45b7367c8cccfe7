"""Folders of an untrusted program: nothing but regular files is read, and nothing outside the folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginefarm.contract import digest, regular_files
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.regular_files import FolderLimits, ListedFile, RefusedFile


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "output"
    (root / "sub").mkdir(parents=True)
    (root / "config.json").write_bytes(b"{}")
    (root / "sub" / "weights").write_bytes(b"weights")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


def link_out(root: Path) -> None:
    (root / "bad").symlink_to("../secret")


def folder_link_out(root: Path) -> None:
    (root / "bad").symlink_to("..", target_is_directory=True)


def link_inside(root: Path) -> None:
    (root / "bad").symlink_to("config.json")


def pipe(root: Path) -> None:
    os.mkfifo(root / "bad")


def unix_socket(root: Path) -> None:
    os.mknod(root / "bad", 0o600 | stat.S_IFSOCK)


def hard_link_out(root: Path) -> None:
    (root / "bad").hardlink_to(root.parent / "secret")


def sparse(root: Path) -> None:
    with (root / "bad").open("wb") as stream:
        stream.truncate(1 << 40)


def sparse_with_islands(root: Path) -> None:
    with (root / "bad").open("wb") as stream:
        for island in range(0, 1 << 30, 1 << 20):
            stream.seek(island)
            stream.write(b"x")


def deep(root: Path) -> None:
    root.joinpath(*(["bad"] * 40)).mkdir(parents=True)


def unreadable(root: Path) -> None:
    (root / "bad").mkdir()
    (root / "bad").chmod(0)


TRAPS: dict[Callable[[Path], None], str] = {
    link_out: "bad is a link, not a regular file",
    folder_link_out: "bad is a link, not a regular file",
    link_inside: "bad is a link, not a regular file",
    pipe: "bad is a named pipe, not a regular file",
    unix_socket: "bad is a socket, not a regular file",
    hard_link_out: "bad is hard-linked to a file outside the folder",
    sparse: "bad is 1099511627776 bytes long, but has only 0 bytes of data",
    sparse_with_islands: "bad is .* bytes long, but has only",
    deep: "folders are nested more than 32 deep",
}


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_a_folder_with_anything_but_its_own_regular_files_is_refused(root: Path, trap: Callable[[Path], None]) -> None:
    trap(root)
    with pytest.raises(RefusedFile, match=TRAPS[trap]):
        list(regular_files.walk(root, FolderLimits(hard_links_outside=False)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_refused_without_being_opened(root: Path) -> None:
    os.mknod(root / "zero", 0o20644, os.makedev(1, 5))  # endless
    with pytest.raises(RefusedFile, match="zero is a device"):
        Manifest.of_directory(root)
    with pytest.raises(RefusedFile, match="zero is a device"), regular_files.opened(root, "zero"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_refused(root: Path) -> None:
    unreadable(root)
    with pytest.raises(RefusedFile, match="bad cannot be read: Permission denied"):
        Manifest.of_directory(root)


def test_hard_links_within_the_folder_are_files_of_their_own(root: Path) -> None:
    (root / "same").hardlink_to(root / "config.json")
    manifest = Manifest.of_directory(root, limits=FolderLimits(hard_links_outside=False))
    assert [entry.path for entry in manifest.files] == ["config.json", "same", "sub/weights"]


def test_files_of_a_pulled_engine_may_be_links_to_the_cache(root: Path) -> None:
    (root.parent / "cached").hardlink_to(root / "config.json")
    assert len(Manifest.of_directory(root).files) == 2


def test_a_file_with_few_holes_is_no_trap(root: Path) -> None:
    with (root / "padded").open("wb") as stream:
        stream.truncate(regular_files._SMALL_BYTES)
    assert Manifest.of_directory(root).size == regular_files._SMALL_BYTES + 9


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (FolderLimits(entries=2), "more than 2 files and folders"),
        (FolderLimits(total_bytes=8), "longer than 8 bytes together"),
        (FolderLimits(depth=0), "nested more than 0 deep"),
    ],
)
def test_a_folder_beyond_a_limit_is_refused(root: Path, limits: FolderLimits, text: str) -> None:
    with pytest.raises(RefusedFile, match=text):
        Manifest.of_directory(root, limits=limits)


def test_names_that_no_manifest_can_have_are_refused(root: Path) -> None:
    (root / "line\nend").write_bytes(b"")
    with pytest.raises(RefusedFile, match="not a plain relative path"):
        Manifest.of_directory(root)


def test_a_name_that_is_not_utf8_is_refused(root: Path) -> None:
    (root / os.fsdecode(b"\xff")).write_bytes(b"")
    with pytest.raises(RefusedFile, match=r"not a plain relative path: it has the character U\+DCFF"):
        Manifest.of_directory(root)


def test_a_file_that_is_replaced_after_the_listing_is_refused(root: Path) -> None:
    listed = next(file for file in regular_files.walk(root) if file.path == "config.json")
    (root / "config.json").unlink()
    (root / "config.json").symlink_to("../secret")
    with pytest.raises(RefusedFile, match="is a link"), regular_files.opened(root, "config.json", listed):
        pass
    (root / "config.json").unlink()
    (root / "config.json").write_bytes(b"[]")
    replaced = ListedFile(listed.path, listed.size, listed.inode + 1)
    with (
        pytest.raises(RefusedFile, match="changed while it was read"),
        regular_files.opened(root, "config.json", replaced),
    ):
        pass


def test_a_file_that_is_swapped_for_a_link_as_it_is_opened_is_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_stat = os.stat

    def stat_and_swap(*arguments: Any, **options: Any) -> os.stat_result:
        status = really_stat(*arguments, **options)
        (root / "config.json").unlink()
        (root / "config.json").symlink_to("../secret")
        return status

    monkeypatch.setattr(os, "stat", stat_and_swap)
    with pytest.raises(RefusedFile, match=r"config\.json is a link"), regular_files.opened(root, "config.json"):
        pass


def test_a_folder_that_becomes_a_link_is_not_followed(root: Path) -> None:
    (root / "sub").rename(root / "moved")
    (root / "sub").symlink_to("moved")
    with pytest.raises(RefusedFile, match="is a link"), regular_files.opened(root, "sub/weights"):
        pass


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret", "sub/../../secret", ""])
def test_no_path_leads_out_of_the_folder(root: Path, path: str) -> None:
    with pytest.raises(RefusedFile, match="no path below a folder"), regular_files.opened(root, path):
        pass


def test_a_root_that_is_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(RefusedFile):
        Manifest.of_directory(tmp_path / "link")


def test_a_file_that_grows_while_it_is_hashed_is_refused(root: Path) -> None:
    def grow(_: int) -> None:
        with (root / "config.json").open("ab") as stream:
            stream.write(b"x" * 100)

    with pytest.raises(RefusedFile, match=r"config\.json changed"):
        Manifest.of_directory(root, watch=grow)


def test_hashing_ends_when_its_watcher_says_so(root: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Manifest.of_directory(root, watch=stop)


def test_the_manifest_names_every_file_with_its_digest(root: Path) -> None:
    assert Manifest.of_directory(root) == Manifest.of(
        [
            FileEntry(path="config.json", digest=digest.of_bytes(b"{}"), size=2),
            FileEntry(path="sub/weights", digest=digest.of_bytes(b"weights"), size=7),
        ]
    )


@pytest.mark.parametrize("in_place", ["nothing", "file", "link", "pipe"])
def test_a_file_of_the_farm_replaces_what_a_program_left_in_its_place(root: Path, in_place: str) -> None:
    match in_place:
        case "file":
            (root / "serving.json").write_bytes(b"of the program")
        case "link":
            (root / "serving.json").symlink_to("../secret")
        case "pipe":
            os.mkfifo(root / "serving.json")
    root.chmod(0o500)
    regular_files.write_new(root, "serving.json", b"of the farm")
    assert (root / "serving.json").read_bytes() == b"of the farm"
    assert not (root / "serving.json").is_symlink()
    assert (root.parent / "secret").read_bytes() == b"secret"


def test_a_folder_in_place_of_a_file_of_the_farm_is_refused(root: Path) -> None:
    (root / "serving.json").mkdir()
    with pytest.raises(RefusedFile, match=r"serving\.json is a folder"):
        regular_files.write_new(root, "serving.json", b"")
