"""What this machine is, from metadata and the file system alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from enginefarm.node import detection as fingerprint
from enginefarm.node.detection import cuda_toolkit_version, detect, tensorrt_version
from enginefarm.node.image_python import own_packages


def test_detection_imports_no_toolchain() -> None:
    before = set(sys.modules)
    detect()
    assert not {"torch", "tensorrt", "tensorrt_llm"} & (set(sys.modules) - before)


def test_tensorrt_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt-10.13.3.9.post1.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.13.3.9.post1\n"
    (tmp_path / "tensorrt-10.13.3.9.post1.dist-info" / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(tmp_path)
    assert tensorrt_version(own_packages()) == "10.13.3.9"


@pytest.mark.parametrize(
    ("folder", "files", "expected"),
    [
        ("usr/lib/x86_64-linux-gnu", ["libnvinfer.so.10", "libnvinfer.so.10.13.3"], "10.13.3"),
        ("usr/local/tensorrt/lib", ["libnvinfer.so.8.6.1", "libnvinfer_plugin.so.9.9.9.9"], "8.6.1"),
        ("usr/lib/x86_64-linux-gnu", [], None),
    ],
)
def test_tensorrt_from_its_library(tmp_path: Path, folder: str, files: list[str], expected: str | None) -> None:
    (tmp_path / folder).mkdir(parents=True)
    for name in files:
        (tmp_path / folder / name).touch()
    assert tensorrt_version({}, tmp_path) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (json.dumps({"cuda": {"name": "CUDA SDK", "version": "12.9.1"}}), "12.9.1"),
        ("{", None),
        ("[]", None),
        (None, None),
    ],
)
def test_the_cuda_toolkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, expected: str | None
) -> None:
    monkeypatch.setattr(fingerprint, "_CUDA_TOOLKIT", tmp_path / "version.json")
    if content is not None:
        (tmp_path / "version.json").write_text(content)
    assert cuda_toolkit_version() == expected
