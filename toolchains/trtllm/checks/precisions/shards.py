"""Check that quantized weights can be cut into the shards of tensor parallelism, and into blocks with a scale each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, divisors, either, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import auto_formats
from toolchains.trtllm.context.widths import split_widths
from toolchains.trtllm.releases.precision_recipe import MODELOPT_AWQ, quantization_of
from toolchains.trtllm.releases.rule_table import in_force

_BLOCK_OPTION = "awq_block_size"
# Blocks that the kernels have (cpp/.../fpA_intB_gemm_template.h @250d9c29 @42a7b092; issues #988 and #1547).
_BLOCK_SIZES, _W4A8_BLOCK_SIZES = (64, 128), (128,)
_AWQ = frozenset({"int4_awq", "w4a8_awq"})
# Rows of a tile of the weight-only kernels (cutlass_preprocessors.cpp; issue #1833).
_TILE = 64
_PLAIN_WEIGHT_ONLY = ("int8_wo", "int4_wo")
# What QServe packs together: a group, or a tile of 32 (qserve_pack_reorder_per_group of quantization/quantize.py).
_QSERVE_GROUP, _QSERVE_TILE = 128, 32
_GPTQ_GROUP = 128  # the default of --group_size, where the script does not read it from the model


def block_size(context: BuildContext) -> Iterator[Problem]:
    """The size that the caller chooses for AWQ."""
    block = context.option_value(_BLOCK_OPTION)
    if not isinstance(block, int):
        return
    if block not in _BLOCK_SIZES:
        detail = "the kernels for AWQ weights take no other blocks"
        yield refused_option(context, "awq_block", _BLOCK_OPTION, detail, either(_allowed_block_sizes(context)))
    elif block not in _allowed_block_sizes(context):
        detail = "the kernels for AWQ weights with FP8 activations take no other blocks"
        yield refused_option(context, "w4a8_block", _BLOCK_OPTION, detail, either(_allowed_block_sizes(context)))


def group_size(context: BuildContext) -> Iterator[Problem]:
    """The size that the weights of the model have already."""
    method = getattr(quantization_of(context.facts), "method", None)
    if method not in ("gptq", "awq") and not _has_modelopt_blocks(context):
        return
    sizes: tuple[int, ...] = _BLOCK_SIZES
    # The script takes the size from an option, not from the model, and the option's default is what the farm uses.
    if _has_modelopt_blocks(context) or in_force("gptq_shards", context.release.version):
        sizes = (_GPTQ_GROUP,)
    group = (context.facts.quantization_config or {}).get("group_size")
    # Without a conversion no program takes the weights at all: `checks.feasibility` reports that.
    if context.conversion is None or not isinstance(group, int) or group in sizes:
        return
    yield Problem(
        pointer="/model",
        code="group_size",
        detail=f"the model's weights have groups of {group}, and the release takes groups of {either(sizes)}",
        value=group,
        expected=f"weights in groups of {either(sizes)}",
        remedy="take such weights, or quantize the original model with int4_awq",
    )


def awq_shards(context: BuildContext) -> Iterator[Problem]:
    # ModelOpt refuses to export blocks that a rank would have in part (modelopt/torch/export/postprocess.py,
    # check_weight_shape_valid; issues #1636 and #2445 of NVIDIA/TensorRT-LLM). Weights that AutoAWQ or AutoGPTQ
    # quantized are padded instead (tensorrt_llm/quantization/layers.py @42a7b092), and those that ModelOpt quantized
    # before are not (postprocess_weight_only_groupwise of tensorrt_llm/quantization/functional.py of main, 2025).
    has_blocks = context.conversion is not None and (context.conversion.calibrates or _has_modelopt_blocks(context))
    if not has_blocks or not _AWQ & _formats(context) or context.is_encoder_decoder:
        return
    block = context.number(_BLOCK_OPTION, 128)
    # `block_size` reports another size; its shards decide nothing.
    if block not in _allowed_block_sizes(context):
        return
    hidden_size = context.facts.hidden_size
    if hidden_size and hidden_size % block:
        fitting = [size for size in _allowed_block_sizes(context) if hidden_size % size == 0]
        expected = "another quantization"
        if fitting:
            expected = f"{_BLOCK_OPTION} {either(fitting)}"
        detail = f"hidden_size {hidden_size} does not divide into blocks of {block}"
        yield refused_option(context, "awq_shards", _BLOCK_OPTION, detail, expected)
        return
    undivided = _undivided(context, block)
    if undivided is None:
        return
    remedies = []
    for size in _allowed_block_sizes(context):
        ranks = _fitting_ranks(context, size)
        if context.parallelism.tp in ranks:
            remedies.append(f"{_BLOCK_OPTION} {size}")
        elif ranks and size == block:
            remedies.append(f"tp {either(ranks)}")
        elif ranks:
            remedies.append(f"{_BLOCK_OPTION} {size} with tp {either(ranks)}")
    yield _shard_problem(context, "awq_shards", f"{undivided}, no multiple of {_BLOCK_OPTION} {block}", remedies)


def weight_only_shards(context: BuildContext) -> Iterator[Problem]:
    # 0.13 and later pad them, so data/rules.json ends this rule there (release-notes.md @001eaece; issue #1833).
    is_weight_only = context.spec.precision.quantization in _PLAIN_WEIGHT_ONLY
    if not is_weight_only or context.conversion is None or context.is_encoder_decoder:
        return
    undivided = _undivided(context, _TILE)
    if undivided:
        ranks = _fitting_ranks(context, _TILE)
        remedies = []
        if ranks:
            remedies.append(f"tp {either(ranks)}")
        detail = f"{undivided}, no multiple of {_TILE}, and the release does not pad weight-only weights"
        yield _shard_problem(context, "wo_shards", detail, remedies)


def gptq_shards(context: BuildContext) -> Iterator[Problem]:
    # Later releases pad them, so data/rules.json ends this rule there (tensorrt_llm/quantization/layers.py @42a7b092).
    if context.spec.precision.quantization != "int4_gptq" or context.conversion is None:
        return
    undivided = _undivided(context, _GPTQ_GROUP)
    if undivided is not None:
        ranks = _fitting_ranks(context, _GPTQ_GROUP)
        remedies = []
        if ranks:
            remedies.append(f"tp {either(ranks)}")
        yield _shard_problem(context, "gptq_shards", f"{undivided}, no multiple of {_GPTQ_GROUP}", remedies)


def qserve_shards(context: BuildContext) -> Iterator[Problem]:
    # load_weights_from_deepcompressor of models/llama/convert.py divides weights and scales, and repeats no KV head.
    if context.spec.precision.quantization != "w4a8_qserve" or context.conversion is None:
        return
    multiple = _QSERVE_TILE
    if context.option_value("per_group"):
        multiple = _QSERVE_GROUP
    kv_heads, tp = context.facts.num_key_value_heads or 1, context.parallelism.tp
    undivided = _undivided(context, multiple)
    if undivided is not None:
        detail = f"{undivided}, no multiple of {multiple}"
    elif kv_heads % tp:
        detail = f"the {kv_heads} KV heads do not divide among {tp} ranks, and the script repeats none"
    else:
        return
    ranks = [size for size in _fitting_ranks(context, multiple) if kv_heads % size == 0]
    remedies = []
    if ranks:
        remedies.append(f"tp {either(ranks)}")
    yield _shard_problem(context, "qserve_shards", detail, remedies)


def _has_modelopt_blocks(context: BuildContext) -> bool:
    """True if ModelOpt quantized the model to AWQ already."""
    model_quantization = quantization_of(context.facts)
    return model_quantization is not None and model_quantization.algorithm == MODELOPT_AWQ


def _allowed_block_sizes(context: BuildContext) -> tuple[int, ...]:
    """The sizes of blocks that the kernels of this precision take."""
    if "w4a8_awq" in _formats(context) or _has_modelopt_blocks(context):
        return _W4A8_BLOCK_SIZES
    return _BLOCK_SIZES


def _formats(context: BuildContext) -> frozenset[str]:
    """The quantizations that layers of this build may get."""
    return frozenset({str(context.spec.precision.quantization), *auto_formats(context)})


def _undivided(context: BuildContext, multiple: int) -> str | None:
    """In words, the first width whose shard is no multiple of this; None if every shard is."""
    for name, (width, ranks) in split_widths(context).items():
        if width % (ranks * multiple):
            share = width / ranks
            return f"{name} {width} over {ranks} ranks is {share:g}"
    return None


def _fitting_ranks(context: BuildContext, multiple: int) -> list[int]:
    """The sizes of tensor parallelism whose shards are multiples of this, and that the heads allow too."""
    heads, kv_heads = context.facts.num_attention_heads, context.facts.num_key_value_heads or 1
    fitting = []
    for tp in divisors(heads or context.parallelism.tp):
        parallelism = context.parallelism.model_copy(update={"tp": tp})
        changed = replace(context, spec=context.spec.model_copy(update={"parallelism": parallelism}))
        if (kv_heads % tp == 0 or tp % kv_heads == 0) and _undivided(changed, multiple) is None:
            fitting.append(tp)
    return fitting


def _shard_problem(context: BuildContext, rule: str, detail: str, remedies: list[str]) -> Problem:
    if context.parallelism.tp > 1:
        remedies.append("pp in place of tp")
    return Problem(
        pointer="/parallelism/tp",
        code=rule,
        detail=detail,
        value=context.parallelism.tp,
        expected=", or ".join(remedies) or "another quantization",
    )


CHECKS: tuple[Check, ...] = (block_size, group_size, awq_shards, weight_only_shards, gptq_shards, qserve_shards)
