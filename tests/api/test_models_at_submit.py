"""Submits of models as people have them: rows D1 to D8 of the field's reports, answered by a real API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from tests.api.conftest import add_model
from tests.api.published import Published
from tests.doubles.weights import index, weights

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4952222208\n"


def shards(*names: str) -> dict[str, bytes]:
    tensors = {f"model.layers.{number}.weight": name for number, name in enumerate(names)}
    return {name: weights(tensor=tensor) for tensor, name in tensors.items()} | {INDEX: index(tensors)}


def submitted(
    farm: Published, spec: Mapping[str, Any], root: Path, name: str, files: Mapping[str, bytes | None]
) -> httpx.Response:
    """Submit a model without weights that has these files besides; None removes a file."""
    add_model(root, name)
    (root / name / "model.safetensors").unlink()
    for path, content in files.items():
        if content is None:
            (root / name / path).unlink()
        else:
            (root / name / path).write_bytes(content)
    return httpx.post(f"{farm.url}/v1/builds", json={**spec, "model": f"file:{root / name}"}, timeout=60)


@pytest.mark.parametrize(
    ("row", "files"),
    [
        ("d1", shards("model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors")),
        ("d2", shards("model.safetensors-00001-of-00002.safetensors", "model.safetensors-00002-of-00002.safetensors")),
        ("d2-layers", shards("layers-0.safetensors", "layers-1.safetensors", "outside.safetensors")),
        ("d3", shards("model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors")),
    ],
)
def test_shards_of_any_names_are_accepted(
    published_farm: Published, spec: dict[str, Any], models: Path, row: str, files: Mapping[str, bytes]
) -> None:
    answer = submitted(published_farm, spec, models, row, files)
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    ("row", "files", "code", "text"),
    [
        (
            "d4", {INDEX: index({"a": "x.safetensors", "b": "y.safetensors"}), "x.safetensors": weights(tensor="a")},
            "model_weights_incomplete", f"y.safetensors is missing, which the index {INDEX} names",
        ),
        ("d5", {"model.safetensors": POINTER}, "model_file_lfs_pointer", "model.safetensors is a Git LFS pointer"),
        (
            "d6", {"model.safetensors": weights(), "config.json": b"\xef\xbb\xbf{}"},
            "model_config_invalid", "byte order mark",
        ),
        (
            "d7", {"model.safetensors": weights(), "tokenizer.json": None, "tokenizer.model": b"\x0a\x0b"},
            "no_tokenizer_json", "no tokenizer.json",
        ),
        ("d8", {"adapter_model.safetensors": weights()}, "model_only_adapter", "LoRA adapter"),
        ("cut", {"model.safetensors": weights(bytes(99))[:-9]}, "model_weights_damaged", "model.safetensors is trunc"),
        (
            "fp8", {"model.safetensors": save({"a": np.zeros(4, np.uint32)})}, "weight_dtype", "tensors of dtype U32",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)  # fmt: skip
def test_what_a_conversion_would_find_is_refused_with_the_remedy(
    published_farm: Published,
    spec: dict[str, Any],
    models: Path,
    row: str,
    files: Mapping[str, bytes | None],
    code: str,
    text: str,
) -> None:
    answer = submitted(published_farm, spec, models, row, files)
    assert answer.status_code == 422, answer.text
    [problem] = answer.json()["errors"]
    assert (problem["pointer"], problem["code"]) == ("/model", code)
    assert text in problem["detail"]
    assert problem["remedy"]
