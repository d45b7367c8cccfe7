"""Calibration data become a folder that `datasets` takes for a data set of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolchains.trtllm.commands.name_data_set import name_data_set


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train-0.jsonl", "train-1.jsonl", "validation-0.jsonl"):
        (folder / name).write_text('{"article": "words"}\n')
    return folder


def configuration(folder: Path) -> dict[str, Any]:
    """What `datasets` reads from the YAML at the top of README.md; JSON is YAML."""
    _, front, _ = (folder / "README.md").read_text().split("---\n")
    (found,) = json.loads(front)["configs"]
    return dict(found)


@pytest.mark.parametrize(("name", "config_name"), [("ccdv/cnn_dailymail", "3.0.0"), ("lambada", "default")])
def test_the_folder_states_the_configuration_that_scripts_ask_for(
    data: Path, tmp_path: Path, name: str, config_name: str
) -> None:
    name_data_set(data, tmp_path / name)
    assert configuration(tmp_path / name)["config_name"] == config_name
    assert (tmp_path / name / "train-0.jsonl").read_text() == (data / "train-0.jsonl").read_text()


def test_a_split_has_the_files_with_its_name_or_all(data: Path, tmp_path: Path) -> None:
    name_data_set(data, tmp_path / "lambada")
    splits = {split["split"]: split["path"] for split in configuration(tmp_path / "lambada")["data_files"]}
    assert splits["train"] == ["train-0.jsonl", "train-1.jsonl"]
    assert splits["validation"] == ["validation-0.jsonl"]
    assert len(splits["test"]) == 3


def test_files_stay_in_their_folders(tmp_path: Path) -> None:
    (tmp_path / "fetched" / "data").mkdir(parents=True)
    (tmp_path / "fetched" / "data" / "train.jsonl").write_text('{"text": "words"}\n')
    name_data_set(tmp_path / "fetched", tmp_path / "lambada")
    assert (tmp_path / "lambada" / "data" / "train.jsonl").read_text() == '{"text": "words"}\n'
    assert configuration(tmp_path / "lambada")["data_files"][0]["path"] == ["data/train.jsonl"]
