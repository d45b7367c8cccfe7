"""Convert: one dtype, one file of weights, and the files that a tokenizer needs. The model is never run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import environment as sandbox
from ..checkpoint import WEIGHTS, copy_along, make_empty, read_json, weight_files
from ..report import Failure, exit_status, progress

# A path of somebody's machine, code from the hub, and what the dtype was called before.
_DROPPED = ("_name_or_path", "auto_map", "torch_dtype")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="convert.py", description="Hugging Face checkpoint → checkpoint in one dtype")
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    given = parser.parse_args(argv)
    sandbox.settle()
    make_empty(given.output_dir)
    return exit_status(lambda: convert(given.model_dir, given.output_dir, given.dtype))


def convert(model: Path, output: Path, dtype: str) -> None:
    """Raises Failure: unsupported_model, unsupported_dtype or bad_checkpoint."""
    progress(0.0, "reading the model's configuration")
    config = read_json(model / "config.json")
    check_architecture(config)
    files = weight_files(model)
    from . import weights  # torch: only once the cheap checks have passed

    target = weights.DTYPES[dtype]
    progress(0.05, f"reading {len(files)} file{'s' if len(files) > 1 else ''} of weights")
    entries = weights.plan(files, target)
    if config.get("tie_word_embeddings"):
        entries = weights.without_tied_head(entries)
    weights.write(output / WEIGHTS, entries, target)
    kept = {name: value for name, value in config.items() if name not in _DROPPED}
    (output / "config.json").write_text(json.dumps(kept | {"dtype": dtype}, indent=2, sort_keys=True) + "\n")
    copy_along(model, output)
    progress(1.0, f"wrote {len(entries)} tensors as {dtype}")


def check_architecture(config: dict[str, Any]) -> None:
    """Raises Failure (unsupported_model) unless it names one causal language model, not quantised."""
    architectures = config.get("architectures") or []
    if len(architectures) != 1 or not str(architectures[0]).endswith("ForCausalLM"):
        raise Failure(
            "unsupported_model",
            f"config.json has architectures {architectures!r}: expected one that ends in ForCausalLM",
        )
    if method := (config.get("quantization_config") or {}).get("quant_method"):
        raise Failure("unsupported_model", f"the weights are quantised ({method}): give the model they were made from")
