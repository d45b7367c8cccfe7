"""Calibration data in folders: identified by content, data files only."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model.reference import parse
from models.sources import AuxiliarySource, MemoryDigestCache


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def source(root: Path) -> AuxiliarySource:
    return AuxiliarySource([root], MemoryDigestCache())


def write_data(folder: Path, text: str = '{"text": "a"}') -> Path:
    folder.mkdir()
    (folder / "train.jsonl").write_text(text)
    (folder / "load.py").write_text("raise SystemExit")
    (folder / "README.md").write_text("words")
    return folder


def test_only_data_files_are_copied(root: Path, source: AuxiliarySource, tmp_path: Path) -> None:
    resolved = source.resolve_files(parse(f"file:{write_data(root / 'news')}"))
    source.fetch(resolved, tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["train.jsonl"]


def test_data_are_identified_by_their_content(root: Path, source: AuxiliarySource) -> None:
    first, copy, changed = (
        source.resolve_files(parse(f"file:{write_data(root / name, text)}")).identity
        for name, text in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    assert first == copy != changed


def test_data_that_changed_are_refused(root: Path, source: AuxiliarySource, tmp_path: Path) -> None:
    folder = write_data(root / "news")
    resolved = source.resolve_files(parse(f"file:{folder}"))
    (folder / "train.jsonl").write_text('{"text": "b"}')
    with pytest.raises(ModelUnavailable) as caught:
        source.fetch(resolved, tmp_path / "copy")
    assert [problem.code for problem in caught.value.problems] == ["model_changed"]


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("hf:org/data", "data_source_unknown"),
        ("file:{root}/missing", "model_not_found"),
        ("file:/etc", "model_outside_roots"),
        ("file:{root}", "data_missing"),
    ],
)
def test_data_that_cannot_be_used_are_refused_with_a_code(
    root: Path, source: AuxiliarySource, reference: str, code: str
) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        source.resolve_files(parse(reference.format(root=root)))
    assert [problem.code for problem in caught.value.problems] == [code]
