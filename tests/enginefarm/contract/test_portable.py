"""Names that two people could read differently, or that could control a terminal, are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.model.resolved_files import ModelFile
from enginefarm.contract.portable import portable_name, portable_path
from models.settings import Settings

DIGEST = "sha256:" + "0" * 64
HOSTILE_NAMES = {
    "ESC": "a\x1b[2J",
    "C1 control": "a\x9b31m",
    "DEL": "a\x7f",
    "NUL": "a\x00b",
    "line end": "a\nb",
    "bidi override": "gnp.\u202eexe",
    "bidi isolate": "a\u2066b",
    "line separator": "a\u2028b",
    "no width": "a\u200bb",
    "byte order mark": "\ufeffa",
    "tag": "a\U000e0041",
    "byte that is no UTF-8": os.fsdecode(b"a\xff"),
    "trailing dot": "a.",
    "trailing blank": "a ",
    "too long": "a" * 256,
    "too long in bytes": "ä" * 128,
    "empty": "",
}
GOOD_PATHS = (
    "rank0.engine",
    "tensorrt_llm/1/config.json",
    ".hidden",
    "a b/c d.json",
    "ein größeres Modell.bin",
    "模型/权重.safetensors",
    "a" * 255,
    "con.bin",
    "می\u200cخواهم.txt",
    "..a",
)


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=list(HOSTILE_NAMES))
def test_a_hostile_name_is_refused_everywhere_in_one_safe_line(name: str) -> None:
    with pytest.raises(ValueError, match="the name") as error:
        portable_name(name)
    for path in (name, f"folder/{name}", f"{name}/file"):
        with pytest.raises(ValueError, match="plain relative path"):
            portable_path(path)
        with pytest.raises(ValidationError):
            FileEntry(path=path, digest=DIGEST, size=1)
        with pytest.raises(ValidationError):
            ModelFile(path=path, size=1)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("path", ["/a", "a//b", "a/../b", "./a", "a/.", "..", "a\\b", "a/" * 512 + "a"])
def test_a_path_that_leads_out_or_is_ambiguous_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="plain relative path"):
        portable_path(path)


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_ordinary_paths_stay_valid(path: str) -> None:
    assert portable_path(path) == path
    assert Manifest.of([FileEntry(path=path, digest=DIGEST, size=1)]).files[0].path == path


def test_a_directory_with_a_hostile_name_has_no_manifest(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"weights\xff")).write_bytes(b"x")
    with pytest.raises(ValueError, match="plain relative path"):
        Manifest.of_directory(tmp_path)


def test_a_worker_cannot_be_given_a_hostile_name() -> None:
    environment = {
        "ENGINEFARM_DATABASE_URL": "sqlite:////tmp/none.db",
        "ENGINEFARM_BROKER_URL": "redis://127.0.0.1/0",
        "ENGINEFARM_STORE_URL": "file:///tmp/none",
        "ENGINEFARM_WORKER_NAME": "gpu\u202e1",
    }
    with pytest.raises(ValueError, match="ENGINEFARM_WORKER_NAME"):
        Settings.from_environment(environment)
    assert Settings.from_environment(environment | {"ENGINEFARM_WORKER_NAME": "gpu 1"}).worker_name == "gpu 1"
