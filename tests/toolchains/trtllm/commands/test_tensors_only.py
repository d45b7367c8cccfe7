"""Pickles of tensors are written anew, and everything else in a pickle is refused unread."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from enginefarm.contract.stage import Stage
from tests.toolchains.trtllm.test_end_to_end import Pipeline
from toolchains.toolchain import Directories, Exit
from toolchains.trtllm.logs import failures

# PyTorch is imported where it is used, because the import takes two seconds, and every process of pytest-xdist imports
# this file.


class Caller:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


class PipelineOfQServe(Pipeline):
    """With DeepCompressor's weights where a worker puts them."""

    def directories(self, stage: Stage) -> Directories:
        import torch

        directories = super().directories(stage)
        weights = self.root / "weights"
        if not weights.exists():
            weights.mkdir()
            for name in ("model.pt", "scale.pt"):
                torch.save({"weight": torch.ones(1)}, weights / name)
        return replace(directories, inputs={"quant_ckpt_path": weights})


@pytest.mark.usefixtures("installation")
def test_an_engine_is_made_of_weights_that_are_written_anew(tmp_path: Path) -> None:
    import torch

    precision = {"dtype": "float16", "quantization": "w4a8_qserve"}
    options = {"quant_ckpt_path": "hf:org/weights", "per_group": True}
    PipelineOfQServe(tmp_path, precision=precision, options=options, heads=1).run_both()
    config = json.loads((tmp_path / "build" / "config.json").read_bytes())
    assert config["pretrained_config"]["quantization"]["quant_algo"] == "W4A8_QSERVE_PER_GROUP"
    anew = tmp_path / "convert-scratch" / "quant_ckpt_path" / "model.pt"
    assert torch.equal(torch.load(anew, weights_only=True)["weight"], torch.ones(1))


def _calls(path: Path, folder: Path) -> None:
    import torch

    torch.save({"weight": Caller(folder)}, path)


def _older(path: Path, folder: Path) -> None:
    import torch

    torch.save({"weight": torch.ones(1)}, path, _use_new_zipfile_serialization=False)


def _bare(path: Path, folder: Path) -> None:
    path.write_bytes(pickle.dumps(Caller(folder)))


def _tar(path: Path, folder: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "pickle")


def _list(path: Path, folder: Path) -> None:
    import torch

    torch.save([torch.ones(1)], path)


def _other_values(path: Path, folder: Path) -> None:
    import torch

    torch.save({"weight": torch.ones(1), "epoch": 3}, path)


def _torchscript(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/code/__torch__.py", "")
        archive.writestr("model/constants.pkl", pickle.dumps(()))


def _cut(path: Path, folder: Path) -> None:
    _list(path, folder)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("make", [_calls, _older, _bare, _tar, _list, _other_values, _torchscript, _cut])
def test_other_pickles_are_refused(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    from toolchains.trtllm.commands import tensors_only

    make(tmp_path / "model.pt", tmp_path / "called")
    with pytest.raises((ValueError, pickle.UnpicklingError)) as refused:
        tensors_only.rewrite(tmp_path / "model.pt", tmp_path / "anew.pt")
    assert not (tmp_path / "called").exists()
    assert not (tmp_path / "anew.pt").exists()
    failure = failures.classify(Stage.CONVERT, Exit(1, "".join(traceback.format_exception(refused.value))))
    assert failure.cause == "pickle_refused"
    assert not failure.retryable
