#!/usr/bin/env python3
"""Double of a family's conversion script: reads a Hugging Face checkpoint, writes a TensorRT-LLM checkpoint.

As in the examples, the folder of the script decides the family. Options, parallelism, draft heads and calibration data
are checked as the real scripts do; weights are only sharded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoint
import encoder_decoder
import tensors
from calibration import calibrate
from option_parser import convert_parser, family_of
from orders import elapsed, log, orders

DRAFTED = {"LlamaForCausalLM": "ReDrafterForLLaMALM", "Qwen2ForCausalLM": "ReDrafterForQWenLM"}


def main() -> None:
    told = orders("convert")
    family = family_of(told.version, Path(sys.argv[0]).parent.name)
    options = convert_parser(told.version, family).parse_args()
    if family == "explicit_draft_tokens":
        told.carry_out()
        _add_drafter(options)
        return
    print(f"[TensorRT-LLM] TensorRT LLM version: {told.version}", flush=True)
    told.carry_out()
    began = time.monotonic()
    if family == "whisper":
        import whisper  # imports torch, which takes longer than all else that a double does

        whisper.write(options, told)
        print(f"Total time of converting checkpoints: {elapsed(began)}", flush=True)
        return
    _check_experts(options)
    _check_model_name(options)
    request = _request(options)
    _check_model(options, told.version, request)
    smooth = _first(options, "smoothquant", "use_smooth_quant_plugin")
    if smooth is not None or request.kv_cache_quant_algo == "INT8":
        by_name = "lambada" if family in ("gpt", "bloom") else "ccdv/cnn_dailymail"
        calibrate(getattr(options, "calib_dataset", by_name))
        log(f"calibrated, alpha {smooth}")
    if family in ("t5", "bart"):
        if options.use_weight_only:
            told.lay_out_weights()
        if told.version.startswith("0.10."):
            request = replace(request, output=request.output / f"tp{request.tp}" / f"pp{request.pp}")
        implicit = getattr(options, "use_implicit_relative_attention", False)
        encoder_decoder.write(request, options.model_type, implicit, told)
        print(
            f"{time.strftime('%F %T')},123 __main__ [INFO] Spend {elapsed(began)}.123456 (h:m:s) to convert the model"
        )
        return
    if request.quant_algo is not None and request.quant_algo.startswith(("W8A16", "W4A16")):
        told.lay_out_weights()
    checkpoint.write(request, told)
    log(f"Weights loaded. Total time: {elapsed(began)}")
    print(f"Total time of converting checkpoints: {elapsed(began)}", flush=True)


def _check_model_name(options: argparse.Namespace) -> None:
    """The scripts take a model's version from an option, or from the name of its directory."""
    for option, names in {"gpt_variant": ("gpt2", "starcoder", "santacoder"), "chatglm_version": ("glm",)}.items():
        if option not in options or getattr(options, option) is not None:
            continue
        directory = str(options.model_dir)
        assert any(name in directory for name in names), f"Inferring {option} from path..."


def _add_drafter(options: argparse.Namespace) -> None:
    """Add a drafter to each rank of a checkpoint that the base model's own script wrote."""
    base, drafter, output = (
        Path(place) for place in (options.base_model_checkpoint_dir, options.drafter_model_dir, options.output_dir)
    )
    config, ranks = json.loads((base / "config.json").read_bytes()), sorted(base.glob("rank*.safetensors"))
    assert config["mapping"]["tp_size"] == len(ranks) == options.tp_size
    json.loads((drafter / "config.json").read_bytes())
    config["base_model_architecture"] = config["architecture"]
    config["architecture"] = DRAFTED[config["architecture"]]
    config |= {name: getattr(options, name) for name in ("redrafter_num_beams", "redrafter_draft_len_per_beam")}
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(config))
    heads = tensors.read(drafter / "model.safetensors")
    for rank in ranks:
        drafted = {f"drafter.{name}": tensor for name, tensor in heads.items()}
        tensors.write(output / rank.name, tensors.read(rank) | drafted, options.dtype)


def _first(options: argparse.Namespace, *names: str) -> object:
    return next((getattr(options, name) for name in names if getattr(options, name, None) is not None), None)


def _check_experts(options: argparse.Namespace) -> None:
    inner, outer = getattr(options, "moe_tp_size", -1), getattr(options, "moe_ep_size", -1)
    assert (inner, outer) == (-1, -1) or inner * outer == options.tp_size, "moe_tp_size * moe_ep_size != tp_size"


def _check_model(options: argparse.Namespace, version: str, request: checkpoint.Request) -> None:
    """What the scripts of a release do not find in a model."""
    settings = json.loads((request.source / "config.json").read_bytes())
    release = tuple(int(part) for part in version.split(".")[:2])
    if Path(sys.argv[0]).parent.name == "llama":
        scaling = settings.get("rope_scaling")
        assert release >= (0, 12) or not scaling or scaling["type"] in ("linear", "dynamic"), "rope_scaling"
        shared = release == (0, 14) and getattr(options, "use_embedding_sharing", False)
        if settings.get("tie_word_embeddings") and (0, 9) <= release < (0, 15) and not shared:
            raise KeyError("lm_head.weight")
    settings |= settings.get("text_config", {})
    if request.quant_algo in ("W8A16", "W4A16") and release < (0, 13):
        rows = settings["intermediate_size"] // request.tp
        assert rows % 64 == 0, "num_rows % rows_per_tile == 0"


