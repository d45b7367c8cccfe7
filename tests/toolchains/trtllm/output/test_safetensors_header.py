from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.doubles import tensors
from toolchains.toolchain import InvalidOutput
from toolchains.trtllm.output import safetensors_header as shard


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "rank0.safetensors"
    save_file({"a": np.ones((3, 4), np.float32), "b": np.zeros(5, np.float16)}, path, {"format": "pt"})
    return path


def test_what_the_library_writes_is_whole(whole: Path) -> None:
    shard.check(whole)


def test_every_cut_is_noticed(whole: Path) -> None:
    content = whole.read_bytes()
    for length in range(len(content)):
        whole.write_bytes(content[:length])
        with pytest.raises(InvalidOutput, match=r"rank0\.safetensors"):
            shard.check(whole)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (9).to_bytes(8, "little") + b'{"a": 1 }',
        (9).to_bytes(8, "little") + b"not json!",
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rank0.safetensors").write_bytes(content)
    with pytest.raises(InvalidOutput):
        shard.check(tmp_path / "rank0.safetensors")


def test_bytes_at_the_end_are_noticed(whole: Path) -> None:
    whole.write_bytes(whole.read_bytes() + b"more")
    with pytest.raises(InvalidOutput, match="not whole"):
        shard.check(whole)


def test_the_doubles_write_what_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors.write(path, {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, "float16")
    assert load_file(path)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    tensors.write(path, {"a": np.arange(6, dtype=np.float32)}, "bfloat16")
    assert tensors.read(path)["a"].tolist() == [0, 1, 2, 3, 4, 5]
    shard.check(path)
