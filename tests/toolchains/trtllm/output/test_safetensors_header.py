"""A shard is complete if its tensors fill it exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.doubles import tensors
from toolchains.toolchain import InvalidOutput
from toolchains.trtllm.output import safetensors_header


@pytest.fixture
def complete_file(tmp_path: Path) -> Path:
    path = tmp_path / "rank0.safetensors"
    save_file({"a": np.ones((3, 4), np.float32), "b": np.zeros(5, np.float16)}, path, {"format": "pt"})
    return path


def test_a_file_that_the_library_writes_is_complete(complete_file: Path) -> None:
    safetensors_header.check(complete_file)


def test_a_truncated_file_is_refused_at_every_length(complete_file: Path) -> None:
    content = complete_file.read_bytes()
    for length in range(len(content)):
        complete_file.write_bytes(content[:length])
        with pytest.raises(InvalidOutput, match=r"rank0\.safetensors"):
            safetensors_header.check(complete_file)


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
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rank0.safetensors").write_bytes(content)
    with pytest.raises(InvalidOutput):
        safetensors_header.check(tmp_path / "rank0.safetensors")


def test_bytes_after_the_last_tensor_are_refused(complete_file: Path) -> None:
    complete_file.write_bytes(complete_file.read_bytes() + b"more")
    with pytest.raises(InvalidOutput, match="not complete"):
        safetensors_header.check(complete_file)


def test_the_library_reads_what_the_doubles_write(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors.write(path, {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, "float16")
    assert load_file(path)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    tensors.write(path, {"a": np.arange(6, dtype=np.float32)}, "bfloat16")
    assert tensors.read(path)["a"].tolist() == [0, 1, 2, 3, 4, 5]
    safetensors_header.check(path)
