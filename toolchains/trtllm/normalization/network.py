"""Rewrites of options that shape the network."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.experts import expert_sizes
from toolchains.trtllm.context.quantization import has_fp8_cache
from toolchains.trtllm.normalization.change import Change, idle_option, option_change
from toolchains.trtllm.releases.adapters import with_joined_modules


def name_variant(context: BuildContext) -> Iterator[Change]:
    """Tell the script which of its models it gets, where config.json says it and the caller does not."""
    if context.family is None or context.later_model is not None:
        return
    for option, variants in context.family.variants.items():
        if context.option_value(option) is not None:
            continue
        for variant in variants:
            if variant.matches(context.facts):
                reason = "config.json has the sizes of this model"
                yield option_change("model_variant", option, variant.value, reason)
                break


def unpack_input(context: BuildContext) -> Iterator[Change]:
    # Source: examples/multimodal/README.md of 0.10.0 to 0.12.0; 0.13 brought packed input to CogVLM.
    if context.family_name == "cogvlm":
        yield option_change("cogvlm_packing", "remove_input_padding", "disable", "CogVLM takes no packed input yet")


def type_fp8_network(context: BuildContext) -> Iterator[Change]:
    # An option before 0.11, always on from then (tensorrt_llm/commands/build.py @5955b8af, builder.py @9bd15f19).
    if context.spec.precision.quantization == "fp8" or has_fp8_cache(context):
        yield option_change("fp8_typed", "strongly_typed", True, "FP8 needs a strongly typed network")


def spell_out_logits(context: BuildContext) -> Iterator[Change]:
    """gather_all_token_logits is short for the other two options."""
    if not context.option_value("gather_all_token_logits"):
        return
    # Source: tensorrt_llm/commands/build.py @5955b8af @008b2b8d.
    reason = "gather_all_token_logits is short for the other two"
    yield option_change("all_logits", "gather_context_logits", True, reason)
    yield option_change("all_logits", "gather_generation_logits", True, reason)
    yield option_change("all_logits", "gather_all_token_logits", False, reason)


def reset_generation_logits(context: BuildContext) -> Iterator[Change]:
    # Since 1.2 (tensorrt_llm/builder.py of main, about Oct 2025).
    reason = "the network of this release does not depend on it; ask for these logits when the engine runs"
    yield from idle_option(context, "generation_logits", "gather_generation_logits", reason)


def join_adapted_modules(context: BuildContext) -> Iterator[Change]:
    """The builder adapts queries, keys and values together."""
    modules = context.option_value("lora_target_modules")
    # Without lora_plugin the option has no effect that the farm knows of.
    if isinstance(modules, list) and context.is_plugin_enabled("lora_plugin"):
        joined: list[JsonValue] = [*with_joined_modules([str(name) for name in modules])]
        yield option_change("lora_qkv", "lora_target_modules", joined, "queries, keys and values are adapted together")


def reset_expert_sizes(context: BuildContext) -> Iterator[Change]:
    """Sizes that the release derives by itself are unset; -1 in one of the two is resolved."""
    sizes = expert_sizes(context)
    if sizes is None:
        return
    # Both unset mean moe_tp_size = tp and moe_ep_size = 1 (tensorrt_llm/mapping.py @aaacc9bd).
    has_experts = bool(context.facts.num_experts)
    is_derived = not has_experts or sizes == (context.parallelism.tp, 1)
    reason = "what the release derives by itself"
    if not has_experts:
        reason = "the model has no experts"
    for name, size in zip(("moe_tp_size", "moe_ep_size"), sizes, strict=True):
        yield option_change("experts_default", name, -1 if is_derived else size, reason)
