"""Files of a program that nobody trusts are refused, and a shard is complete if its tensors fill it exactly."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.doubles import tensors
from toolchains import output_files
from toolchains.output_files import OutputFiles
from toolchains.toolchain import InvalidOutput


def check(path: Path) -> None:
    OutputFiles(path.parent).check_safetensors(path.name)


@pytest.fixture
def complete_file(tmp_path: Path) -> Path:
    path = tmp_path / "rank0.safetensors"
    save_file({"a": np.ones((3, 4), np.float32), "b": np.zeros(5, np.float16)}, path, {"format": "pt"})
    return path


def test_a_file_that_the_library_writes_is_complete(complete_file: Path) -> None:
    check(complete_file)


def test_a_truncated_file_is_refused_at_every_length(complete_file: Path) -> None:
    content = complete_file.read_bytes()
    for length in range(len(content)):
        complete_file.write_bytes(content[:length])
        with pytest.raises(InvalidOutput, match=r"rank0\.safetensors"):
            check(complete_file)


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
        check(tmp_path / "rank0.safetensors")


def test_bytes_after_the_last_tensor_are_refused(complete_file: Path) -> None:
    complete_file.write_bytes(complete_file.read_bytes() + b"more")
    with pytest.raises(InvalidOutput, match="not complete"):
        check(complete_file)


def test_the_library_reads_what_the_doubles_write(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors.write(path, {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, "float16")
    assert load_file(path)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    tensors.write(path, {"a": np.arange(6, dtype=np.float32)}, "bfloat16")
    assert tensors.read(path)["a"].tolist() == [0, 1, 2, 3, 4, 5]
    check(path)


@pytest.fixture
def output(tmp_path: Path) -> OutputFiles:
    (tmp_path / "output" / "encoder").mkdir(parents=True)
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    return OutputFiles(tmp_path / "output")


def test_files_are_found_in_their_folder_only(output: OutputFiles) -> None:
    (output.root / "config.json").write_text("{}")
    (output.root / "encoder" / "config.json").write_text('{"of": "encoder"}')
    assert output.names() == ["config.json"]
    assert output.below("encoder").names() == ["config.json"]
    assert output.below("encoder").read_json("config.json") == {"of": "encoder"}
    assert output.size("config.json") == 2
    assert output.below("decoder").size("config.json") is None


@pytest.mark.parametrize("target", ["../secret.json", "/etc/passwd", "missing", "config.json"])
def test_a_link_in_place_of_a_file_is_not_followed(output: OutputFiles, target: str) -> None:
    (output.root / "config.json").symlink_to(target)
    with pytest.raises(InvalidOutput, match=r"config\.json is a link"):
        output.read_json("config.json")
    with pytest.raises(InvalidOutput, match=r"config\.json is a link"):
        output.names()
    assert output.size("config.json") is None


def test_a_named_pipe_in_place_of_a_file_blocks_no_reader(output: OutputFiles) -> None:
    os.mkfifo(output.root / "rank0.safetensors")
    for read in (output.read_json, output.check_safetensors):
        with pytest.raises(InvalidOutput, match="is a named pipe"):
            read("rank0.safetensors")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b"not json", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b'{"\xff": 1}', "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b" " * 101, "is longer than 100 bytes"),
    ],
)
def test_json_of_another_form_is_refused(output: OutputFiles, content: bytes, text: str) -> None:
    (output.root / "config.json").write_bytes(content)
    longest = 100 if content.isspace() else output_files.LONGEST_JSON
    with pytest.raises(InvalidOutput, match=text):
        output.read_json("config.json", longest=longest)


def test_json_of_a_gigabyte_is_refused_before_it_is_read(output: OutputFiles) -> None:
    with (output.root / "config.json").open("wb") as stream:
        stream.truncate(1 << 30)
    tracemalloc.start()
    with pytest.raises(InvalidOutput, match="is longer than"):
        output.read_json("config.json")
    assert tracemalloc.get_traced_memory()[1] < 3 * output_files.LONGEST_JSON
    tracemalloc.stop()


def test_a_deeply_nested_safetensors_header_is_refused(output: OutputFiles) -> None:
    header = b"[" * 100_000
    (output.root / "rank0.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InvalidOutput, match=r"the header of rank0\.safetensors is nested too deeply"):
        output.check_safetensors("rank0.safetensors")
