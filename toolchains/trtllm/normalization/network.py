"""What becomes of options that shape the network."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from toolchains.trtllm.context import adapters
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.experts import expert_sizes
from toolchains.trtllm.context.quantization import has_fp8_cache
from toolchains.trtllm.normalization.change import Change, idle, option


def fp8_typed(context: BuildContext) -> Iterator[Change]:
    if context.spec.precision.quantization == "fp8" or has_fp8_cache(context):
        yield option("fp8_typed", "strongly_typed", True, "FP8 needs a strongly typed network")


def logits(context: BuildContext) -> Iterator[Change]:
    if context.option_value("gather_all_token_logits"):
        for name, value in (
            ("gather_context_logits", True),
            ("gather_generation_logits", True),
            ("gather_all_token_logits", False),
        ):
            yield option("all_logits", name, value, "gather_all_token_logits is short for the other two")


def logits_of_generation(context: BuildContext) -> Iterator[Change]:
    """Runs after `logits`, which may set it."""
    why = "the network of this release does not depend on it; ask for these logits when the engine runs"
    yield from idle(context, "generation_logits", "gather_generation_logits", why)


def adapted_modules(context: BuildContext) -> Iterator[Change]:
    """Without lora_plugin the option has no effect that the farm knows of."""
    asked = context.option_value("lora_target_modules")
    if isinstance(asked, list) and context.option_value("lora_plugin") not in (None, "disable"):
        names: list[JsonValue] = [*adapters.with_joined_modules([str(name) for name in asked])]
        yield option("lora_qkv", "lora_target_modules", names, "queries, keys and values are adapted together")


def experts(context: BuildContext) -> Iterator[Change]:
    sizes = expert_sizes(context)
    if sizes is None:
        return
    derived = not context.facts.num_experts or sizes == (context.parallelism.tp, 1)
    why = "what the release derives anyway" if context.facts.num_experts else "the model has no experts"
    for name, size in zip(("moe_tp_size", "moe_ep_size"), sizes, strict=True):
        yield option("experts_default", name, -1 if derived else size, why)
