"""Toolchains of third parties that cannot be used are named in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from toolchains.registry import GROUP, all_toolchains


@pytest.fixture(autouse=True)
def _no_cached_toolchains() -> Iterator[None]:
    all_toolchains.cache_clear()
    yield
    all_toolchains.cache_clear()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:TOOLCHAIN", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:TOOLCHAIN", "AttributeError"),
        ("json:dumps", "AttributeError: 'function' object has no attribute 'name'"),
    ],
)
def test_a_toolchain_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    _register(tmp_path, monkeypatch, value)
    with pytest.raises(ValueError, match=rf"the toolchain 'other' \({value}\) cannot be loaded, {reason}") as caught:
        all_toolchains()
    assert type(caught.value) is ValueError  # which a start reports without a traceback
    assert str(caught.value).endswith("mend its package or uninstall it")


def test_two_toolchains_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _register(tmp_path, monkeypatch, "toolchains.trtllm:TOOLCHAIN")
    with pytest.raises(ValueError, match="two toolchains are named 'trtllm': rename or remove one"):
        all_toolchains()


def _register(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    package = folder / "other-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[{GROUP}]\nother = {value}\n")
    monkeypatch.syspath_prepend(folder)