def _request(options: argparse.Namespace) -> checkpoint.Request:
    return checkpoint.Request(
        source=Path(options.model_dir),
        output=Path(str(_first(options, "output_model_dir", "output_dir"))),
        dtype=options.dtype,
        tp=getattr(options, "tp_size", getattr(options, "world_size", 1)),
        pp=getattr(options, "pp_size", 1),
        cp=getattr(options, "cp_size", 1),
        quant_algo=_algorithm(options),
        kv_cache_quant_algo=_cache_algorithm(options),
        heads=_heads(options),
    )


def _heads(options: argparse.Namespace) -> checkpoint.Heads | None:
    """The draft heads of the second model. Without one the script converts the base model, as the real ones do."""
    if getattr(options, "medusa_model_dir", None) is not None:
        return checkpoint.Heads(
            architecture="MedusaForCausalLM",
            weights=Path(options.medusa_model_dir) / "medusa_lm_head.safetensors",
            says={
                "num_medusa_heads": options.num_medusa_heads,
                "num_medusa_layers": options.num_medusa_layers,
                "max_draft_len": options.max_medusa_token_len,
            },
        )
    if getattr(options, "eagle_model_dir", None) is not None:
        assert options.pp_size == 1, "Pipeline parallelism is not supported in EAGLE yet."
        (weights,) = Path(options.eagle_model_dir).glob("*.safetensors")
        says = ("max_draft_len", "num_eagle_layers", "max_non_leaves_per_layer")
        return checkpoint.Heads("EagleForCausalLM", weights, {name: getattr(options, name) for name in says})
    return None


def _cache_algorithm(options: argparse.Namespace) -> str | None:
    if getattr(options, "int8_kv_cache", False) or getattr(options, "calibrate_kv_cache", False):
        return "INT8"
    follows_model = "gpt_variant" in options and _modelopt(options).get("kv_cache_quant_algo") == "FP8"
    return "FP8" if getattr(options, "fp8_kv_cache", False) or follows_model else None


def _modelopt(options: argparse.Namespace) -> dict[str, Any]:
    """The quantization that ModelOpt's own file states; empty without the file, whatever config.json says."""
    path = Path(options.model_dir) / "hf_quant_config.json"
    return json.loads(path.read_bytes())["quantization"] if path.is_file() else {}


def _algorithm(options: argparse.Namespace) -> str | None:
    for flag, algorithm in {"use_fp8": "FP8", "use_nvfp4": "NVFP4"}.items():
        if getattr(options, flag, False):
            # The scripts load scales, and make none (issues #2602 and #10034).
            assert _modelopt(options)["quant_algo"] == algorithm, "'NoneType' object has no attribute 'to'"
            return algorithm
    if "gpt_variant" in options and _modelopt(options).get("quant_algo") == "FP8":
        return "FP8"
    config = json.loads((Path(options.model_dir) / "config.json").read_bytes())
    # The script of Llama converts AutoAWQ's weights to the form of GPTQ.
    if "use_qserve" in options and (config.get("quantization_config") or {}).get("quant_method") == "awq":
        return "W4A16_GPTQ"
    weight_only = {"int8": "W8A16", "int4": "W4A16", "int4_gptq": "W4A16_GPTQ", "int4_awq": "W4A16_AWQ"}
    if precision := getattr(options, "use_weight_only_with_precision", None):
        return weight_only[precision]
    if getattr(options, "use_weight_only", False):
        return weight_only.get(options.weight_only_precision, "W8A16_GPTQ")
    if getattr(options, "use_qserve", False):
        return _qserve(options)
    if getattr(options, "use_fp8_rowwise", False):
        return "FP8_PER_CHANNEL_PER_TOKEN"
    if _first(options, "smoothquant", "use_smooth_quant_plugin") is not None:
        return "W8A8_SQ_PER_CHANNEL" if options.per_channel else "W8A8_SQ_PER_TENSOR_PLUGIN"
    return None


def _qserve(options: argparse.Namespace) -> str:
    """Only the legacy path reads DeepCompressor's files, in float16."""
    assert os.environ.get("TRTLLM_DISABLE_UNIFIED_CONVERTER") is not None, "ModelWeightsLoader finds no safetensors"
    assert options.dtype == "float16", "Currently QServe only supports float16"
    for name in ("model.pt", "scale.pt"):
        (Path(options.quant_ckpt_path) / name).read_bytes()
    return "W4A8_QSERVE_PER_GROUP" if options.per_group else "W4A8_QSERVE_PER_CHANNEL"


if __name__ == "__main__":
    main()
