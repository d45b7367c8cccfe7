"""The smallest files that every source accepts as a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.doubles.weights import weights

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
}

WEIGHTS = weights(bytes(range(256)) * 16)  # nothing here loads them
OTHER_WEIGHTS = weights(bytes(range(255, -1, -1)) * 16)  # of the same size


def tiny(**config: Any) -> dict[str, bytes]:
    """Return a model with every kind of file that a source uses, and some that it ignores."""
    return {
        "config.json": json.dumps({**CONFIG, **config}).encode(),
        "generation_config.json": b"{}",
        "model.safetensors": WEIGHTS,
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b"{}",
        "README.md": b"# tiny",
        "modeling_tiny.py": b"raise SystemExit('never fetched')",
        "pytorch_model.bin": b"a pickle",
        "original/model.safetensors": b"a second copy",
    }


COUNTING = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, hidden ones included."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fetched(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a worker should find after `fetch`."""
    return {name: content for name, content in files.items() if name in COUNTING}


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
