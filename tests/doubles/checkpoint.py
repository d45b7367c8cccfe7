"""Write a checkpoint as the conversion scripts and quantize.py do: `config.json` and one safetensors file a rank.

Weights with Llama's names are sharded as by the real scripts. Of any other model every rank of the first pipeline stage
gets all weights, unlike the real ones. Quantization adds scaling factors, but leaves the weights as they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensors
from orders import Orders

COLUMNS = {"self_attn.o_proj": "attention.dense", "mlp.down_proj": "mlp.proj"}
ROWS = {"mlp.gate_proj": "mlp.fc", "mlp.up_proj": "mlp.gate"}
WHOLE = {"input_layernorm": "input_layernorm", "post_attention_layernorm": "post_layernorm"}


@dataclass(frozen=True)
class Heads:
    """Draft heads of a second model, and the fields of config.json that describe them."""

    architecture: str
    weights: Path
    says: dict[str, int]


@dataclass(frozen=True)
class Request:
    """The arguments of a script; each family has names of its own for them."""

    source: Path
    output: Path
    dtype: str
    tp: int
    pp: int
    cp: int
    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None
    heads: Heads | None = None


def write(request: Request, told: Orders) -> None:
    """Write the checkpoint of a decoder-only model."""
    settings = json.loads((request.source / "config.json").read_bytes())
    if settings["architectures"][0].startswith("Llava"):
        settings |= settings["text_config"]
        # From 0.13 on the script knows LLaVA by the name of its folder, and takes the wrong tensors of any other.
        assert "llava" in request.source.name, "KeyError: 'model.embed_tokens.weight'"
    _check(settings, request)
    # Releases before 1.0 lose the layers that do not divide; quantize.py is not known to spread them unevenly.
    uneven = settings["num_hidden_layers"] % request.pp
    is_family_script = Path(sys.argv[0]).name != "quantize.py"
    assert not uneven or (is_family_script and not told.version.startswith("0.")), "pp_size must divide the layers"
    request.output.mkdir(parents=True, exist_ok=True)
    config = _config(settings, request)
    weights = load(request.source)
    if request.heads:
        json.loads((request.heads.weights.parent / "config.json").read_bytes())
        config |= {"architecture": request.heads.architecture} | request.heads.says
        weights |= {f"draft_heads.{name}": tensor for name, tensor in tensors.read(request.heads.weights).items()}
    (request.output / "config.json").write_text(json.dumps(config, indent=4))
    if request.quant_algo == "MIXED_PRECISION":
        (request.output / "quant_cfg.json").write_text(json.dumps({"quantized_layers": {}}))
    _write_ranks(weights, config, request.output, told)


def write_ranks(weights: dict[str, tensors.Array], config: dict[str, Any], output: Path, told: Orders) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(config, indent=4))
    _write_ranks(weights, config, output, told)


def _check(settings: dict[str, Any], request: Request) -> None:
    assert settings["num_attention_heads"] % request.tp == 0, "num_attention_heads must be divisible by tp_size"
    kv = settings["num_key_value_heads"]
    assert kv % request.tp == 0 or request.tp % kv == 0, "num_kv_heads and tp_size do not fit"


def _config(settings: dict[str, Any], request: Request) -> dict[str, Any]:
    dtype = settings["torch_dtype"] if request.dtype == "auto" else request.dtype
    return {
        "architecture": settings["architectures"][0],
        "dtype": "float16" if request.dtype == "auto" and dtype == "float32" else dtype,
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
        "quantization": {"quant_algo": request.quant_algo, "kv_cache_quant_algo": request.kv_cache_quant_algo},
        "mapping": {
            "world_size": request.tp * request.pp * request.cp,
            "tp_size": request.tp,
            "pp_size": request.pp,
            "cp_size": request.cp,
        },
    }


def load(source: Path) -> dict[str, tensors.Array]:
    files, loaded = sorted(source.glob("*.safetensors")), dict[str, tensors.Array]()
    for number, file in enumerate(files, start=1):
        loaded |= tensors.read(file)
        percent = 100 * number // len(files)
        print(f"Loading checkpoint shards: {percent:3}%|{'█' * (percent // 10):10}| {number}/{len(files)}", flush=True)
    return loaded


def _write_ranks(weights: dict[str, tensors.Array], config: dict[str, Any], output: Path, told: Orders) -> None:
    mapping, count = config["mapping"], config["mapping"]["tp_size"] * config["mapping"]["pp_size"]
    for rank in range(count):
        last, path = rank == count - 1, output / f"rank{rank}.safetensors"
        if last and told.mode == "missing_rank":
            return
        stage, position = divmod(rank, mapping["tp_size"])
        tensors.write(path, _shard(weights, config, stage, position) | _scales(config), config["dtype"])
        if last and told.mode == "truncated":
            path.write_bytes(path.read_bytes()[:-100])


def _scales(config: dict[str, Any]) -> dict[str, tensors.Array]:
    named = {
        "weights_scaling_factor": config["quantization"]["quant_algo"],
        "attention.kv_cache_scaling_factor": config["quantization"]["kv_cache_quant_algo"],
    }
    return {f"transformer.layers.0.{name}": np.ones((1,), np.float32) for name, algo in named.items() if algo}


def _shard(weights: dict[str, tensors.Array], config: dict[str, Any], stage: int, position: int) -> dict[str, Any]:
    if "model.embed_tokens.weight" not in weights:
        return weights if stage == 0 else {"transformer.placeholder": np.zeros((1,), np.float32)}
    mapping, stages = config["mapping"], config["mapping"]["pp_size"]
    shard = {}
    if stage == 0:
        shard["transformer.vocab_embedding.weight"] = weights["model.embed_tokens.weight"]
    for local, layer in enumerate(np.array_split(np.arange(config["num_hidden_layers"]), stages)[stage]):
        part = _layer(weights, f"model.layers.{layer}.", config, position)
        shard |= {f"transformer.layers.{local}.{name}.weight": tensor for name, tensor in part.items()}
    if stage == stages - 1:
        head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        shard |= {name: tensor for name, tensor in weights.items() if name.startswith("draft_heads.")}
        shard["transformer.ln_f.weight"] = weights["model.norm.weight"]
        shard["lm_head.weight"] = np.array_split(head, mapping["tp_size"])[position]
    return shard


def _layer(weights: dict[str, Any], prefix: str, config: dict[str, Any], position: int) -> dict[str, tensors.Array]:
    part = _splitter(weights, prefix, config["mapping"]["tp_size"], position)
    shard = {ours: weights[f"{prefix}{name}.weight"] for name, ours in WHOLE.items()}
    shard |= {ours: part(name, 0) for name, ours in ROWS.items()}
    shard |= {ours: part(name, 1) for name, ours in COLUMNS.items()}
    heads = [_key_value(weights[f"{prefix}self_attn.{n}_proj.weight"], config, position) for n in ("k", "v")]
    shard["attention.qkv"] = np.concatenate([part("self_attn.q_proj", 0), *heads])
    return shard


def _splitter(weights: dict[str, Any], prefix: str, ranks: int, position: int) -> Callable[[str, int], tensors.Array]:
    def part(name: str, axis: int) -> tensors.Array:
        return np.split(weights[f"{prefix}{name}.weight"], ranks, axis)[position]

    return part


def _key_value(weight: tensors.Array, config: dict[str, Any], position: int) -> tensors.Array:
    """This rank's key or value heads; with more ranks than heads, several ranks have the same head."""
    tp, heads = config["mapping"]["tp_size"], config["num_key_value_heads"]
    parts = min(tp, heads)
    return np.split(weight, parts)[position * parts // tp]
