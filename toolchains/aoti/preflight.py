"""Refuse specs that AOTInductor cannot build, before a worker claims them."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec

# Decoder-only models whose attention uses transformers' static cache.
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

# Of tensors that the conversion casts or copies; `programs/aoti_engine/convert/weights.py` has the same.
WEIGHT_DTYPES = ("BF16", "BOOL", "F16", "F32", "F64", "I16", "I32", "I64", "I8", "U8")

# This version has no setting for the instruction set, so its CPU engines would run only on the machine of the build.
GPU_ONLY = "2.11.0"


def preflight(spec: BuildSpec, facts: ModelFacts, platform: Platform) -> list[Problem]:
    """Every reason why the spec cannot be built."""
    problems = []
    if spec.toolchain.version == GPU_ONLY and platform.device == "cpu":
        problems.append(
            Problem(
                pointer="/toolchain/version", code="gpu_only", detail=f"aoti {GPU_ONLY} builds for GPUs only",
                value=GPU_ONLY, expected="2.13.0 for a CPU engine", remedy="leave the version out, or name 2.13.0",
            )
        )  # fmt: skip
    problems += [*model_problems(spec, facts), *unsupported_fields(spec)]
    # Beyond these positions a model computes, but writes nonsense.
    positions = facts.max_position_embeddings
    if positions is not None and spec.limits.seq_len > positions:
        problems.append(
            Problem(
                pointer="/limits/max_seq_len", code="beyond_positions",
                detail=f"{spec.limits.seq_len} tokens, but the model was trained for {positions} positions",
                value=spec.limits.seq_len, expected=f"max_input_len + max_output_len ≤ {positions}",
                remedy="ask for shorter input or output",
            )
        )  # fmt: skip
    return problems


def model_problems(spec: BuildSpec, facts: ModelFacts) -> Iterator[Problem]:
    """Architectures and kinds of weights that aoti cannot load."""
    if facts.architecture not in ARCHITECTURES:
        yield Problem(
            pointer="/model", code="unsupported_architecture", detail=f"aoti does not build {facts.architecture}",
            value=spec.model, expected=", ".join(ARCHITECTURES), remedy="choose one of these, or another toolchain",
        )  # fmt: skip
    if not facts.has_safetensors:
        yield Problem(
            pointer="/model", code="no_safetensors", detail="the weights are pickled, and aoti loads no pickles",
            value=spec.model, expected="safetensors weights", remedy="save it with safe_serialization=True",
        )  # fmt: skip
    # Engines read prompts with the `tokenizers` library, which reads this file only. A conversion could write it, but
    # needs a library for each kind of vocabulary.
    if facts.lacks_tokenizer_json:
        yield Problem(
            pointer="/model", code="no_tokenizer_json", detail="the model has a vocabulary, but no tokenizer.json",
            value=spec.model, expected="a tokenizer.json, as the `tokenizers` library reads it",
            remedy="write it in the model's folder, with transformers and sentencepiece installed: python -c "
            "\"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('.').save_pretrained('.')\"",
        )  # fmt: skip
    unsupported = sorted(set(facts.weight_dtypes) - set(WEIGHT_DTYPES))
    if unsupported and facts.quantization_config is None:
        yield Problem(
            pointer="/model", code="weight_dtype", detail=f"the weights have tensors of dtype {', '.join(unsupported)}",
            value=spec.model, expected="plain float32, float16 or bfloat16 weights",
            remedy="give the model that these weights were made from",
        )  # fmt: skip
    if facts.quantization_config is not None:
        yield Problem(
            pointer="/model", code="quantized_checkpoint", detail="the checkpoint is already quantized",
            value=spec.model, expected="plain float32, float16 or bfloat16 weights",
            remedy="give the model that it was quantized from",
        )  # fmt: skip


def unsupported_fields(spec: BuildSpec) -> Iterator[Problem]:
    """Fields of a spec for which aoti supports one value only, and options, of which it has none."""
    # pointer → (the spec's value, the only value that aoti supports)
    fields = {
        "/precision/quantization": (spec.precision.quantization, None),
        "/precision/kv_cache": (spec.precision.kv_cache, None),
        "/calibration": (spec.calibration, None),
        "/parallelism/tp": (spec.parallelism.tp, 1),
        "/parallelism/pp": (spec.parallelism.pp, 1),
        "/parallelism/cp": (spec.parallelism.cp, 1),
        "/limits/max_beam_width": (spec.limits.max_beam_width, 1),
        "/limits/max_num_tokens": (spec.limits.max_num_tokens, None),
        "/limits/opt_num_tokens": (spec.limits.opt_num_tokens, None),
    }
    for pointer, (value, supported) in fields.items():
        if value != supported:
            yield Problem(
                pointer=pointer, code="unsupported",
                detail=f"{pointer.rpartition('/')[2]} is {value}, and aoti supports only {supported}",
                value=value, expected=str(supported), remedy="leave the field out, or choose another toolchain",
            )  # fmt: skip
    for name, option_value in spec.options.items():
        yield Problem(
            pointer=f"/options/{name}", code="unknown_option", detail=f"aoti has no option {name!r}",
            value=option_value, expected="no options", remedy="remove it",
        )  # fmt: skip
