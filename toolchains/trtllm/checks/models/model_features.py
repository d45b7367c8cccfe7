"""Check features of the model that config.json shows and that not every release has.

data/rules.json has the releases and the source of each rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, either
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import SMOOTH_QUANT
from toolchains.trtllm.context.widths import head_size
from toolchains.trtllm.releases.rule_table import rules

# Head sizes of the attention kernel of the decoding phase (decoderMaskedMultiheadAttention.cu @250d9c29 @42a7b092).
# One of them came with 0.9.
_HEAD_SIZES = (32, 48, 64, 80, 96, 104, 112, 128, 144, 160, 192, 224, 256)
_FROM_09_ON = 104
# Families whose attention reads rope_scaling of config.json. Phi and DeepSeek-V2 read it in code of their own.
_LLAMA = frozenset({"llama", "internlm", "skywork"})  # of one script
_QWEN = frozenset({"qwen"})
_READ_ROPE_SCALING = _LLAMA | {"qwen", "internlm2", "mllama", "nemotron_nas"}


class _RopeTypes(NamedTuple):
    """What `RotaryScalingType` of tensorrt_llm/functional.py knows in the releases of one rule."""

    rule: str
    known: tuple[str, ...]
    reads_both_names: bool = True  # `type` and `rope_type`


_ROPE_TYPES = (
    _RopeTypes("rope_type_012", ("linear", "dynamic"), reads_both_names=False),
    _RopeTypes("rope_type_015", ("linear", "dynamic", "longrope", "llama3")),
    _RopeTypes("rope_type_016", ("linear", "dynamic", "longrope", "llama3", "yarn")),
    _RopeTypes("rope_type", ("linear", "dynamic", "longrope", "llama3", "yarn", "mrope")),
)


class _Tied(NamedTuple):
    """A script that asks for the weights of an lm_head in the releases of one rule."""

    rule: str
    families: frozenset[str]
    mended_in: str
    in_smooth_quant: bool = False  # in the conversion to SmoothQuant alone
    can_be_shared: bool = False  # unless use_embedding_sharing is set


_TIED = (
    _Tied("tied_llama_014", _LLAMA, "0.15.0"),
    _Tied("tied_llama", _LLAMA, "0.15.0", can_be_shared=True),
    _Tied("tied_llama_sq", _LLAMA, "0.19.0", in_smooth_quant=True),
    _Tied("tied_qwen_011", _QWEN, "0.11.0"),
    _Tied("tied_qwen_014", _QWEN, "0.15.0"),
    _Tied("tied_qwen", _QWEN, "0.15.0", can_be_shared=True),
    _Tied("tied_qwen_sq", _QWEN, "0.15.0", in_smooth_quant=True),
)


def rope_type(context: BuildContext) -> Iterator[Problem]:
    scaling = context.facts.rope_scaling
    if not scaling or context.family_name not in _READ_ROPE_SCALING:
        return
    # transformers renamed `type` to `rope_type`.
    name = scaling.get("type", scaling.get("rope_type"))
    # The first release that knows the type; the oldest ones read the old name alone (issues #2052 and #2105).
    knowing = [rules()[types.rule].since for types in _ROPE_TYPES if name in types.known and types.reads_both_names]
    for types in _ROPE_TYPES:
        has_its_name = "type" in scaling or types.reads_both_names
        if has_its_name and name in types.known:
            continue
        yield _feature_problem(
            context,
            types.rule,
            f"its rope_scaling has the type {name}, and the programs know {either(types.known)}",
            str(name),
            f"a model without rope_scaling, or with one of type {either(types.known)}",
            knowing[0] if knowing else None,
        )


def tied_embeddings(context: BuildContext) -> Iterator[Problem]:
    """Models without an lm_head of their own: the scripts of some releases ask for its weights."""
    if context.facts.tie_word_embeddings is not True or context.conversion is None:
        return
    # quantize.py loads the model with transformers, which ties the weights itself (issue #2320).
    if context.conversion.script == context.release.quantize:
        return
    # From 0.14 on the loader shares the embedding if it is told to (pull request #2232 of NVIDIA/TensorRT-LLM).
    is_shared = bool(context.option_value("use_embedding_sharing"))
    is_smooth = context.spec.precision.quantization == SMOOTH_QUANT
    for tied in _TIED:
        is_affected = context.family_name in tied.families and (is_smooth or not tied.in_smooth_quant)
        if not is_affected or (is_shared and tied.can_be_shared):
            continue
        expected = ["a model with an lm_head of its own"]
        if tied.can_be_shared and "use_embedding_sharing" in context.available_options:
            expected.append("use_embedding_sharing true")
        if tied.in_smooth_quant:
            expected.append("another quantization than int8_sq")
        detail = "it has no lm_head of its own (tie_word_embeddings), and the conversion asks for one"
        yield _feature_problem(context, tied.rule, detail, True, ", or ".join(expected), tied.mended_in)


def head_sizes(context: BuildContext) -> Iterator[Problem]:
    facts = context.facts
    size = head_size(context)
    # Multi-head latent attention and the two engines of an encoder-decoder have sizes of their own.
    if size is None or facts.kv_lora_rank or context.is_encoder_decoder or facts.hidden_size is None:
        return
    if context.family_name in _LLAMA and size * (facts.num_attention_heads or 0) != facts.hidden_size:
        detail = f"its heads have {size} elements, and the release takes hidden_size / num_attention_heads"
        yield _feature_problem(context, "head_dim", detail, size, "a model without head_dim", rules()["head_dim"].until)
    uses_plugin = context.is_plugin_enabled("gpt_attention_plugin")
    if uses_plugin and context.family_name != "mamba" and size not in _HEAD_SIZES:
        detail = f"its heads have {size} elements, for which there is no attention kernel"
        yield _feature_problem(context, "head_size", detail, size, f"heads of {either(_HEAD_SIZES)} elements")
    if uses_plugin and size == _FROM_09_ON:
        detail = f"its heads have {size} elements, for which there is no attention kernel yet"
        expected = "heads of another size"
        yield _feature_problem(context, "head_size_09", detail, size, expected, rules()["head_size_09"].until)


def latent_attention(context: BuildContext) -> Iterator[Problem]:
    facts = context.facts
    if context.family_name == "deepseek_v2" and facts.kv_lora_rank and facts.q_lora_rank is None:
        detail = "it has no q_lora_rank (as DeepSeek-V2-Lite), and the conversion of the release needs one"
        yield _feature_problem(context, "mla_q_rank", detail, None, "DeepSeek-V2", rules()["mla_q_rank"].until)


def _feature_problem(
    context: BuildContext, rule: str, detail: str, value: object, expected: str, mended_in: str | None = None
) -> Problem:
    """
    Args:
        mended_in: the first release that takes the model; None if none is known.
    """
    remedy = None
    if mended_in is not None:
        remedy = f"build with TensorRT-LLM {mended_in} or newer"
    return Problem(
        pointer="/model",
        code=rule,
        detail=f"TensorRT-LLM {context.release.version} does not take this model: {detail}",
        value=value,
        expected=expected,
        remedy=remedy,
    )


CHECKS: tuple[Check, ...] = (rope_type, tied_embeddings, head_sizes, latent_attention)
