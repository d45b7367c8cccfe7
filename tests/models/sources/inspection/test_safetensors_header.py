"""Headers of safetensors files. The library reads whole files; both must come to one verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from models.sources.inspection.safetensors_header import MAX_HEADER_BYTES, BadHeader, header_end, tensor_dtypes

SCALAR = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}


def file_of(header: Any, data: bytes = bytes(4)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def library_accepts(content: bytes, folder: Path) -> bool:
    path = folder / "file.safetensors"
    path.write_bytes(content)
    try:
        with safe_open(path, framework="np"):
            return True
    except SafetensorError:
        return False


def accepts(content: bytes) -> bool:
    try:
        tensor_dtypes(len(content), content)
    except BadHeader:
        return False
    return True


def test_the_library_writes_what_is_accepted() -> None:
    tensors: dict[str, Any] = {
        "a": np.zeros((3, 5), np.float16),
        "b": np.zeros((), np.int64),
        "c": np.zeros((0, 4), np.float32),
    }
    content = save(tensors, metadata={"format": "pt"})
    assert set(tensor_dtypes(len(content), content[: header_end(len(content), content)])) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("content", "defect"),
    [
        (b"", "is truncated"),
        (b"\x10\0\0\0", "is truncated"),
        (file_of({"a": SCALAR})[:20], "is truncated: its header alone has"),
        (file_of({"a": SCALAR})[:-1], "is truncated: its header describes"),
        (file_of({"a": SCALAR}) + b"\0", "is longer than its header says"),
        (file_of({"a": SCALAR, "b": {**SCALAR, "data_offsets": [8, 12]}}, bytes(12)), "does not follow"),
        (file_of({"a": SCALAR, "b": SCALAR}), "does not follow"),
        (file_of({"a": {**SCALAR, "dtype": "F128"}}), "of dtype 'F128'"),
        (file_of({"a": {**SCALAR, "shape": [2]}}), "are not those of its shape"),
        (file_of({"a": {**SCALAR, "shape": [-1]}}), "has the shape [-1]"),
        (file_of({"a": {**SCALAR, "shape": [True]}}), "has the shape [True]"),
        (file_of({"a": {"shape": [], "data_offsets": [0, 4]}}), "has no valid dtype, shape or data_offsets"),
        (file_of({"a": 5}), "has no valid dtype, shape or data_offsets"),
        (file_of([SCALAR]), "not a JSON object"),
        (file_of(b"{"), "not JSON"),
        (file_of(b"\xff{}"), "not JSON"),
        (file_of({"a": SCALAR, "__metadata__": {"epoch": 1}}), "__metadata__ is not a map of texts"),
        (file_of({"a": SCALAR, "__metadata__": "pt"}), "__metadata__ is not a map of texts"),
        (file_of({"a": SCALAR, "__metadata__": {"note": "\ud800"}}), "half of a surrogate pair"),
        (file_of({"a\ud800": SCALAR}), "half of a surrogate pair"),
        (file_of({"a": {"dtype": "U8", "shape": [], "data_offsets": [False, True]}}, b"0"), "data_offsets"),
        (
            file_of({"a": SCALAR, "b": {**SCALAR, "data_offsets": [4, 10**4000]}}),
            "has no valid dtype, shape or data_offsets",
        ),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "more than the format allows"),
        (b"Entry not found", "begins with the text 'Entry not found'"),
        (b"PK\x03\x04" + bytes(60), "a zip archive, as torch.save writes"),
        (b"GGUF\x03" + bytes(60), "a GGUF file"),
    ],
)
def test_a_broken_file_is_refused_here_and_by_the_library(content: bytes, defect: str, tmp_path: Path) -> None:
    with pytest.raises(BadHeader) as caught:
        tensor_dtypes(len(content), content)
    assert defect in str(caught.value)
    assert not library_accepts(content, tmp_path)


_numbers = st.integers(-1, 9)
_tensors = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F4", "F6_E2M3", "C64", "I4"]),
        "shape": st.lists(_numbers, max_size=2),
        "data_offsets": st.lists(_numbers, min_size=1, max_size=3),
    }
)


@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), _tensors | st.just({"format": "pt"})),
    data=st.binary(max_size=12),
)
def test_what_the_library_refuses_is_refused(
    header: dict[str, Any], data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = file_of(header, data)
    if accepts(content) and "__metadata__" not in header:
        assert library_accepts(content, tmp_path_factory.getbasetemp())


@given(shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=4))
def test_what_the_library_writes_is_accepted(shapes: list[list[int]]) -> None:
    tensors: dict[str, Any] = {f"tensor.{number}": np.zeros(shape, np.float16) for number, shape in enumerate(shapes)}
    content = save(tensors)
    assert len(tensor_dtypes(len(content), content)) == len(shapes)
