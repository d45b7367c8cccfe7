"""Check that the model can be divided among the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from enginefarm.contract.model.facts import ModelFacts, Stack
from toolchains.trtllm.checks.check import Check, comma_separated, divisors, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.experts import EXPERT_MODE, EXPERT_PARALLEL, expert_sizes

_UNPADDED = frozenset({"bloom", "falcon", "gptneox", "mpt"})  # families


def heads(context: BuildContext) -> Iterator[Problem]:
    counts = _counts_in_stacks(context, "num_attention_heads")
    kv_heads, tp = context.facts.num_key_value_heads, context.parallelism.tp
    # The attention layer asserts both (issues #2200, #2310 and #2198 of NVIDIA/TensorRT-LLM).
    undivided = [count for count in counts if count % tp]
    if undivided:
        detail = f"{undivided[0]} attention heads cannot be divided among {tp} ranks"
        yield _tensor_parallel_problem(context, "heads_tp", detail)
    # With more ranks than key/value heads, each head is duplicated, so that the ranks must divide among the heads.
    if kv_heads and kv_heads % tp and tp % kv_heads:
        detail = f"{kv_heads} key/value heads can be neither divided among nor duplicated over {tp} ranks"
        yield _tensor_parallel_problem(context, "kv_heads_tp", detail)


def _counts_in_stacks(context: BuildContext, field: str) -> list[int]:
    """The distinct values of a field, ascending: of encoder and decoder, or of the whole model if it has no encoder."""
    stacks: tuple[Stack | ModelFacts | None, ...] = (context.facts,)
    if context.is_encoder_decoder:
        stacks = (context.facts.encoder, context.facts.decoder)
    counts: set[int] = set()
    for stack in stacks:
        count = getattr(stack, field, None)
        # A stack or a number that config.json does not state breaks no rule.
        if count:
            counts.add(count)
    return sorted(counts)


def _tensor_parallel_problem(context: BuildContext, rule: str, detail: str) -> Problem:
    counts = _counts_in_stacks(context, "num_attention_heads")
    kv_heads = context.facts.num_key_value_heads or 1
    # Without stated counts the greatest common divisor is 0, and `divisors` lists none.
    candidates = divisors(math.gcd(*counts))
    legal = [tp for tp in candidates if kv_heads % tp == 0 or tp % kv_heads == 0]
    expected = None
    if legal:
        expected = f"tp may be {comma_separated(legal)}"
    tp = context.parallelism.tp
    return Problem(pointer="/parallelism/tp", code=rule, detail=detail, value=tp, expected=expected)


def layers(context: BuildContext) -> Iterator[Problem]:
    counts = _counts_in_stacks(context, "num_hidden_layers")
    pp = context.parallelism.pp
    undivided = [count for count in counts if count % pp]
    if undivided:
        expected = f"pp may be {comma_separated(divisors(math.gcd(*counts)))}"
        detail = f"{undivided[0]} layers do not divide into {pp} stages"
        # Before 1.0 each stage gets floor(layers / pp) layers, and the rest would be lost without an error (our reading
        # of tensorrt_llm/mapping.py @aaacc9bd).
        lost = f"{detail}, and the release may lose the rest silently"
        yield Problem(pointer="/parallelism/pp", code="pp_layers", detail=lost, value=pp, expected=expected)
        # Since then the scripts of families spread layers unevenly, and a test of NVIDIA's runs such an engine.
        if not _spreads_layers_unevenly(context):
            unknown = f"{detail}, and the program that makes this checkpoint is not known to spread them unevenly"
            yield Problem(
                pointer="/parallelism/pp", code="pp_layers_uneven", detail=unknown, value=pp, expected=expected
            )
    # The script asserts it (examples/phi/convert_checkpoint.py of 0.8.0, 0.12.0 and 0.14.0, and @567239fc).
    if pp > 1 and context.family_name == "phi":
        detail = "the script of Phi makes one stage"
        yield Problem(pointer="/parallelism/pp", code="phi_pp", detail=detail, value=pp, expected="pp may be 1")


def _spreads_layers_unevenly(context: BuildContext) -> bool:
    """True if a family's own script makes the checkpoint: quantize.py and draft heads leave the division to others."""
    conversion = context.conversion
    if conversion is None:
        return True  # no other program is known either; the precision is refused already
    is_own_script = conversion.script == context.release.script_for(context.facts.architecture)
    return is_own_script and conversion.draft_heads is None and not context.is_encoder_decoder


