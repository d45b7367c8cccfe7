"""Random encoder-decoders of a few kilobytes as standard Hugging Face directories, made without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.doubles import tensors
from tests.doubles.tiny_models.llama import write_tokenizer

HIDDEN, INNER, VOCABULARY, POSITIONS = 128, 256, 128, 256
LAYERS = {"encoder": 2, "decoder": 4}  # they differ, so that a test notices if they are confused


def make_tiny_t5(directory: Path, *, dtype: str = "bfloat16", **config: Any) -> Path:
    settings = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "d_model": HIDDEN,
        "d_kv": 8,  # for T5 it need not be the hidden size divided by the heads
        "d_ff": INNER,
        "num_layers": LAYERS["encoder"],
        "num_decoder_layers": LAYERS["decoder"],
        "num_heads": 4,
        "vocab_size": VOCABULARY,
        "n_positions": 512,
        "dense_act_fn": "relu",
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "decoder_start_token_id": 2,  # a real T5 has 0, which is its padding too
    }
    return _make(directory, "", dtype, settings | config)


def make_tiny_bart(directory: Path, *, dtype: str = "bfloat16", **config: Any) -> Path:
    halves = {
        f"{half}_{name}": value
        for half, layers in LAYERS.items()
        for name, value in (("layers", layers), ("attention_heads", 4), ("ffn_dim", INNER))
    }
    settings = {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "d_model": HIDDEN,
        "num_hidden_layers": LAYERS["encoder"],
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "activation_function": "gelu",
        "normalize_before": False,
        "decoder_start_token_id": 2,
    }
    return _make(directory, "model.", dtype, settings | halves | config)


def _make(directory: Path, prefix: str, dtype: str, settings: dict[str, Any]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    shapes = {f"{prefix}shared.weight": (VOCABULARY, HIDDEN)} | {
        f"{prefix}{half}.block.{layer}.weight": (INNER, HIDDEN)
        for half, layers in LAYERS.items()
        for layer in range(layers)
    }
    weights = {name: random.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    tensors.write(directory / "model.safetensors", weights, dtype)
    more = {"is_encoder_decoder": True, "torch_dtype": dtype, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    (directory / "config.json").write_text(json.dumps(settings | more))
    write_tokenizer(directory, VOCABULARY)
    return directory
