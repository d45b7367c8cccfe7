"""Nothing is written through a link, and nothing of somebody else is replaced."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from enginefarm.contract.errors import Conflict
from enginefarm.transfer.new_files import open_new, own_directory, publish_new


def test_a_link_in_the_place_of_a_new_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "partial").symlink_to("precious")
    with open_new(tmp_path / "partial") as stream:
        stream.write(b"new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "partial").is_symlink()


@pytest.mark.parametrize("hard_links", [True, False])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, hard_links: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "partial").write_text("new")
    if kind == "file":
        (tmp_path / "target").write_text("foreign")
    else:
        (tmp_path / "target").symlink_to("nowhere")
    with pytest.raises(Conflict, match="appeared meanwhile"):
        publish_new(tmp_path / "partial", tmp_path / "target")
    publish_new(tmp_path / "partial", tmp_path / "other")
    assert (tmp_path / "other").read_text() == "new"
    assert not (tmp_path / "partial").exists()


def test_a_link_is_no_directory_of_this_user(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "link").symlink_to("foreign")
    with pytest.raises(Conflict, match="not a directory of this user"):
        own_directory(tmp_path / "link")
