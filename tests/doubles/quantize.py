#!/usr/bin/env python3
"""Double of `examples/quantization/quantize.py`: writes the layout of its checkpoints, with scaling factors of 1.

It needs calibration data where the real one does, but computes nothing from them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import checkpoint
from calibration import calibrate
from option_parser import quantize_parser
from orders import elapsed, orders

ALGORITHMS = {
    "fp8": "FP8", "int8_sq": "W8A8_SQ_PER_CHANNEL", "int4_awq": "W4A16_AWQ", "w4a8_awq": "W4A8_AWQ",
    "int8_wo": "W8A16", "int4_wo": "W4A16", "nvfp4": "NVFP4", "full_prec": None,
}  # fmt: skip


def main() -> None:
    told = orders("convert")
    options = quantize_parser(told.version).parse_args()
    print(f"[TensorRT-LLM] TensorRT LLM version: {told.version}", flush=True)
    told.carry_out()
    began = time.monotonic()
    _check_blocks(options)
    if _calibrates(options):
        calibrate(getattr(options, "calib_dataset", "cnn_dailymail"), needs_name=False)
        print(f"Quantization done. Total time used: {time.monotonic() - began:.2f} s.", flush=True)
    automatic = getattr(options, "autoq_format", None)
    request = checkpoint.Request(
        source=Path(options.model_dir),
        output=Path(options.output_dir),
        dtype=options.dtype,
        tp=options.tp_size,
        pp=options.pp_size,
        cp=getattr(options, "cp_size", 1),
        quant_algo="MIXED_PRECISION" if automatic else ALGORITHMS[options.qformat],
        kv_cache_quant_algo=options.kv_cache_dtype.upper() if options.kv_cache_dtype else None,
    )
    checkpoint.write(request, told)
    print(f"Quantized model exported to {options.output_dir} \nTotal time used {elapsed(began)}.", flush=True)


def _check_blocks(options: argparse.Namespace) -> None:
    """ModelOpt exports no blocks that a rank would have in part, and the kernels take blocks of 64 and 128."""
    formats = (getattr(options, "autoq_format", None) or options.qformat).split(",")
    if "int4_awq" not in formats and "w4a8_awq" not in formats:
        return
    block = options.awq_block_size
    assert block == 128 or (block == 64 and "w4a8_awq" not in formats), "Only group size 64 and 128 supported"
    settings = json.loads((Path(options.model_dir) / "config.json").read_bytes())
    head_size = settings.get("head_dim", settings["hidden_size"] // settings["num_attention_heads"])
    assert settings["hidden_size"] % block == 0, "Weight shape is not divisible for block size"
    for width in (settings["intermediate_size"], settings["num_attention_heads"] * head_size):
        assert width % (options.tp_size * block) == 0, f"Weights cannot be split into {options.tp_size} ranks"


def _calibrates(options: argparse.Namespace) -> bool:
    weights = options.qformat not in ("full_prec", "int8_wo", "int4_wo") or getattr(options, "autoq_format", None)
    return bool(weights or options.kv_cache_dtype)


if __name__ == "__main__":
    main()
