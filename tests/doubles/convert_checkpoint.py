#!/usr/bin/env python3
"""Stands in for the llama script: a Hugging Face checkpoint in, `config.json` and `rank<N>.safetensors` out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensors
from option_parser import convert_parser
from orders import Orders, elapsed, log, orders

COLUMNS = {"self_attn.o_proj": "attention.dense", "mlp.down_proj": "mlp.proj"}
ROWS = {"mlp.gate_proj": "mlp.fc", "mlp.up_proj": "mlp.gate"}
WHOLE = {"input_layernorm": "input_layernorm", "post_attention_layernorm": "post_layernorm"}


def main() -> None:
    told = orders("convert")
    options = convert_parser(told.version, "llama").parse_args()
    print(f"[TensorRT-LLM] TensorRT LLM version: {told.version}", flush=True)
    told.carry_out()
    began = time.monotonic()
    source, output = Path(options.model_dir), Path(options.output_dir)
    settings = json.loads((source / "config.json").read_bytes())
    _check(settings, options)
    output.mkdir(parents=True, exist_ok=True)
    config = _config(settings, options)
    (output / "config.json").write_text(json.dumps(config, indent=4))
    _write_ranks(_load(source), config, output, told)
    log(f"Weights loaded. Total time: {elapsed(began)}")
    print(f"Total time of converting checkpoints: {elapsed(began)}", flush=True)


def _check(settings: dict[str, Any], options: argparse.Namespace) -> None:
    assert settings["num_attention_heads"] % options.tp_size == 0, "num_attention_heads must be divisible by tp_size"
    kv = settings["num_key_value_heads"]
    assert kv % options.tp_size == 0 or options.tp_size % kv == 0, "num_kv_heads and tp_size do not fit"
    if options.moe_tp_size != -1 or options.moe_ep_size != -1:
        assert options.moe_tp_size * options.moe_ep_size == options.tp_size, "moe_tp_size * moe_ep_size != tp_size"


def _config(settings: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    dtype = settings["torch_dtype"] if options.dtype == "auto" else options.dtype
    return {
        "architecture": settings["architectures"][0],
        "dtype": "float16" if options.dtype == "auto" and dtype == "float32" else dtype,
        "vocab_size": settings["vocab_size"],
        "hidden_size": settings["hidden_size"],
        "intermediate_size": settings["intermediate_size"],
        "num_hidden_layers": settings["num_hidden_layers"],
        "num_attention_heads": settings["num_attention_heads"],
        "num_key_value_heads": settings["num_key_value_heads"],
        "hidden_act": settings["hidden_act"],
        "norm_epsilon": settings["rms_norm_eps"],
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": settings["max_position_embeddings"],
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
        "mapping": {
            "world_size": options.tp_size * options.pp_size * options.cp_size,
            "tp_size": options.tp_size,
            "pp_size": options.pp_size,
            "cp_size": options.cp_size,
        },
    }


def _load(source: Path) -> dict[str, tensors.Array]:
    files, loaded = sorted(source.glob("*.safetensors")), dict[str, tensors.Array]()
    for number, file in enumerate(files, start=1):
        loaded |= tensors.read(file)
        percent = 100 * number // len(files)
        print(f"Loading checkpoint shards: {percent:3}%|{'█' * (percent // 10):10}| {number}/{len(files)}", flush=True)
    return loaded


def _write_ranks(weights: dict[str, tensors.Array], config: dict[str, Any], output: Path, told: Orders) -> None:
    mapping = config["mapping"]
    count = mapping["tp_size"] * mapping["pp_size"]
    for rank in range(count):
        last, path = rank == count - 1, output / f"rank{rank}.safetensors"
        if last and told.mode == "missing_rank":
            return
        stage, position = divmod(rank, mapping["tp_size"])
        tensors.write(path, _shard(weights, config, stage, position), config["dtype"])
        if last and told.mode == "truncated":
            path.write_bytes(path.read_bytes()[:-100])


def _shard(weights: dict[str, tensors.Array], config: dict[str, Any], stage: int, position: int) -> dict[str, Any]:
    mapping, stages = config["mapping"], config["mapping"]["pp_size"]
    each = config["num_hidden_layers"] // stages
    shard = {}
    if stage == 0:
        shard["transformer.vocab_embedding.weight"] = weights["model.embed_tokens.weight"]
    for local, layer in enumerate(range(stage * each, (stage + 1) * each)):
        part = _layer(weights, f"model.layers.{layer}.", config, position)
        shard |= {f"transformer.layers.{local}.{name}.weight": tensor for name, tensor in part.items()}
    if stage == stages - 1:
        head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        shard["transformer.ln_f.weight"] = weights["model.norm.weight"]
        shard["lm_head.weight"] = np.array_split(head, mapping["tp_size"])[position]
    return shard


def _layer(weights: dict[str, Any], prefix: str, config: dict[str, Any], position: int) -> dict[str, tensors.Array]:
    tp = config["mapping"]["tp_size"]

    def part(name: str, axis: int) -> tensors.Array:
        return np.split(weights[f"{prefix}{name}.weight"], tp, axis)[position]

    shard = {ours: weights[f"{prefix}{name}.weight"] for name, ours in WHOLE.items()}
    shard |= {ours: part(name, 0) for name, ours in ROWS.items()}
    shard |= {ours: part(name, 1) for name, ours in COLUMNS.items()}
    heads = [_key_value(weights[f"{prefix}self_attn.{n}_proj.weight"], config, position) for n in ("k", "v")]
    shard["attention.qkv"] = np.concatenate([part("self_attn.q_proj", 0), *heads])
    return shard


def _key_value(weight: tensors.Array, config: dict[str, Any], position: int) -> tensors.Array:
    """This rank's key or value heads; with more ranks than heads, each head is there more than once."""
    tp, heads = config["mapping"]["tp_size"], config["num_key_value_heads"]
    parts = min(tp, heads)
    return np.split(weight, parts)[position * parts // tp]


if __name__ == "__main__":
    sys.exit(main())
