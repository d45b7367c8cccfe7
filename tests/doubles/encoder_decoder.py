"""Write the checkpoints of encoder-decoders: the folders `encoder` and `decoder`, each a checkpoint of its own.

Like the real script, it ignores its options for weight-only quantization.
"""

from __future__ import annotations

import json
from typing import Any

import checkpoint
import numpy as np
import tensors
from orders import Orders

MODELS = {
    "t5": ("T5ForConditionalGeneration", "MT5ForConditionalGeneration"),
    "bart": ("BartForConditionalGeneration", "MBartForConditionalGeneration"),
}


def write(request: checkpoint.Request, model_type: str, implicit: bool, told: Orders) -> None:
    settings = json.loads((request.source / "config.json").read_bytes())
    assert settings["architectures"][0] in MODELS[model_type], f"no model of {model_type}"
    assert settings["is_encoder_decoder"]
    weights = checkpoint.load(request.source)
    shared = weights["shared.weight" if model_type == "t5" else "model.shared.weight"]
    for half in ("encoder", "decoder"):
        config = _config(settings, request, model_type, half)
        start = {"decoder_start_token_id": settings["decoder_start_token_id"]}
        config |= {"use_implicit_relative_attention": implicit} | start if half == "decoder" else {}
        own = {"embedding.vocab_embedding.weight": shared, **_layers(weights, half)}
        own |= {"lm_head.weight": _split(shared, request.tp)} if half == "decoder" else {}
        # Only the decoder is truncated or lacks a rank: the encoder is written first and is complete.
        orders = told if half == "decoder" else Orders(told.version, None, 0, told.sm)
        checkpoint.write_ranks(own, config, request.output / half, orders)


def _config(settings: dict[str, Any], request: checkpoint.Request, model_type: str, half: str) -> dict[str, Any]:
    own = _t5(settings, half) if model_type == "t5" else _bart(settings, half)
    assert own["num_attention_heads"] % request.tp == 0, "Unable to split"
    return own | {
        "architecture": f"{half.capitalize()}Model",
        "dtype": request.dtype,
        "vocab_size": settings["vocab_size"],
        "hidden_size": settings["d_model"],
        "model_type": model_type,
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
        "mapping": {"world_size": request.tp * request.pp, "tp_size": request.tp, "pp_size": request.pp},
    }


def _t5(settings: dict[str, Any], half: str) -> dict[str, Any]:
    return {
        "num_hidden_layers": settings["num_layers" if half == "encoder" else "num_decoder_layers"],
        "num_attention_heads": settings["num_heads"],
        "head_size": settings["d_kv"],
        "intermediate_size": settings["d_ff"],
        "hidden_act": settings["dense_act_fn"],
        "norm_epsilon": settings["layer_norm_epsilon"],
        "max_position_embeddings": settings.get("n_positions", 512),
        "num_buckets": settings["relative_attention_num_buckets"],
        "relative_attention": True,
    }


def _bart(settings: dict[str, Any], half: str) -> dict[str, Any]:
    return {
        "num_hidden_layers": settings[f"{half}_layers"],
        "num_attention_heads": settings[f"{half}_attention_heads"],
        "head_size": settings["d_model"] // settings[f"{half}_attention_heads"],
        "intermediate_size": settings[f"{half}_ffn_dim"],
        "hidden_act": settings["activation_function"],
        "norm_epsilon": 1e-5,
        "max_position_embeddings": settings["max_position_embeddings"],
        "normalize_before": settings["normalize_before"],
        "relative_attention": False,
    }


def _layers(weights: dict[str, tensors.Array], half: str) -> dict[str, tensors.Array]:
    return {name: tensor for name, tensor in weights.items() if half in name.split(".")}


def _split(weight: tensors.Array, ranks: int) -> tensors.Array:
    assert weight.shape[0] % ranks == 0, "Unable to split"
    return np.split(weight, ranks)[0]
