"""What the programs of a release make of a value without refusing it. Applied before the key, so that two
requests which give one engine have one key. Each is named as in `data/rules.json`.

Order matters: options settle first, because the token limits follow from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from enginefarm.spec import Limits
from toolchains.trtllm.case import Case, Section
from toolchains.trtllm.way import ready, word_for


@dataclass(frozen=True)
class Change:
    """A value that counts instead of the one given, and why."""

    rule: str
    section: Section
    name: str
    value: JsonValue
    why: str


Rewrite = Callable[[Case], Iterator[Change]]


def quantized_model(case: Case) -> Iterator[Change]:
    """Runs before all others: the precision decides which options there are."""
    found = ready(case.facts)
    if found and case.spec.precision.quantization is None and (word := word_for(found)):
        why = "the model is quantised already, and the real script lets that win over every flag"
        yield Change("model_precision", "precision", "quantization", word, why)


def dtype(case: Case) -> Iterator[Change]:
    if case.dtype != "auto" or case.facts.dtype is None:
        return
    found = case.facts.dtype
    why = "the model's own dtype"
    if found == "float32":
        found, why = "float16", "auto turns a float32 model into float16; write float32 to keep it"
    yield Change("dtype_auto", "precision", "dtype", found, why)


def plugin_dtypes(case: Case) -> Iterator[Change]:
    named = (name for name, value in case.spec.options.items() if value == case.dtype and name in case.known)
    for name in named:
        if "auto" in case.known[name].choices:
            yield Change("plugin_dtype", "options", name, "auto", "auto means the model's dtype")


def idle_options(case: Case) -> Iterator[Change]:
    """An option that cannot act, whatever its value, is left at its default."""
    for rule, name, idle, why in (
        ("nccl", "nccl_plugin", True, "the builder decides it by the number of ranks"),
        ("fmha_off", "use_paged_context_fmha", not case.enabled("context_fmha"), "context_fmha is disabled"),
        ("fp8_fmha_plain", "use_fp8_context_fmha", case.spec.precision.quantization is None, "no weights are FP8"),
        ("reduce_fusion", "reduce_fusion", case.parallelism.tp == 1, "it joins tensor parallel ranks, and tp is 1"),
        ("norm_quant_fusion", "norm_quant_fusion", case.spec.precision.quantization != "nvfp4", "no weights are NVFP4"),
    ):
        if idle and name in case.known:
            yield Change(rule, "options", name, case.known[name].default, f"no effect: {why}")


def user_buffer(case: Case) -> Iterator[Change]:
    if not case.enabled("reduce_fusion"):
        yield Change("reduce_fusion", "options", "user_buffer", "disable", "it needs reduce_fusion")


def all_logits(case: Case) -> Iterator[Change]:
    if case.option("gather_all_token_logits"):
        for name, value in (
            ("gather_context_logits", True),
            ("gather_generation_logits", True),
            ("gather_all_token_logits", False),
        ):
            yield Change("all_logits", "options", name, value, "gather_all_token_logits is short for the other two")


def experts(case: Case) -> Iterator[Change]:
    sizes = expert_sizes(case)
    if sizes is None:
        return
    derived = not case.facts.num_experts or sizes == (case.parallelism.tp, 1)
    why = "what the release derives anyway" if case.facts.num_experts else "the model has no experts"
    for name, size in zip(("moe_tp_size", "moe_ep_size"), sizes, strict=True):
        yield Change("experts_default", "options", name, -1 if derived else size, why)


def expert_sizes(case: Case) -> tuple[int, int] | None:
    """(tensor parallel, expert parallel) inside experts, -1 resolved; None if they do not multiply to tp."""
    tp, inner, outer = case.parallelism.tp, case.number("moe_tp_size", -1), case.number("moe_ep_size", -1)
    if inner == -1:
        inner = tp if outer == -1 else tp // max(outer, 1)
    if outer == -1:
        outer = tp // max(inner, 1)
    return (inner, outer) if inner * outer == tp else None


def max_num_tokens(case: Case) -> Iterator[Change]:
    limits, full = case.limits, case.limits.max_batch_size * case.limits.seq_len
    tokens, rule, why = limits.max_num_tokens, "tokens_default", "the release's default"
    if tokens is None:
        tokens = _default_tokens(case)
    if not case.enabled("remove_input_padding"):
        tokens, rule, why = full, "no_packing", "without remove_input_padding it is max_batch_size × max_seq_len"
    if tokens is None:
        return
    if tokens > full:
        tokens, rule, why = full, "tokens_clip", "more than max_batch_size × max_seq_len can never be in flight"
    if case.enabled("context_fmha"):
        if tokens < (block := case.number("tokens_per_block")):
            tokens, rule, why = block, "tokens_block", "at least tokens_per_block; enable chunked context to serve it"
    elif tokens < limits.max_input_len:
        tokens, rule, why = limits.max_input_len, "tokens_low", "at least max_input_len without context_fmha"
    yield Change(rule, "limits", "max_num_tokens", tokens, why)


def opt_num_tokens(case: Case) -> Iterator[Change]:
    """Runs after `max_num_tokens`, which it follows."""
    limits = case.limits
    if not case.enabled("remove_input_padding"):
        yield Change("no_packing", "limits", "opt_num_tokens", None, "it is ignored without remove_input_padding")
    elif limits.opt_num_tokens is not None:
        tokens = min(limits.opt_num_tokens, limits.max_num_tokens or limits.opt_num_tokens)
        yield Change("opt_clip", "limits", "opt_num_tokens", tokens, "no more than max_num_tokens")
    elif not case.enabled("multiple_profiles"):
        why = "max_batch_size × max_beam_width, no more than max_num_tokens"
        yield Change("opt_default", "limits", "opt_num_tokens", derived_opt_num_tokens(limits), why)


def derived_opt_num_tokens(limits: Limits) -> int:
    """What the builder takes when opt_num_tokens is left out; `limits` has its max_num_tokens."""
    sequences = limits.max_batch_size * limits.max_beam_width
    return min(sequences, limits.max_num_tokens or sequences)


def _default_tokens(case: Case) -> int | None:
    """None before 0.11, where the builder reckons it by itself."""
    default = case.release.build_table.by_name["max_num_tokens"].default
    return default if isinstance(default, int) else None


REWRITES: tuple[Rewrite, ...] = (
    dtype,
    plugin_dtypes,
    idle_options,
    user_buffer,
    all_logits,
    experts,
    max_num_tokens,
    opt_num_tokens,
)
