"""Write the checkpoints of a Whisper: an encoder and a decoder from the file of OpenAI that the script loads.

Like the real script, it takes every size from the file, divides nothing among ranks, and writes no mapping.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import tensors
import torch
from orders import Orders

ALGORITHMS = {"int8": "W8A16", "int4": "W4A16"}
ATTENTION = ("query.weight", "query.bias", "key.weight", "value.weight", "value.bias", "out.weight", "out.bias")
MLP = ("0.weight", "0.bias", "2.weight", "2.bias")


def write(options: argparse.Namespace, told: Orders) -> None:
    path = Path(options.model_dir) / f"{options.model_name}.pt"
    assert path.exists(), f"Model {path} does not exist."
    model = torch.load(path, map_location="cpu", weights_only=True)
    dims, weights = model["dims"], model["model_state_dict"]
    algorithm = ALGORITHMS[options.weight_only_precision] if options.use_weight_only else None
    # From 0.12 on it asks the GPU whether convolutions stay in float32.
    if algorithm or not told.version.startswith(("0.11.", "1.")):
        told.lay_out_weights()
    for half, config in _configs(dims, options.dtype).items():
        own = {name: weights[f"{half}.{name}"].half().numpy() for name in _names(half, config["num_hidden_layers"])}
        output = Path(options.output_dir) / half
        output.mkdir(parents=True, exist_ok=True)
        config["quantization"] = {"quant_algo": algorithm}
        (output / "config.json").write_text(json.dumps(config, indent=4))
        tensors.write(output / "rank0.safetensors", own, "float16")
        if half == "decoder" and told.mode == "truncated":
            (output / "rank0.safetensors").write_bytes(b"")


def _configs(dims: dict[str, int], dtype: str) -> dict[str, dict[str, Any]]:
    both = {"dtype": dtype, "vocab_size": dims["n_vocab"], "hidden_act": "gelu"}
    encoder = {
        "architecture": "WhisperEncoder",
        "num_hidden_layers": dims["n_audio_layer"],
        "num_attention_heads": dims["n_audio_head"],
        "hidden_size": dims["n_audio_state"],
        "max_position_embeddings": dims["n_audio_ctx"],
        "n_mels": dims["n_mels"],
    }
    decoder = {
        "architecture": "DecoderModel",
        "model_type": "whisper",
        "num_hidden_layers": dims["n_text_layer"],
        "num_attention_heads": dims["n_text_head"],
        "hidden_size": dims["n_text_state"],
        "max_position_embeddings": dims["n_text_ctx"],
        "relative_attention": False,
    }
    return {"encoder": both | encoder, "decoder": both | decoder}


def _names(half: str, layers: int) -> list[str]:
    """Every tensor that the script opens of a half. It computes the positions of the encoder itself."""
    outer = ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "ln_post.weight", "ln_post.bias"]
    parts = ["attn"]
    if half == "decoder":
        outer = ["token_embedding.weight", "positional_embedding", "ln.weight", "ln.bias"]
        parts = ["attn", "cross_attn"]
    inner = [f"mlp.{name}" for name in MLP]
    inner += [f"{norm}_ln.{end}" for norm in ("mlp", *parts) for end in ("weight", "bias")]
    inner += [f"{part}.{name}" for part in parts for name in ATTENTION]
    return outer + [f"blocks.{layer}.{name}" for layer in range(layers) for name in inner]
