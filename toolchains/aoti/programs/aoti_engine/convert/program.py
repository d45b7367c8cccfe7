"""Convert: cast the weights to one dtype, write them as one file and copy the tokenizer. The model is never run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import environment
from ..checkpoint import WEIGHTS, copy_tokenizer, read_json, require_empty, require_tokenizer_json, weight_files
from ..report import Failure, exit_status, progress

# Entries of config.json that an engine must not inherit: a path of the author's machine, a reference to Python code on
# the hub, and the old name of `dtype`.
_DROPPED_ENTRIES = ("_name_or_path", "auto_map", "torch_dtype")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, convert, and return the exit status."""
    parser = argparse.ArgumentParser(prog="convert.py", description="Hugging Face checkpoint → checkpoint in one dtype")
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    arguments = parser.parse_args(argv)
    environment.prepare()
    require_empty(arguments.output_dir)
    return exit_status(lambda: convert(arguments.model_dir, arguments.output_dir, arguments.dtype))


def convert(model: Path, output: Path, dtype: str) -> None:
    """Write the model of the directory `model` to `output`, with weights of `dtype`.

    Raises:
        Failure: unsupported_model, unsupported_dtype or bad_checkpoint.
    """
    progress(0.0, "reading the model's configuration")
    config = read_json(model / "config.json")
    check_architecture(config)
    require_tokenizer_json(model)
    files = weight_files(model)

    # Importing torch takes seconds: refuse a bad model before.
    from . import weights

    target_dtype = weights.DTYPES[dtype]
    progress(0.05, f"reading {len(files)} file{'s' if len(files) > 1 else ''} of weights")
    entries = weights.list_tensors(files, target_dtype)
    if config.get("tie_word_embeddings"):
        entries = weights.without_tied_head(entries)
    weights.write(output / WEIGHTS, entries, target_dtype)

    for name in _DROPPED_ENTRIES:
        config.pop(name, None)
    config["dtype"] = dtype
    (output / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    copy_tokenizer(model, output)
    progress(1.0, f"wrote {len(entries)} tensors as {dtype}")


def check_architecture(config: dict[str, Any]) -> None:
    """Require one causal language model without quantization; `config` is the model's config.json.

    Raises:
        Failure: unsupported_model.
    """
    architectures = config.get("architectures") or []
    if len(architectures) != 1 or not str(architectures[0]).endswith("ForCausalLM"):
        raise Failure(
            "unsupported_model",
            f"config.json has architectures {architectures!r}: expected one that ends in ForCausalLM",
        )
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        raise Failure(
            "unsupported_model", f"the weights are quantized ({method}): give the model that they were quantized from"
        )
