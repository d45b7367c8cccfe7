"""A farm behind a real HTTP server that accepts specs: a broker, a model, and one published engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.published import Published, published
from tests.doubles.weights import weights as safetensors
from tests.servers.postgres import Databases
from tests.servers.redis import Valkey


def add_model(root: Path, name: str, *, weights: str = "model.safetensors") -> None:
    """A folder that looks like a model to everything but a compiler."""
    folder = root / name
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2,
        "num_hidden_layers": 1, "intermediate_size": 16, "vocab_size": 32, "max_position_embeddings": 4096,
        "dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / weights).write_bytes(safetensors())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    add_model(root, "tiny")
    add_model(root, "pickled", weights="pytorch_model.bin")
    return root


@pytest.fixture(scope="module")
def published_farm(
    valkey: Valkey, postgres: Databases, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    """On PostgreSQL, which is the stricter of the two."""
    url, folder = postgres.create_migrated(), tmp_path_factory.mktemp("farm")
    settings: dict[str, Any] = {
        "DATABASE_URL": url,
        "BROKER_URL": valkey.url,
        "MODEL_ROOTS": str(models),
        "WORKER_SECONDS": "3600",
    }
    with published(folder, **settings) as farm:
        yield farm
    postgres.drop(url)


@pytest.fixture
def spec(models: Path) -> dict[str, Any]:
    """What the farm accepts, and nobody has asked for yet."""
    return {
        "model": f"file:{models / 'tiny'}",
        "toolchain": {"name": "aoti", "version": "2.13.0"},
        "limits": {"max_input_len": 64, "max_output_len": 64},
        "platform": {"arch": "x86_64", "cpu_isa": "x86-64-v3"},
    }