def experts(context: BuildContext) -> Iterator[Problem]:
    tp, cp = context.parallelism.tp, context.parallelism.cp
    sizes = expert_sizes(context)
    if sizes is None:
        moe_tp, moe_ep = context.option_value("moe_tp_size"), context.option_value("moe_ep_size")
        detail = f"moe_tp_size {moe_tp} × moe_ep_size {moe_ep} is not tp {tp}"
        expected = f"moe_tp_size × moe_ep_size = {tp}, or -1 for what follows from the other"
        yield _expert_parallel_problem("moe_tp_ep", detail, [moe_tp, moe_ep], expected)
        return
    _, expert_parallel = sizes
    count = context.facts.num_experts
    if count and count % expert_parallel:
        # Floor division again (ep_experts of tensorrt_llm/mapping.py @aaacc9bd @05ebebb2).
        detail = f"{count} experts do not divide into {expert_parallel} ranks, and the release would lose some silently"
        legal = [size for size in divisors(count) if tp % size == 0]
        if context.option_value(EXPERT_MODE) == EXPERT_PARALLEL:
            expected = f"2 (tensor parallelism), or tp {comma_separated(divisors(count))}"
            yield refused_option(context, "experts_ep", EXPERT_MODE, detail, expected)
        else:
            expected = f"moe_ep_size may be {comma_separated(legal)}"
            yield _expert_parallel_problem("experts_ep", detail, expert_parallel, expected)
    # Since 0.12 (tensorrt_llm/mapping.py @aaacc9bd).
    if cp > 1 and expert_parallel > 1:
        detail = f"expert parallelism ({expert_parallel}) and context parallelism ({cp}) exclude each other"
        yield _expert_parallel_problem("cp_moe", detail, expert_parallel, "moe_ep_size 1, or cp 1")


def _expert_parallel_problem(rule: str, detail: str, value: object, expected: str) -> Problem:
    return Problem(pointer="/options/moe_ep_size", code=rule, detail=detail, value=value, expected=expected)


def embedding(context: BuildContext) -> Iterator[Problem]:
    # These scripts assert it, and the others pad the vocabulary (examples/bloom, gptneox, mpt and opt of 0.8.0 to
    # 0.14.0, tensorrt_llm/models/falcon/convert.py; and @be178810).
    facts, tp = context.facts, context.parallelism.tp
    if context.family_name not in _UNPADDED or not facts.vocab_size or facts.vocab_size % tp == 0:
        return
    if context.option_value("use_parallel_embedding") and context.number("embedding_sharding_dim") == 0:
        detail = f"{facts.vocab_size} words of the vocabulary do not divide into {tp} ranks, and the script pads none"
        expected = "false, or embedding_sharding_dim 1"
        yield refused_option(context, "vocab_tp", "use_parallel_embedding", detail, expected)


def packed_input(context: BuildContext) -> Iterator[Problem]:
    # Since 0.16 (tensorrt_llm/models/modeling_utils.py @aaacc9bd).
    if context.parallelism.cp > 1 and not context.enabled("remove_input_padding"):
        detail = "context parallelism needs packed input"
        yield refused_option(context, "cp_packing", "remove_input_padding", detail, "enable")


CHECKS: tuple[Check, ...] = (heads, layers, experts, embedding, packed_input)
