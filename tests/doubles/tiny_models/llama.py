"""A random Llama of half a megabyte as a standard Hugging Face directory, made without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.doubles import tensors


def make_tiny_llama(
    directory: Path,
    *,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vocabulary: int = 128,
    positions: int = 256,
    dtype: str = "bfloat16",
    seed: int = 0,
    **config: Any,
) -> Path:
    """Weights, config and a word-level tokenizer. `config` is laid over config.json.

    The default sizes are the smallest that TensorRT-LLM has kernels for: heads of 32, and blocks of 128 for AWQ.
    """
    directory.mkdir(parents=True, exist_ok=True)
    size = {"hidden": hidden, "inner": 2 * hidden, "kv": hidden // heads * kv_heads}
    random = np.random.default_rng(seed)
    shapes = _shapes(layers, vocabulary, **size)
    weights = {name: _weights(random, name, shape) for name, shape in shapes.items()}
    tensors.write(directory / "model.safetensors", weights, dtype)
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": dtype,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    _write_json(directory / "config.json", settings | config)
    _write_json(directory / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    write_tokenizer(directory, vocabulary)
    return directory


def _shapes(layers: int, vocabulary: int, *, hidden: int, inner: int, kv: int) -> dict[str, tuple[int, ...]]:
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    every = {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in layer.items()}
    ends = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    return {**ends, **every, "lm_head.weight": (vocabulary, hidden)}


def _weights(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> tensors.Array:
    if "norm" in name:
        return np.ones(shape, np.float32)
    return random.normal(0, 0.05, shape).astype(np.float32)


def write_tokenizer(directory: Path, vocabulary: int) -> None:
    words = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(vocabulary - 3))]
    special = [
        {
            "id": i, "content": word, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": True,
        }
        for i, word in enumerate(words[:3])
    ]  # fmt: skip
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }
    _write_json(directory / "tokenizer.json", tokenizer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2))
